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
from torch.autograd import Function, forward_ad
from torch.nn import Parameter

from snvideo.norm import reference
from snvideo.norm.distributed import ProcessGroup, all_reduce_sum, global_moments
from snvideo.norm.kernels import Kernels
from snvideo.norm.kernels.cpu import CPUKernels
from snvideo.norm.kernels.cuda import CUDAKernels
from snvideo.norm.kernels.tables import Mixture, Moments
from snvideo.norm.mixture import MixtureSpec
from snvideo.norm.reference import BatchStatistics, Parameters

KERNELS: dict[str, Kernels] = {"cpu": CPUKernels(), "cuda": CUDAKernels()}


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
    return None if watched or not all(map(_in_memory, tensors)) else kernels


def _in_memory(tensor: Tensor | None) -> bool:
    """True for values that lie in memory as the strides say; a subclass may have none."""
    return tensor is None or (
        (type(tensor) is Tensor or type(tensor) is Parameter)
        and tensor.layout is torch.strided
        and torch._C._has_storage(tensor)  # a batched tensor of vmap has none
        and not (tensor.is_neg() or tensor._is_zerotensor())
    )


def normalize_by_kernels(
    x: Tensor,
    parameters: Parameters,
    mixture: MixtureSpec,
    stored: tuple[Tensor, Tensor] | None,
    groups: int,
    process_group: ProcessGroup | None,
    eps: float,
) -> tuple[Tensor, BatchStatistics | None]:
    """As `reference.normalize`; batch statistics are float64."""
    given = stored is not None or "batch" not in mixture.parts
    inputs = [t for t in (x, *parameters) if t is not None]
    if given and not (torch.is_grad_enabled() and any(t.requires_grad for t in inputs)):
        kernels = kernels_for(x)
        assert kernels is not None
        batch = None if stored is None else torch.stack(stored)[:, None].double()
        return kernels.evaluated(x, batch, parameters, mixture, eps), None
    y, *own = _Normalize.apply(x, *parameters, mixture, stored, groups, process_group, eps)
    return y, BatchStatistics(*own) if own else None


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
        gradients = (found.weight, found.bias, *found.logits)
        return (
            dx,
            *(
                None if parameter is None else gradient.to(parameter.dtype)
                for parameter, gradient in zip(parameters, gradients, strict=True)
            ),
            *(None,) * len(ctx.settings),
        )


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
        *(None,) * len(ctx.settings),
    )
