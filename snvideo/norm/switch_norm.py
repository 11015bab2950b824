"""Switchable Normalization layers, drop-in replacements of nn.BatchNorm1d/2d/3d."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn

from snvideo.norm.checks import check_input
from snvideo.norm.distributed import ProcessGroup, check_process_group, resolve_process_group
from snvideo.norm.folding import FoldingEps
from snvideo.norm.functional import switch_norm
from snvideo.norm.mixture import (
    ONE_SAMPLE,
    PAPER,
    Part,
    Ratios,
    Start,
    mixture_spec,
    start_in_order,
    start_logits,
)


def update_momentum(layer: nn.modules.batchnorm._NormBase) -> float | Tensor:
    """Weight of this pass in the running statistics; counts the pass while training."""
    if layer.training and layer.track_running_stats and layer.num_batches_tracked is not None:
        layer.num_batches_tracked.add_(1)
        if layer.momentum is None and layer.running_mean is not None:
            # a tensor: a compiler cannot read numbers, and a GPU need not be waited for
            return layer.num_batches_tracked.to(layer.running_mean.dtype).reciprocal()
    return layer.momentum or 0.0


def trace_as_leaf(layer: nn.Module, x: fx.Proxy) -> Any:
    """One node of a graph of torch.fx, as its tracers make of the norms of torch.nn alone."""
    tracer: Any = x.tracer
    return tracer.create_proxy("call_module", tracer.path_of_module(layer), (x,), {})


def grouping_repr(layer: nn.Module) -> str:
    """Ghost groups and processes in a layer's representation; by default nothing."""
    settings = {"group_size": layer.group_size, "process_group": layer.process_group}
    return "".join(f", {name}={value}" for name, value in settings.items() if value is not None)


