"""Switchable Normalization with its derivatives by hand: two passes over x forward, two backward.

Autograd would keep a handful of tensors as large as x; here only x is kept, as by Batch
Normalization. Forward it is read for the moments of every sample and channel, and for

    y = (x - center) * scale + shift,

backward for the sums of dy and of dy * (x - center), and for

    dx = dy * scale + (x - center) * slope + level.

All between them is arithmetic on the tables of `snvideo.norm.kernels.tables`.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import Parameter

from snvideo.norm import reference
from snvideo.norm.distributed import ProcessGroup, all_reduce_sum, global_moments
from snvideo.norm.kernels import Kernels
from snvideo.norm.kernels.cpu import CPUKernels
from snvideo.norm.kernels.cuda import CUDAKernels
from snvideo.norm.kernels.tables import Mixture, Moments
from snvideo.norm.reference import BatchStatistics, Parameters

KERNELS: dict[str, Kernels] = {"cpu": CPUKernels(), "cuda": CUDAKernels()}


def kernels_for(x: Tensor) -> Kernels | None:
    """The kernels written for the device of x, or None where there are none."""
    if type(x) not in (Tensor, Parameter):  # a class of its own may have no memory, as FakeTensor
        return None
    kernels = KERNELS.get(x.device.type)
    return kernels if kernels is not None and kernels.available() else None


def normalize_by_kernels(
    x: Tensor,
    parameters: Parameters,
    stored: tuple[Tensor, Tensor] | None,
    groups: int,
    process_group: ProcessGroup | None,
    eps: float,
) -> tuple[Tensor, BatchStatistics | None]:
    """As `reference.normalize`; batch statistics are float64."""
    y, *batch = _Normalize.apply(x, *parameters, stored, groups, process_group, eps)
    return y, BatchStatistics(*batch) if batch else None


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
        """y; and of batch statistics of x their mean, variance and count."""
        kernels, parameters = kernels_for(x), Parameters(weight, bias, mean_logits, var_logits)
        assert kernels is not None
        own = len(mean_logits) == 3 and stored is None
        moments = kernels.statistics(x, groups if own else None)
        values = x.numel() // (groups * x.shape[1])
        count: int | Tensor = values
        ctx.share = groups / len(x)  # of a sample in its batch
        if stored is not None:
            moments = moments._replace(batch=torch.stack(stored)[:, None].double())
        elif moments.batch is not None and process_group is not None:
            mean, variance = moments.batch
            mean, variance, held = global_moments(mean, variance, values, process_group)
            moments = moments._replace(batch=torch.stack((mean, variance)))
            count, ctx.share = values / held, ctx.share * held
        y, mixture = kernels.normalized(x, moments, parameters, eps)
        ctx.save_for_backward(x, *parameters, *moments, *mixture)
        ctx.stored, ctx.groups, ctx.process_group, ctx.eps = stored, groups, process_group, eps
        if not own or moments.batch is None:
            return (y,)
        mean, variance = moments.batch.unbind()
        ctx.mark_non_differentiable(mean, variance)
        return y, mean, variance, count

    @staticmethod
    def backward(ctx: Any, dy: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        """Gradients of x and of the parameters."""
        x, *saved = ctx.saved_tensors
        parameters, moments = Parameters(*saved[:4]), Moments(*saved[4:7])
        if torch.is_grad_enabled():
            return _differentiable_gradients(ctx, x, parameters, dy)
        kernels, mixture = kernels_for(x), Mixture(*saved[7:])
        assert kernels is not None
        found = kernels.table_gradients(dy, x, moments, mixture, parameters)
        dx = None
        if ctx.needs_input_grad[0]:
            dbatch = None if ctx.stored is not None else found.batch  # constants pass nothing on
            if dbatch is not None:
                if ctx.process_group is not None:
                    dbatch = all_reduce_sum(dbatch, ctx.process_group)
                dbatch = dbatch * ctx.share
            dx = kernels.x_gradient(dy, x, moments, mixture.scale, found.instance, dbatch)
        gradients = (found.weight, found.bias, *found.logits)
        return (
            dx,
            *(
                None if parameter is None else gradient.to(parameter.dtype)
                for parameter, gradient in zip(parameters, gradients, strict=True)
            ),
            *(None,) * 4,
        )


def _differentiable_gradients(
    ctx: Any, x: Tensor, parameters: Parameters, dy: Tensor
) -> tuple[Tensor | None, ...]:
    """The gradients as functions of the inputs, for a second derivative: by the plain formulas."""
    y, _ = reference.normalize(x, parameters, ctx.stored, ctx.groups, ctx.process_group, ctx.eps)
    needed = list(zip((x, *parameters), ctx.needs_input_grad, strict=False))
    wanted = [tensor for tensor, is_needed in needed if is_needed and tensor is not None]
    found = iter(torch.autograd.grad(y, wanted, dy, create_graph=True))
    return (*(next(found) if is_needed else None for _, is_needed in needed), *(None,) * 4)
