"""The arithmetic of Switchable Normalization between its passes over x, with derivatives by hand.

A table holds one float64 value per sample and channel, (N, C), or per ghost group and channel,
(G, C); tables of means and variances come stacked, (2, N, C). They are small, and in float64 a mean
of any size costs no digit. The formulas are those of `snvideo.norm.reference`.
"""

import torch
from torch import Tensor

from snvideo.norm.reference import total_moments


def batch_moments(moments: Tensor, groups: int) -> Tensor:
    """Mean and biased variance over the samples of each group.

    Args:
        moments: (2, N, C) instance means and variances.
        groups: number of equal groups of consecutive samples.

    Returns:
        (2, groups, C)
    """
    mean, variance = moments.unflatten(1, (groups, -1))
    return torch.stack(total_moments(mean, variance, dim=1)).squeeze(2)


def mixture(
    center: Tensor,
    moments: Tensor,
    batch: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    mean_logits: Tensor,
    var_logits: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What the mixed statistics make of x: y = (x - center) * scale + shift.

    Args:
        center: (N, C), near the instance means.
        moments: (2, N, C) instance means and variances.
        batch: (2, G, C), the batch part for each group of N / G samples; None: no such part.
        weight, bias: (C,) or None.
        mean_logits, var_logits: (3,), or (2,) without the batch part.
        eps: added to the variance.

    Returns:
        scale and shift (N, C); and for `mixture_gradient` the distance of the mixed mean from the
        center, and the rstd of the mixed standard deviation, (N, C).
    """
    mean, variance = moments
    parts = [(mean, variance), total_moments(mean, variance, dim=1)]
    if batch is not None:
        parts.append(_per_sample(batch, len(mean)).unbind())
    mixed = []
    for logits, tables in zip((mean_logits, var_logits), zip(*parts, strict=True), strict=True):
        ratios = logits.double().softmax(0).unbind()
        mixed.append(sum(ratio * table for ratio, table in zip(ratios, tables, strict=True)))
    offset, rstd = mixed[0] - center, (mixed[1] + eps).rsqrt()
    scale = rstd if weight is None else rstd * weight
    shift = -offset * scale if bias is None else bias - offset * scale
    return scale, shift, offset, rstd


def mixture_gradient(
    total: Tensor,
    dot: Tensor,
    offset: Tensor,
    rstd: Tensor,
    moments: Tensor,
    batch: Tensor | None,
    weight: Tensor | None,
    mean_logits: Tensor,
    var_logits: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients of `mixture` and of the affine map.

    Args:
        total, dot: (N, C), the sums over positions of dy and of dy * (x - center).
        offset, rstd, moments, batch, weight, mean_logits, var_logits: as in `mixture`.

    Returns:
        gradients of weight and bias (C,) and of the logits (2, 3) or (2, 2); of the instance
        moments (2, N, C), the batch part apart; and of the batch part (2, G, C), or None.
    """
    mean, variance = moments
    normed = (dot - offset * total) * rstd  # sum(dy * x_hat)
    scale = rstd if weight is None else rstd * weight
    # y = (x - m) * scale + bias and scale = weight / sqrt(v + eps)
    dmixed = torch.stack((-total * scale, -0.5 * normed * scale * rstd))
    ratios = torch.stack([logits.double().softmax(0) for logits in (mean_logits, var_logits)])
    layer = torch.stack(total_moments(mean, variance, dim=1))
    dlayer = dmixed.sum(2, keepdim=True)
    dratios = [(dmixed * moments).sum((1, 2)), (dlayer * layer).sum((1, 2))]
    dbatch = None
    if batch is not None:
        dbatch = dmixed.unflatten(1, (batch.shape[1], -1)).sum(2)
        dratios.append((dbatch * batch).sum((1, 2)))
        dbatch = dbatch * ratios[:, 2, None, None]
    dratios = torch.stack(dratios, 1)
    dlogits = ratios * (dratios - (ratios * dratios).sum(1, keepdim=True))
    # A joint moment of C parts passes on 1/C of its gradient to each of them: m_j = mean(m) and
    # v_j = mean(v + (m - m_j)^2), whose derivative by m_j is zero.
    dlayer = dlayer * (ratios[:, 1, None, None] / mean.shape[1])
    dinstance = dmixed * ratios[:, 0, None, None] + dlayer
    dinstance[0].addcmul_(mean - layer[0], dlayer[1], value=2)
    return normed.sum(0), total.sum(0), dlogits, dinstance, dbatch


def slope_and_level(
    dinstance: Tensor,
    dbatch: Tensor | None,
    center: Tensor,
    moments: Tensor,
    batch: Tensor | None,
    positions: int,
) -> tuple[Tensor, Tensor]:
    """What the moments add to the gradient of x: dx = dy * scale + (x - center) * slope + level.

    As dv/dx = 2 (x - m) / L and dm/dx = 1 / L for the instance moments m, v over L positions.

    Args:
        dinstance: (2, N, C) gradients of the instance moments, the batch part apart.
        dbatch: (2, G, C) what each sample of a group gets of the gradients of its batch moments;
            None: nothing.
        center: (N, C)
        moments: (2, N, C) instance means and variances.
        batch: (2, G, C) batch means and variances.
        positions: L.

    Returns:
        slope and level, (N, C).
    """
    dmean, dvariance = dinstance
    if dbatch is not None:
        to_mean, to_variance = _per_sample(dbatch, len(center))
        between = moments[0] - _per_sample(batch, len(center))[0]
        dmean = dmean + to_mean + 2 * to_variance * between
        dvariance = dvariance + to_variance
    slope = dvariance * (2 / positions)
    return slope, dmean / positions - slope * (moments[0] - center)


def _per_sample(table: Tensor, samples: int) -> Tensor:
    """(2, G, C) of groups as (2, N, C) of their samples."""
    return table.repeat_interleave(samples // table.shape[1], dim=1)