class SwitchNorm(nn.modules.batchnorm._NormBase):
    r"""Switchable Normalization over (N, C, \*S) for any number of positions S.

    Each layer learns how far to trust instance, layer and batch statistics (Luo et al., ICLR 2019,
    arXiv 1806.10779):

    .. math::
        y = \gamma \frac{x - \sum_k w_k \mu_k}{\sqrt{\sum_k w'_k \sigma_k^2 + \epsilon}} + \beta,
        \qquad k \in \{\mathrm{in}, \mathrm{ln}, \mathrm{bn}\},

    where w and w' are softmaxes of `mean_logits` and `var_logits`; `snvideo.norm.reference` has the
    statistics.

    Args:
        num_features: number of channels C.
        eps: added to the variance.
        momentum: weight of the new value in the running statistics, as everywhere in PyTorch; None
            averages all values with equal weight.
        affine: learn `weight` and `bias` (C,).
        track_running_stats: keep batch statistics for evaluation; without them evaluation uses
            those of the batch at hand.
        use_batch: learn the batch part too; False is short for parts=("instance", "layer"), for one
            sample at a time, where batch and instance statistics are the same.
        parts: the statistics that are mixed, some of "instance", "group", "layer" and "batch"; None
            for the paper's instance, layer and batch. Without the batch part the layer holds no
            running statistics. Any other set than the paper's is a variant of this package.
        groups: groups of channels of the group part, as of Group Normalization (arXiv 1803.08494);
            where they do not divide the channels, the greatest common divisor is taken.
        ratios: map from logits to ratios: "softmax" as in the paper; "l1", which can begin at a
            single part and leave it (`snvideo.norm.mixture.mixture_ratios`).
        group_size: while training, take batch statistics over ghost groups of so many consecutive
            samples, as if each were a batch of its own (arXiv 1705.08741); None: over the batch.
        process_group: while training, take batch statistics over the batches of all its processes;
            "world" is all there are. They may differ in size. None: this process alone.
        start: where the logits begin: "equal" trusts all parts alike; "batch" or "layer" give that
            part 99 % (with ratios="l1" all), so that a network of such a norm may become an SN
            network gently; "depth" is equal until `start_by_depth` sets it for a whole network; or
            the logits themselves, one a part.
        bias: learn a bias; False leaves the weight alone.

    Shape:
        (N, C, \*S) -> (N, C, \*S), in the input's dtype; statistics are float32 or better.

    Raises:
        ValueError: for settings that there are not; for an input of another rank or number of
            channels, not of floating point, or not of whole ghost groups.
        RuntimeError: for a parameter or statistic of another length or device, or without data.

    Example::

        >>> norm = SwitchNorm3d(64)
        >>> norm(torch.randn(2, 64, 8, 14, 14)).shape
        torch.Size([2, 64, 8, 14, 14])
    """

    eps = FoldingEps()

    _ranks: tuple[int, ...] = ()
    """Numbers of dimensions that an input may have; none for any."""

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        use_batch: bool = True,
        parts: Sequence[Part] | None = None,
        groups: int = 32,
        ratios: Ratios = "softmax",
        group_size: int | None = None,
        process_group: ProcessGroup | Literal["world"] | None = None,
        start: Start | Sequence[float] = "equal",
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if parts is None:
            parts = (PAPER if use_batch else ONE_SAMPLE).parts
        elif not use_batch and "batch" in parts:
            raise ValueError(f"use_batch=False leaves no batch part (got parts={parts})")
        mixture = mixture_spec(parts, groups, num_features, ratios)
        named = (parts,) if isinstance(parts, str) else parts
        start = start_in_order(start, named)
        first_logits = start_logits(start, mixture)
        check_process_group(process_group)
        tracks = track_running_stats and "batch" in mixture.parts
        placed: dict[str, Any] = {"device": device, "dtype": dtype}
        super().__init__(num_features, eps, momentum, affine, tracks, **placed)
        if not bias:
            self.register_parameter("bias", None)
        self.group_size, self.process_group = group_size, process_group
        self.mixture, self.start = mixture, start
        self.mean_logits = nn.Parameter(torch.empty(first_logits.shape, **placed))
        self.var_logits = nn.Parameter(torch.empty(first_logits.shape, **placed))
        self.reset_logits()

    @property
    def parts(self) -> tuple[Part, ...]:
        """The statistics that are mixed, in the order of the logits."""
        return self.mixture.parts

    @property
    def use_batch(self) -> bool:
        """True with a batch part."""
        return "batch" in self.parts

    def reset_logits(self, depth: float = 0.5) -> None:
        """Set the importance logits to their start, of a layer at this depth of its network."""
        logits = start_logits(self.start, self.mixture, depth)
        with torch.no_grad():
            self.mean_logits.copy_(logits)
            self.var_logits.copy_(logits)

    def reset_parameters(self) -> None:
        """Set all parameters and running statistics to their start."""
        self.reset_running_stats()
        if self.weight is not None:
            nn.init.ones_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)
        if hasattr(self, "mean_logits"):  # the base class resets before the logits exist
            self.reset_logits()

    def extra_repr(self) -> str:
        """Settings of the layer."""
        mixed = f"use_batch={self.use_batch}"
        if self.mixture not in (PAPER, ONE_SAMPLE):
            mixed = f"parts={self.parts}"
            if "group" in self.parts:
                mixed += f", groups={self.mixture.channel_groups}"
            if self.mixture.ratios != "softmax":
                mixed += f", ratios={self.mixture.ratios}"
        without_bias = ", bias=False" if self.affine and self.bias is None else ""
        return f"{super().extra_repr()}{without_bias}, {mixed}{grouping_repr(self)}"

    def _check_input_dim(self, x: Tensor) -> None:
        if x.dim() < 2 or (self._ranks and x.dim() not in self._ranks):
            expected = " or ".join(f"{rank}D" for rank in self._ranks) or "at least 2D"
            raise ValueError(f"expected {expected} input (got {x.dim()}D input)")

    def forward(self, input: Tensor) -> Tensor:
        """Normalize the input, (N, C, ...)."""
        if isinstance(input, fx.Proxy):
            return trace_as_leaf(self, input)
        self._check_input_dim(input)
        check_input(self, input)
        keeps = not self.training or self.track_running_stats
        return switch_norm(
            input,
            *((self.running_mean, self.running_var) if keeps else (None, None)),
            *(self.weight, self.bias, self.mean_logits, self.var_logits),
            training=self.training,
            momentum=update_momentum(self),
            eps=self.__dict__["eps"],  # the bare number, which compilers know
            group_size=self.group_size,
            process_group=resolve_process_group(self.process_group),
            mixture=self.mixture,
        )


class SwitchNorm1d(SwitchNorm):
    """`SwitchNorm` over (N, C) or (N, C, L)."""

    _ranks = (2, 3)


class SwitchNorm2d(SwitchNorm):
    """`SwitchNorm` over (N, C, H, W)."""

    _ranks = (4,)


class SwitchNorm3d(SwitchNorm):
    """`SwitchNorm` over (N, C, T, H, W)."""

    _ranks = (5,)
