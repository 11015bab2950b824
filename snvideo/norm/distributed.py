"""Batch statistics over several processes, each of which holds a part of the batch."""

from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function

if TYPE_CHECKING or dist.is_available():
    ProcessGroup: TypeAlias = dist.ProcessGroup
else:
    ProcessGroup = Any


def resolve_process_group(
    process_group: ProcessGroup | Literal["world"] | None,
) -> ProcessGroup | None:
    """The process group that a layer asks for, or None where this process is the only one."""
    if process_group is None or not (dist.is_available() and dist.is_initialized()):
        return None
    group = dist.group.WORLD if isinstance(process_group, str) else process_group
    return group if group is not None and group.size() > 1 else None


def check_process_group(process_group: ProcessGroup | Literal["world"] | None) -> None:
    """Raise a ValueError for a name other than "world"."""
    if isinstance(process_group, str) and process_group != "world":
        raise ValueError(f"process_group is 'world', a group or None (got '{process_group}')")


def global_moments(
    mean: Tensor, variance: Tensor, count: int, process_group: ProcessGroup
) -> tuple[Tensor, Tensor, Tensor]:
    """Moments of the values of all processes, by the law of total variance; differentiable.

    Args:
        mean, variance: of this process's values, one shape on every process.
        count: number of values on this process; processes may differ.
        process_group: the processes that take part; all have to call.

    Returns:
        mean and biased variance of all values, of the same shape, and their number.
    """
    if count == 0:  # an empty batch has no moments, but takes part, backward too
        mean, variance = mean.nan_to_num(0.0), variance.nan_to_num(0.0)
    message = torch.cat([mean.new_full((1,), count), mean.flatten(), variance.flatten()])
    stacked = _AllGather.apply(message, process_group)
    counts, means, variances = stacked.split([1, mean.numel(), mean.numel()], dim=1)
    total_count = counts.sum()
    shares = counts / total_count
    joint = (shares * means).sum(0)
    total = (shares * (variances + (means - joint).square())).sum(0)
    return joint.view_as(mean), total.view_as(mean), total_count


class _AllGather(Function):
    """All-gather of one vector of every process, stacked."""

    @staticmethod
    def forward(ctx: Any, vector: Tensor, process_group: ProcessGroup) -> Tensor:
        """Rows of all processes, (processes, length)."""
        ctx.process_group = process_group
        vectors = [torch.empty_like(vector) for _ in range(process_group.size())]
        dist.all_gather(vectors, vector, group=process_group)
        return torch.stack(vectors)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Gradient of this process's vector, which every process has used."""
        gradient = all_reduce_sum(gradient.contiguous(), ctx.process_group)
        return gradient[ctx.process_group.rank()], None


class _AllReduceSum(Function):
    """All-reduce of a sum; its derivative is the same sum."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, process_group: ProcessGroup) -> Tensor:
        """Sum over processes."""
        ctx.process_group = process_group
        total = value.clone()
        dist.all_reduce(total, group=process_group)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Sum of the gradients over processes."""
        return all_reduce_sum(gradient, ctx.process_group), None


def all_reduce_sum(value: Tensor, process_group: ProcessGroup) -> Tensor:
    """The sum of a tensor over processes; differentiable."""
    return _AllReduceSum.apply(value, process_group)
