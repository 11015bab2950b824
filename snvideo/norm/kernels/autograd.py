"""Switchable Normalization with its derivatives by hand: two passes over x forward, two backward.

Written in plain operations, autograd would keep and revisit a handful of tensors as large as x.
Here only x is kept, as by Batch Normalization. Forward it is read for the moments of every sample
and channel, and for

    y = (x - center) * scale + shift,

backward for the sums of dy and of dy * (x - center), and for

    dx = dy * scale + (x - center) * slope + level.

All between them is arithmetic on tables of one value per sample and channel. What the tables mean
is in `snvideo.norm.kernels.tables`; the kernels that do the work are those of the device.
"""

from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import Parameter

from snvideo.norm import reference
from snvideo.norm.distributed import ProcessGroup, all_reduce_sum, global_moments
from snvideo.norm.kernels import cpu, cuda


def kernels_for(x: Tensor) -> ModuleType | None:
    """The kernels written for the device of x, or None where there are none."""
    if type(x) not in (Tensor, Parameter):  # a class of its own may have no memory, as FakeTensor
        return None
    kernels = {"cpu": cpu, "cuda": cuda}.get(x.device.type)
    return kernels if kernels is not None and kernels.available() else None


def normalize(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean_logits: Tensor,
    var_logits: Tensor,
    stored: tuple[Tensor, Tensor] | None,
    groups: int,
    process_group: ProcessGroup | None,
    eps: float,
) -> tuple[Tensor, reference.BatchStatistics | None]:
    """As `reference.normalize`; batch statistics are float64."""
    inputs = (x, weight, bias, mean_logits, var_logits)
    y, *batch = _Normalize.apply(*inputs, stored, groups, process_group, eps)
    return y, reference.BatchStatistics(*batch) if batch else None


class _Normalize(Function):
    """One Switchable Normalization."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean_logits: Tensor,
        var_logits: Tensor,
        stored: tuple[Tensor, Tensor] | None,
        groups: int,
        process_group: ProcessGroup | None,
        eps: float,
    ) -> tuple[Any, ...]:
        kernels, logits = kernels_for(x), (mean_logits, var_logits)
        own = len(mean_logits) == 3 and stored is None
        center, moments, batch = kernels.statistics(x, groups if own else None)
        count = x.numel() // (groups * x.shape[1])
        ctx.share = groups / len(x)  # of a sample in its batch
        if stored is not None:
            batch = torch.stack(stored)[:, None].double()
        elif own and process_group is not None:
            mean, variance, held = global_moments(*batch, count, process_group)
            batch, count, ctx.share = torch.stack((mean, variance)), count / held, ctx.share * held
        y, scale, offset, rstd = kernels.normalized(
            x, center, moments, batch, weight, bias, *logits, eps
        )
        tables = center, moments, batch, scale, offset, rstd
        ctx.save_for_backward(x, weight, bias, *logits, *tables)
        ctx.stored, ctx.groups, ctx.process_group, ctx.eps = stored, groups, process_group, eps
        if not own:
            return (y,)
        mean, variance = batch.unbind()
        ctx.mark_non_differentiable(mean, variance)
        return y, mean, variance, count

    @staticmethod
    def backward(ctx: Any, dy: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean_logits, var_logits, *tables = ctx.saved_tensors
        if torch.is_grad_enabled():
            return _again(ctx, (x, weight, bias, mean_logits, var_logits), dy)
        center, moments, batch, scale, offset, rstd = tables
        kernels = kernels_for(x)
        dweight, dbias, dlogits, dinstance, dbatch = kernels.table_gradients(
            dy, x, center, moments, batch, offset, rstd, weight, mean_logits, var_logits
        )
        dx = None
        if ctx.needs_input_grad[0]:
            if ctx.stored is not None:
                dbatch = None  # constants pass nothing on
            elif dbatch is not None:
                if ctx.process_group is not None:
                    dbatch = all_reduce_sum(dbatch, ctx.process_group)
                dbatch = dbatch * ctx.share
            dx = kernels.x_gradient(dy, x, center, scale, moments, batch, dinstance, dbatch)
        return (
            dx,
            None if weight is None else dweight.to(weight.dtype),
            None if bias is None else dbias.to(bias.dtype),
            *(gradient.to(mean_logits.dtype) for gradient in dlogits),
            *(None,) * 4,
        )


def _again(ctx: Any, inputs: tuple[Tensor | None, ...], dy: Tensor) -> tuple[Tensor | None, ...]:
    """The gradients as functions of the inputs, for a second derivative: by the plain formulas."""
    y, _ = reference.normalize(*inputs, ctx.stored, ctx.groups, ctx.process_group, ctx.eps)
    wanted = [i for i, needed in enumerate(ctx.needs_input_grad[:5]) if needed]
    found = torch.autograd.grad(y, [inputs[i] for i in wanted], dy, create_graph=True)
    gradients: list[Tensor | None] = [None] * 9
    for i, gradient in zip(wanted, found, strict=True):
        gradients[i] = gradient
    return tuple(gradients)
