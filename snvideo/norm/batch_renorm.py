"""Batch Renormalization: Batch Normalization drawn to its running statistics while training."""

from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from snvideo.norm.checks import check_input, check_several_values
from snvideo.norm.distributed import ProcessGroup, check_process_group, resolve_process_group
from snvideo.norm.functional import normalize_batch
from snvideo.norm.running import RunningStatistics
from snvideo.norm.switch_norm import grouping_repr, trace_as_leaf, update_momentum

R_MAX, D_MAX = 3.0, 5.0
"""Bounds of the corrections at the end."""

SCHEDULE = (5_000, 25_000, 40_000)
"""Optimizer steps until which there is no correction, and at which d_max and r_max are reached."""


class _Renorm(_BatchNorm):
    """Mixin that corrects a BatchNorm by its running statistics."""

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        *,
        r_max: float = R_MAX,
        d_max: float = D_MAX,
        schedule: tuple[int, int, int] = SCHEDULE,
        group_size: int | None = None,
        process_group: ProcessGroup | Literal["world"] | None = None,
        **kwargs: Any,
    ) -> None:
        if r_max < 1 or d_max < 0 or sorted(schedule) != list(schedule) or schedule[0] < 0:
            raise ValueError(
                "expected r_max >= 1, d_max >= 0 and rising steps "
                f"(got {r_max}, {d_max} and {tuple(schedule)})"
            )
        check_process_group(process_group)
        if not kwargs.pop("track_running_stats", True):
            raise ValueError("batch renormalization needs running statistics to correct by")
        super().__init__(num_features, eps, momentum, affine, True, **kwargs)
        self.r_max, self.d_max, self.schedule = r_max, d_max, tuple(schedule)
        self.group_size, self.process_group = group_size, process_group

    def extra_repr(self) -> str:
        """Settings of the layer."""
        limits = f", r_max={self.r_max}, d_max={self.d_max}, schedule={self.schedule}"
        return super().extra_repr() + limits + grouping_repr(self)

    def limits(self) -> tuple[Tensor, Tensor]:
        """The largest r and d at the present step, scalars: 1 and 0 are Batch Normalization."""
        assert self.num_batches_tracked is not None
        begin, d_end, r_end = self.schedule
        done = self.num_batches_tracked - begin  # a tensor: a GPU is not waited for
        r_share, d_share = (
            ((done + (end == begin)) / max(1, end - begin)).clamp(0, 1) for end in (r_end, d_end)
        )
        return 1 + (self.r_max - 1) * r_share, self.d_max * d_share

    def forward(self, input: Tensor) -> Tensor:
        """Normalize the input, (N, C, ...)."""
        if isinstance(input, fx.Proxy):
            return trace_as_leaf(self, input)
        if not self.training or input.numel() == 0:
            return super().forward(input)
        self._check_input_dim(input)
        check_input(self, input)
        if torch._C._current_graph_task_id() != -1 and self.track_running_stats:
            # The output depends on running statistics, which the first computation has moved.
            raise RuntimeError(
                "batch renormalization cannot be computed again in a backward pass: train without "
                "activation checkpointing, or with another norm"
            )
        process_group = resolve_process_group(self.process_group)
        if process_group is None:
            check_several_values(input, self.group_size)
        normed, batch = normalize_batch(input, self.eps, self.group_size, process_group)
        if self.running_mean is None or self.running_var is None:
            raise ValueError("batch renormalization needs running statistics to correct by")
        with torch.no_grad():
            r_max, d_max = self.limits()
            # (groups, C); no gradient goes through them (Eq. in section 3 of the paper)
            deviation = (self.running_var + self.eps).sqrt()
            r = (batch.variance + self.eps).sqrt() / deviation
            r = r.clamp(1 / r_max, r_max)
            d = ((batch.mean - self.running_mean) / deviation).clamp(-d_max, d_max)
            momentum = update_momentum(self)
            if self.track_running_stats:
                RunningStatistics(self.running_mean, self.running_var, momentum, True).update(batch)
            samples = len(input) // len(r)
            # In half precision they would be off by a third of a percent, always the same way.
            wide = torch.promote_types(normed.dtype, torch.float32)
            r, d = (table.to(wide).repeat_interleave(samples, 0) for table in (r, d))
        scale, shift = r, d
        if self.weight is not None:
            scale, shift = r * self.weight, d * self.weight
        if self.bias is not None:
            shift = shift + self.bias
        per_sample = (..., *(None,) * (input.dim() - 2))
        return torch.addcmul(shift[per_sample], normed, scale[per_sample]).to(input.dtype)


class BatchRenorm1d(_Renorm, nn.BatchNorm1d):
    r"""Batch Renormalization (Ioffe, NeurIPS 2017, arXiv 1702.03275) over (N, C) or (N, C, L).

    While training,

    .. math::
        y = \gamma \left( \frac{x - \mu_B}{\sigma_B} r + d \right) + \beta, \qquad
        r = \mathrm{clip}_{1 / r_{max}}^{r_{max}} \frac{\sigma_B}{\sigma}, \qquad
        d = \mathrm{clip}_{-d_{max}}^{d_{max}} \frac{\mu_B - \mu}{\sigma}

    with batch statistics of mean :math:`\mu_B` and running ones of mean :math:`\mu`; r and d are
    constants to the gradient. Where nothing is clipped, the layer computes what it will in
    evaluation, which is that of nn.BatchNorm.

    Args:
        num_features, eps, momentum, affine: as for nn.BatchNorm1d.
        r_max, d_max: final bounds.
        schedule: optimizer steps until which r_max is 1 and d_max 0, which is Batch Normalization;
            at which d_max is reached; and at which r_max is. The default is the paper's, for
            130,000 steps: a shorter training needs a shorter one.
        group_size, process_group: as for `BatchNorm1d`.
        kwargs: device and dtype.

    Raises:
        ValueError: for bounds or steps that there are not, or without running statistics.
        RuntimeError: under activation checkpointing, which would compute something else again.
    """


class BatchRenorm2d(_Renorm, nn.BatchNorm2d):
    """`BatchRenorm1d` over (N, C, H, W)."""


class BatchRenorm3d(_Renorm, nn.BatchNorm3d):
    """`BatchRenorm1d` over (N, C, T, H, W)."""
