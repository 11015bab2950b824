r"""Reference implementation of Switchable Normalization in PyTorch operations.

For an input x of shape (N, C, \*S) with L = prod(S) positions, Switchable Normalization (Luo et
al., "Differentiable Learning-to-Normalize via Switchable Normalization", ICLR 2019,
arXiv 1806.10779, Eq. 3) normalizes with a mixture of three kinds of statistics:

    instance   m_in, v_in              over the positions of one sample and channel
    layer      m_ln = mean_c(m_in),  v_ln = mean_c(v_in) + var_c(m_in)
    batch      m_bn = mean_n(m_in),  v_bn = mean_n(v_in) + var_n(m_in)

    m = sum_k w_k m_k,   v = sum_k w'_k v_k,   y = weight * (x - m) / sqrt(v + eps) + bias

with w = softmax(mean logits) and w' = softmax(variance logits), common to all channels of a layer.
All variances are biased. Layer and batch variance come from the law of total variance, which adds
two non-negative terms; the usual mean(v + m^2) - mean(m)^2 subtracts two large ones and loses every
digit when the mean is large against the spread.

As all of them are arithmetic on the instance moments, any set of parts costs the same. A fourth
part can take its place among them: group statistics, which are those of Group Normalization (Wu &
He, ECCV 2018, arXiv 1803.08494), the layer formulas over each group of channels.

Compilers and exporters get these operations, which they fuse by themselves, and so do devices
without kernels; elsewhere `snvideo.norm.kernels.autograd` computes the same with analytic
derivatives.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from snvideo.norm.distributed import ProcessGroup, global_moments
from snvideo.norm.mixture import MixtureSpec, mixture_ratios


class Parameters(NamedTuple):
    """Learned parameters of a layer."""

    weight: Tensor | None
    """(C,), as the bias."""
    bias: Tensor | None
    mean_logits: Tensor
    """(parts,), in the order of the mixture's parts."""
    var_logits: Tensor


class BatchStatistics(NamedTuple):
    """Batch statistics of every group of samples, without gradients."""

    mean: Tensor
    """(groups, C)"""
    variance: Tensor
    """(groups, C), biased"""
    count: int | Tensor  # type: ignore[assignment] # hides tuple.count
    """Values of a channel in a group; a tensor where processes were asked for theirs."""


def total_moments(mean: Tensor, variance: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Moments of equally large parts joined along `dim`, by the law of total variance.

    Args:
        mean, variance: moments of the parts, of one shape.
        dim: the dimension that is joined; it is kept with size 1.

    Returns:
        mean and biased variance of the whole.
    """
    joint = mean.mean(dim, keepdim=True)
    between = mean - joint
    return joint, torch.addcmul(variance, between, between).mean(dim, keepdim=True)


def group_moments(mean: Tensor, variance: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Moments (..., C) of each group of channels, for each of its channels, from those (..., C)."""
    split = (mean.unflatten(-1, (groups, -1)), variance.unflatten(-1, (groups, -1)))
    joint = total_moments(*split, dim=mean.dim())
    wide_mean, wide_variance = (table.expand_as(split[0]).flatten(-2) for table in joint)
    return wide_mean, wide_variance


def instance_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance, (N, C) each, over positions; without any, x is its own mean."""
    if x.dim() == 2:
        return x, torch.zeros_like(x)
    variance, mean = torch.var_mean(x, tuple(range(2, x.dim())), correction=0)
    return mean, variance


def normalize(
    x: Tensor,
    parameters: Parameters,
    mixture: MixtureSpec,
    stored: tuple[Tensor, Tensor] | None,
    groups: int,
    process_group: ProcessGroup | None,
    eps: float,
) -> tuple[Tensor, BatchStatistics | None]:
    """Normalize x by the mixture of its statistics.

    Args:
        x: (N, C, \\*S), floating point.
        parameters: of the layer.
        mixture: the parts that are mixed.
        stored: (C,) mean and variance to stand for the batch part, or None to take those of x.
        groups: number of equal groups of samples, each with batch statistics of its own.
        process_group: the processes whose batches are one; None: this one alone.
        eps: added to the variance.

    Returns:
        y of the shape and dtype of x, and the batch statistics where they are those of x.
    """
    weight, bias, mean_logits, var_logits = parameters
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    mean_in, var_in = (table.unflatten(0, (groups, -1)) for table in instance_moments(wide))
    parts = {"instance": (mean_in, var_in)}
    if "group" in mixture.parts:
        parts["group"] = group_moments(mean_in, var_in, mixture.channel_groups)
    if "layer" in mixture.parts:
        parts["layer"] = total_moments(mean_in, var_in, dim=2)
    batch = None
    if "batch" in mixture.parts:
        if stored is None:
            mean, var = total_moments(mean_in, var_in, dim=1)
            values = x.numel() // (groups * x.shape[1])
            count: int | Tensor = values
            if process_group is not None:
                mean, var, count = global_moments(mean, var, values, process_group)
            batch = BatchStatistics(mean.detach().squeeze(1), var.detach().squeeze(1), count)
        parts["batch"] = stored or (mean, var)

    # The mixed mean is kept as an offset from the instance mean: weights rounded to float32 do not
    # sum to one exactly, which would show in a mean that is large against the spread.
    w, u = (mixture_ratios(z.to(wide.dtype), mixture.ratios) for z in (mean_logits, var_logits))
    weighted = list(zip(mixture.parts, w, u, strict=True))
    offset = sum(a * (parts[part][0] - mean_in) for part, a, _ in weighted)
    variance = sum(a * parts[part][1] for part, _, a in weighted)
    scale = (variance + eps).rsqrt().expand_as(mean_in)
    if weight is not None:
        scale = scale * weight.to(scale.dtype)
    shift = -offset * scale
    if bias is not None:
        shift = shift + bias.to(shift.dtype)

    # The instance mean is taken off first: folded into the shift it would round away the spread of
    # a channel whose mean is large.
    center, scale, shift = (
        table.flatten(0, 1)[(..., *(None,) * (x.dim() - 2))] for table in (mean_in, scale, shift)
    )
    return ((wide - center) * scale + shift).to(x.dtype), batch
