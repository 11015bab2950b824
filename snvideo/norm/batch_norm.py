"""Batch Normalization over ghost groups and over processes."""

from typing import Any, Literal

from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from snvideo.norm.checks import check_input, check_several_values
from snvideo.norm.distributed import ProcessGroup, check_process_group, resolve_process_group
from snvideo.norm.functional import switch_norm
from snvideo.norm.mixture import BATCH_ALONE
from snvideo.norm.switch_norm import grouping_repr, trace_as_leaf, update_momentum


class _Grouped(_BatchNorm):
    """Mixin that takes the statistics of a BatchNorm over ghost groups or over processes.

    Batch Normalization is Switchable Normalization that trusts batch statistics alone, so it
    takes the same two passes over x, for all groups at once and on every device.
    """

    def __init__(
        self,
        *args: Any,
        group_size: int | None = None,
        process_group: ProcessGroup | Literal["world"] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        check_process_group(process_group)
        self.group_size, self.process_group = group_size, process_group

    def extra_repr(self) -> str:
        """Settings of the layer."""
        return super().extra_repr() + grouping_repr(self)

    def forward(self, input: Tensor) -> Tensor:
        """Normalize the input, (N, C, ...)."""
        if isinstance(input, fx.Proxy):
            return trace_as_leaf(self, input)
        x = input
        process_group = resolve_process_group(self.process_group) if self.training else None
        groups = self.training and self.group_size not in (None, len(x))
        if process_group is None and not groups:
            return super().forward(x)
        self._check_input_dim(x)
        check_input(self, x)
        if process_group is None:
            check_several_values(x, self.group_size)
        only = x.new_zeros(1)
        return switch_norm(
            x,
            *((self.running_mean, self.running_var) if self.track_running_stats else (None, None)),
            *(self.weight, self.bias, only, only),
            training=self.training,
            momentum=update_momentum(self),
            eps=self.eps,
            group_size=self.group_size,
            process_group=process_group,
            unbiased=True,
            mixture=BATCH_ALONE,
        )


class BatchNorm1d(_Grouped, nn.BatchNorm1d):
    """nn.BatchNorm1d that can take its statistics over ghost groups or over processes.

    Args:
        args, kwargs: those of nn.BatchNorm1d.
        group_size: while training, statistics are over groups of so many consecutive samples, as if
            each were a batch of its own (Hoffer et al., NeurIPS 2017, arXiv 1705.08741); None: over
            the batch.
        process_group: while training, statistics are over the batches of all its processes; "world"
            is all there are. They may differ in size. None: this process alone.
    """


class BatchNorm2d(_Grouped, nn.BatchNorm2d):
    """nn.BatchNorm2d with the options of `BatchNorm1d`."""


class BatchNorm3d(_Grouped, nn.BatchNorm3d):
    """nn.BatchNorm3d with the options of `BatchNorm1d`."""
