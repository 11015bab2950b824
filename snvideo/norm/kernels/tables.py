"""The arithmetic of Switchable Normalization between its passes over x, with derivatives by hand.

A table holds one float64 value per sample and channel, (N, C), or per ghost group and channel,
(G, C); tables of means and variances come stacked, (2, N, C). They are small, and in float64 a mean
of any size costs no digit. The formulas are those of `snvideo.norm.reference`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from snvideo.norm.mixture import MixtureSpec, mixture_ratios
from snvideo.norm.reference import Parameters, group_moments, total_moments


class Moments(NamedTuple):
    """Means and biased variances of x, (2, ...), in float64."""

    center: Tensor
    """(N, C), instance means rounded to float32, or to the dtype of x if that is wider."""
    instance: Tensor
    """(2, N, C), over the positions of every sample and channel."""
    batch: Tensor | None
    """(2, G, C), over the samples of each of G equal groups; None: no such part."""


class Mixture(NamedTuple):
    """Mixed statistics, of (N, C) each: y = (x - center) * scale + shift."""

    scale: Tensor
    offset: Tensor
    """Distance of the mixed mean from the center."""
    rstd: Tensor
    """Reciprocal of the mixed standard deviation."""


class TableGradients(NamedTuple):
    """Gradients of the parameters and of the moments, in float64."""

    weight: Tensor
    """(C,), as that of the bias."""
    bias: Tensor
    logits: Tensor
    """(2, parts)"""
    instance: Tensor
    """(2, N, C), the batch part apart."""
    batch: Tensor | None
    """(2, G, C)"""


def batch_moments(instance: Tensor, groups: int) -> Tensor:
    """Batch moments (2, groups, C) of equal groups of samples with moments (2, N, C)."""
    mean, variance = instance.unflatten(1, (groups, -1))
    return torch.stack(total_moments(mean, variance, dim=1)).squeeze(2)


def mixture(
    moments: Moments, parameters: Parameters, spec: MixtureSpec, eps: float
) -> tuple[Mixture, Tensor]:
    """The mixture of the moments, and the shift (N, C).

    Args:
        moments: from the first pass over x.
        parameters: of the layer.
        spec: the parts that are mixed.
        eps: added to the variance.
    """
    weight, bias, *both_logits = parameters
    found = _parts(moments, spec)
    mean, variance = (
        sum(ratio * part[kind] for ratio, part in zip(ratios, found, strict=True))
        for kind, ratios in enumerate(_ratios(both_logits, spec))
    )
    offset, rstd = mean - moments.center, (variance + eps).rsqrt()
    scale = rstd if weight is None else rstd * weight
    shift = -offset * scale if bias is None else bias - offset * scale
    return Mixture(scale, offset, rstd), shift


def mixture_gradient(
    total: Tensor,
    dot: Tensor,
    moments: Moments,
    mixed: Mixture,
    parameters: Parameters,
    spec: MixtureSpec,
) -> TableGradients:
    """The gradients of `mixture` and of the affine map.

    Args:
        total, dot: (N, C), the sums over positions of dy and of dy * (x - center).
        moments, parameters, spec: as for `mixture`.
        mixed: from `mixture`.
    """
    (mean, _), batch, offset, rstd = *moments[1:], *mixed[1:]
    normed = (dot - offset * total) * rstd  # sum(dy * x_hat)
    scale = rstd if parameters.weight is None else rstd * parameters.weight
    # y = (x - m) * scale + bias and scale = weight / sqrt(v + eps)
    dmixed = torch.stack((-total * scale, -0.5 * normed * scale * rstd))
    ratios = torch.stack(_ratios(parameters[2:], spec))
    found = _parts(moments, spec)
    dratios = torch.stack([(dmixed * part).sum((1, 2)) for part in found], 1)
    along = (ratios * dratios).sum(1, keepdim=True)
    if spec.ratios == "softmax":
        dlogits = ratios * (dratios - along)
    else:
        logits = torch.stack(parameters[2:]).double()
        signs = torch.where(logits < 0, -1.0, 1.0)
        dlogits = signs * (dratios - along) / logits.abs().sum(1, keepdim=True)

    # Joint moments of k channels pass on 1/k of their gradient to each of them: m_j = mean(m) and
    # v_j = mean(v + (m - m_j)^2), whose derivative by m_j is zero.
    dinstance, dbatch = torch.zeros_like(dmixed), None
    for part, ratio, table in zip(spec.parts, ratios.unbind(1), found, strict=True):
        dpart = dmixed * ratio[:, None, None]
        if part == "instance":
            dinstance += dpart
        elif part == "batch" and batch is not None:
            dbatch = dpart.unflatten(1, (batch.shape[1], -1)).sum(2)
        else:
            groups = spec.channel_groups if part == "group" else 1
            dpart = dpart.unflatten(2, (groups, -1)).mean(3, keepdim=True)
            dpart = dpart.expand(-1, -1, -1, mean.shape[1] // groups).flatten(2)
            dinstance += dpart
            dinstance[0].addcmul_(mean - table[0], dpart[1], value=2)
    return TableGradients(normed.sum(0), total.sum(0), dlogits, dinstance, dbatch)


def _ratios(both_logits: Sequence[Tensor], spec: MixtureSpec) -> list[Tensor]:
    """Ratios (parts,) of means and of variances."""
    return [mixture_ratios(logits.double(), spec.ratios) for logits in both_logits]


def _parts(moments: Moments, spec: MixtureSpec) -> list[Tensor]:
    """Moments of every part of the mixture, each (2, N, C) or (2, N, 1)."""
    mean, variance = moments.instance
    found = []
    for part in spec.parts:
        if part == "instance":
            found.append(moments.instance)
        elif part == "group":
            found.append(torch.stack(group_moments(mean, variance, spec.channel_groups)))
        elif part == "layer":
            found.append(torch.stack(total_moments(mean, variance, dim=1)))
        elif moments.batch is not None:
            found.append(_per_sample(moments.batch, moments.instance.shape[1]))
    return found


def slope_and_level(
    moments: Moments, dinstance: Tensor, dbatch: Tensor | None, positions: int
) -> tuple[Tensor, Tensor]:
    """The moments' part of the gradient of x: dx = dy * scale + (x - center) * slope + level.

    As dv/dx = 2 (x - m) / L and dm/dx = 1 / L for the instance moments m, v over L positions.

    Args:
        moments: from the first pass over x.
        dinstance: (2, N, C) gradients of the instance moments, the batch part apart.
        dbatch: (2, G, C), each sample's share of the gradients of its batch moments; None: nothing.
        positions: L.

    Returns:
        slope and level, (N, C).
    """
    dmean, dvariance = dinstance
    from_center = moments.instance[0] - moments.center
    if dbatch is not None and moments.batch is not None:
        to_mean, to_variance = _per_sample(dbatch, len(from_center))
        between = moments.instance[0] - _per_sample(moments.batch[:1], len(from_center))[0]
        dmean = dmean + to_mean + 2 * to_variance * between
        dvariance = dvariance + to_variance
    slope = dvariance * (2 / positions)
    return slope, dmean / positions - slope * from_center


def _per_sample(table: Tensor, samples: int) -> Tensor:
    """(2, G, C) of groups as (2, N, C) of their samples."""
    return table.repeat_interleave(samples // table.shape[1], dim=1)
