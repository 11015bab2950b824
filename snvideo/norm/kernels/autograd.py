"""Switchable Normalization with its derivatives by hand: two passes over x forward, two backward.

Autograd would keep a handful of tensors as large as x; here only x is kept, as by Batch
Normalization. Forward it is read for the moments of every sample and channel, and for

    y = (x - center) * scale + shift,

backward for the sums of dy and of dy * (x - center), and for

    dx = dy * scale + (x - center) * slope + level.

All between them is arithmetic on the tables of `snvideo.norm.kernels.tables`.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad

from snvideo.norm import reference
from snvideo.norm.checks import in_memory
from snvideo.norm.distributed import ProcessGroup, all_reduce_sum, global_moments
from snvideo.norm.kernels import Kernels
from snvideo.norm.kernels.cpu import CPUKernels
from snvideo.norm.kernels.cuda import CUDAKernels
from snvideo.norm.kernels.tables import Mixture, Moments
from snvideo.norm.mixture import MixtureSpec
from snvideo.norm.reference import BatchStatistics, Parameters
from snvideo.norm.running import RunningStatistics

_ON_CPU = CPUKernels()
KERNELS: dict[str, Kernels] = {"cpu": _ON_CPU, "cuda": CUDAKernels()}


def kernels_for(*tensors: Tensor | None) -> Kernels | None:
    """The kernels written for the device of the first tensor, or None where they cannot run.

    They read memory, so every tensor has to be there as its strides say; and nobody may be watching
    for operations of torch, which kernels are not: transforms of torch.func, forward-mode
    differentiation, and dispatch modes, such as those of tracers.
    """
    kernels = KERNELS.get(tensors[0].device.type) if tensors[0] is not None else None
    if kernels is None or not kernels.available():
        return None
    watched = (
        torch._C._len_torch_dispatch_stack() > 0
        or torch._C._functorch.maybe_current_level() is not None
        or forward_ad._current_level >= 0
    )
    if watched:
        return None
    for tensor in tensors:
        if tensor is not None and (tensor.is_neg() or not in_memory(tensor)):
            return None
    return kernels


def normalize_by_kernels(
    kernels: Kernels,
    x: Tensor,
    parameters: Parameters,
    mixture: MixtureSpec,
    stored: tuple[Tensor, Tensor] | None,
    groups: int,
    process_group: ProcessGroup | None,
    eps: float,
    running: RunningStatistics | None,
) -> tuple[Tensor, BatchStatistics | None]:
    """As `reference.normalize`, and update running statistics; batch statistics are float64."""
    given = stored is not None or "batch" not in mixture.parts
    inputs = [t for t in (x, *parameters) if t is not None]
    if given and not (torch.is_grad_enabled() and any(t.requires_grad for t in inputs)):
        return kernels.evaluated(x, stored, parameters, mixture, eps), None
    settings = mixture, stored, groups, process_group, eps
    if process_group is None and isinstance(kernels, CPUKernels):
        y = _NormalizeAtOnce.apply(x, *parameters, *settings, running)
        return (y, None) if isinstance(y, Tensor) else (y[0], BatchStatistics(*y[1:]))
    y, *own = _Normalize.apply(x, *parameters, *settings)
    batch = BatchStatistics(*own) if own else None
    if running is not None and batch is not None:
        running.update(batch)
    return y, batch


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
        *settings: Any,
    ) -> tuple[Any, ...]:
        """y; and of batch statistics of x their mean, variance and count."""
        kernels, parameters = kernels_for(x), Parameters(weight, bias, mean_logits, var_logits)
        assert kernels is not None
        mixture, stored, groups, process_group, eps = ctx.settings = settings
        own = "batch" in mixture.parts and stored is None
        moments = kernels.statistics(x, groups if own else None)
        if x.numel() == 0:  # of no values: other processes may have some
            for table in moments:
                if table is not None:
                    table.zero_()
        values = x.numel() // (groups * x.shape[1])
        count: int | Tensor = values
        ctx.share = groups / max(1, len(x))  # of a sample in its batch
        if stored is not None:
            moments = moments._replace(batch=torch.stack(stored)[:, None].double())
        elif moments.batch is not None and process_group is not None:
            mean, variance = moments.batch
            mean, variance, count = global_moments(mean, variance, values, process_group)
            moments = moments._replace(batch=torch.stack((mean, variance)))
            ctx.share = ctx.share * (values / count)
        y, mixed = kernels.normalized(x, moments, parameters, mixture, eps)
        ctx.save_for_backward(x, *parameters, *moments, *mixed)
        if not own or moments.batch is None:
            return (y,)
        mean, variance = moments.batch.unbind()
        ctx.mark_non_differentiable(mean, variance)
        return y, mean, variance, count

    @staticmethod
    def backward(ctx: Any, dy: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        """Gradients of x and of the parameters."""
        x, *saved = ctx.saved_tensors
        parameters, moments, mixed = Parameters(*saved[:4]), Moments(*saved[4:7]), saved[7:]
        mixture, stored, _, process_group, _ = ctx.settings
        kernels = kernels_for(x, dy)
        if torch.is_grad_enabled() or kernels is None:
            return _gradients_by_formulas(ctx, x, parameters, dy)
        found = kernels.table_gradients(dy, x, moments, Mixture(*mixed), parameters, mixture)
        dx = None
        if ctx.needs_input_grad[0]:
            dbatch = None if stored is not None else found.batch  # constants pass nothing on
            if dbatch is not None:
                if process_group is not None:
                    dbatch = all_reduce_sum(dbatch, process_group)
                dbatch = dbatch * ctx.share
            dx = kernels.x_gradient(dy, x, moments, mixed[0], found.instance, dbatch)
        gradients = (
            None if parameters.weight is None else found.weight,
            None if parameters.bias is None else found.bias,
            *found.logits,
        )
        return dx, *_of_parameters(parameters, gradients), *(None,) * len(ctx.settings)


class _NormalizeAtOnce(Function):
    """One Switchable Normalization on a CPU, in this process alone: one call each way."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean_logits: Tensor,
        var_logits: Tensor,
        *settings: Any,
    ) -> Any:
        """y; and of batch statistics of x, if no running ones took them, what they consist of."""
        parameters = Parameters(weight, bias, mean_logits, var_logits)
        *ctx.settings, running = settings
        mixture, stored, groups, _, eps = ctx.settings
        y, kept, updated = _ON_CPU.forward(x, stored, groups, parameters, mixture, eps, running)
        ctx.save_for_backward(x, weight, bias, mean_logits, var_logits, kept)
        if updated or stored is not None or "batch" not in mixture.parts:
            return y
        channels = x.shape[1]
        mean, variance = kept[: 2 * groups * channels].view(2, groups, channels).unbind()
        batch = BatchStatistics(mean, variance, x.numel() // (groups * channels))
        if running is not None:
            running.update(batch)
            return y
        ctx.mark_non_differentiable(mean, variance)
        return y, *batch

    @staticmethod
    def backward(ctx: Any, dy: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        """Gradients of x and of the parameters."""
        x, *tables, kept = ctx.saved_tensors
        parameters = Parameters(*tables)
        mixture, stored, groups, _, eps = ctx.settings
        if torch.is_grad_enabled() or kernels_for(x, dy) is None:
            return _gradients_by_formulas(ctx, x, parameters, dy)
        given = stored is not None, groups, parameters, mixture, eps, ctx.needs_input_grad[0]
        dx, *gradients = _ON_CPU.backward(dy, x, kept, *given)
        return dx, *_of_parameters(parameters, gradients), *_NO_GRADIENTS


_NO_GRADIENTS = (None,) * 6
"""Of the settings of `_NormalizeAtOnce`."""


def _of_parameters(
    parameters: Parameters, gradients: Iterable[Tensor | None]
) -> list[Tensor | None]:
    """Gradients in the dtype of their parameters."""
    return [
        gradient
        if gradient is None or parameter is None or gradient.dtype is parameter.dtype
        else gradient.to(parameter.dtype)
        for parameter, gradient in zip(parameters, gradients, strict=True)
    ]


def _gradients_by_formulas(
    ctx: Any, x: Tensor, parameters: Parameters, dy: Tensor
) -> tuple[Tensor | None, ...]:
    """The gradients by the plain formulas: for second derivatives, and for batches of gradients."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        y, _ = reference.normalize(x, parameters, *ctx.settings)
    needed = list(zip((x, *parameters), ctx.needs_input_grad, strict=False))
    wanted = [tensor for tensor, is_needed in needed if is_needed and tensor is not None]
    found = iter(torch.autograd.grad(y, wanted, dy, create_graph=create_graph))
    return (
        *(next(found) if is_needed else None for _, is_needed in needed),
        *(None,) * (len(ctx.needs_input_grad) - len(needed)),
    )
