"""The two passes over x, with derivatives by hand: they keep x alone for backward.

Written in plain operations, autograd would keep and revisit a handful of tensors as large as x.
Here x is read once for the moments and once for the affine map, as by Batch Normalization, and the
gradient is put together in one buffer. Everything between the passes is arithmetic on N x C tables,
which autograd does well.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function


def instance_moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and biased variance of every sample and channel over its positions.

    Args:
        x: (N, C, \\*S), floating point. With no S every value is its own mean, of variance zero.

    Returns:
        x itself, to be used from here on (its gradient is completed in place), and mean and
        variance, each (N, C), in float32 or in float64 for a float64 input.
    """
    return _InstanceMoments.apply(x)


def scale_and_shift(x: Tensor, center: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """(x - center) * scale + shift, in the dtype of x.

    The difference is taken first: folding the center into the shift would round away the spread of
    a channel whose mean is large.

    Args:
        x: (N, C, \\*S).
        center, scale, shift: (N, C), in float32 or better.
    """
    return _ScaleAndShift.apply(x, center, scale, shift)


def _per_position(table: Tensor, x: Tensor) -> Tensor:
    """An N x C table that broadcasts over the positions of x."""
    return table[(..., *(None,) * (x.dim() - 2))]


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance, (N, C) each, without a graph.

    Sums and norms are an order of magnitude faster than `torch.var_mean` on a CPU. Taking them
    after a first estimate of the mean is removed keeps every digit of the variance.
    """
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    if x.dim() == 2:
        return x.clone(), torch.zeros_like(x)
    x = x.flatten(2)
    estimate = x.mean(2)
    centered = x - estimate[..., None]
    rest = centered.mean(2)
    square = torch.linalg.vector_norm(centered, dim=2).square() / x.shape[2]
    return estimate + rest, (square - rest.square()).clamp_min(0)


class _InstanceMoments(Function):
    """x -> x, mean, variance."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, variance = _moments(x)
        ctx.save_for_backward(x, mean)
        return x.view_as(x), mean, variance

    @staticmethod
    def backward(ctx: Any, dx: Tensor, dmean: Tensor, dvariance: Tensor) -> Tensor:
        x, mean = ctx.saved_tensors
        positions = x.numel() // mean.numel()
        # d variance / dx = 2 (x - mean) / L; d mean / dx = 1 / L
        slope = dvariance * (2 / positions)
        level = dmean / positions
        if torch.is_grad_enabled():  # a second derivative is wanted: nothing in place
            return dx + (
                (x - _per_position(mean, x)) * _per_position(slope, x) + _per_position(level, x)
            ).to(x.dtype)
        centered = x - _per_position(mean, x)
        return dx.addcmul_(centered, _per_position(slope, x)).add_(_per_position(level, x))


class _ScaleAndShift(Function):
    """(x - center) * scale + shift."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, center: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        ctx.save_for_backward(x, center, scale)
        y = x - _per_position(center, x)
        y.mul_(_per_position(scale, x)).add_(_per_position(shift, x))
        return y.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        x, center, scale = ctx.saved_tensors
        dy = dy.to(scale.dtype)
        product = (x - _per_position(center, x)).mul_(dy)
        if x.dim() > 2:
            dshift, dscale = dy.flatten(2).sum(2), product.flatten(2).sum(2)
        else:
            dshift, dscale = dy, product
        return (dy * _per_position(scale, x)).to(x.dtype), -dshift * scale, dscale, dshift
