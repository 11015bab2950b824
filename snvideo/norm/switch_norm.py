"""Switchable Normalization layers, drop-in replacements of nn.BatchNorm1d/2d/3d."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from snvideo.norm.distributed import ProcessGroup, resolve_process_group
from snvideo.norm.functional import switch_norm


def check_input(layer: nn.modules.batchnorm._NormBase, x: Tensor) -> None:
    """Raise a ValueError for an input (N, C, ...) that a norm of its channels cannot take."""
    if x.shape[1] != layer.num_features:
        raise ValueError(f"expected {layer.num_features} channels (got {x.shape[1]})")
    if not x.is_floating_point():
        raise ValueError(f"expected floating point input (got {x.dtype})")
    if x.numel() == 0:
        raise ValueError(f"expected at least one value (got shape {tuple(x.shape)})")


def update_momentum(layer: nn.modules.batchnorm._NormBase) -> float | Tensor:
    """Weight of this pass in the running statistics; counts the pass while training."""
    if layer.training and layer.num_batches_tracked is not None:
        layer.num_batches_tracked.add_(1)
        if layer.momentum is None and layer.running_mean is not None:
            # a tensor: a compiler cannot read numbers, and a GPU need not be waited for
            return layer.num_batches_tracked.to(layer.running_mean.dtype).reciprocal()
    return layer.momentum or 0.0


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
        use_batch: learn the batch part too. Without it (for one sample at a time, where batch and
            instance statistics are the same) the layer holds no running statistics.
        group_size: while training, take batch statistics over ghost groups of so many consecutive
            samples, as if each were a batch of its own (arXiv 1705.08741); None: over the batch.
        process_group: while training, take batch statistics over the batches of all its processes;
            "world" is all there are. They may differ in size. None: this process alone.
        start: where the importance logits begin: "equal" trusts all parts alike; "batch" gives the
            batch part 99 %, so that a BatchNorm network may become an SN network gently.

    Shape:
        (N, C, \*S) -> (N, C, \*S), in the input's dtype; statistics are float32 or better.

    Raises:
        ValueError: for an input of another rank or number of channels, without elements, not of
            floating point, or not of whole ghost groups.

    Example::

        >>> norm = SwitchNorm3d(64)
        >>> norm(torch.randn(2, 64, 8, 14, 14)).shape
        torch.Size([2, 64, 8, 14, 14])
    """

    BATCH_START = 5.0
    """Logit of the batch part, against 0 of the others, for start="batch": exp(5) to 1 to 1."""

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
        group_size: int | None = None,
        process_group: ProcessGroup | Literal["world"] | None = None,
        start: Literal["equal", "batch"] = "equal",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if start == "batch" and not use_batch:
            raise ValueError("start='batch' needs use_batch=True: there is no batch part")
        placed: dict[str, Any] = {"device": device, "dtype": dtype}
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats and use_batch, **placed
        )
        self.use_batch, self.group_size, self.process_group = use_batch, group_size, process_group
        self.start = start
        self.mean_logits = nn.Parameter(torch.empty(3 if use_batch else 2, **placed))
        self.var_logits = nn.Parameter(torch.empty(3 if use_batch else 2, **placed))
        self.reset_logits()

    def reset_logits(self) -> None:
        """Set the importance logits to their start."""
        with torch.no_grad():
            for logits in (self.mean_logits, self.var_logits):
                logits.zero_()
                if self.start == "batch":
                    logits[2] = self.BATCH_START

    def reset_parameters(self) -> None:
        """Set all parameters and running statistics to their start."""
        super().reset_parameters()
        if hasattr(self, "mean_logits"):  # the base class resets before the logits exist
            self.reset_logits()

    def extra_repr(self) -> str:
        """Settings of the layer."""
        return f"{super().extra_repr()}, use_batch={self.use_batch}{grouping_repr(self)}"

    def _check_input_dim(self, x: Tensor) -> None:
        if x.dim() < 2 or (self._ranks and x.dim() not in self._ranks):
            expected = " or ".join(f"{rank}D" for rank in self._ranks) or "at least 2D"
            raise ValueError(f"expected {expected} input (got {x.dim()}D input)")

    def forward(self, x: Tensor) -> Tensor:
        """Normalize x, (N, C, ...)."""
        self._check_input_dim(x)
        check_input(self, x)
        return switch_norm(
            x,
            *(self.running_mean, self.running_var, self.weight, self.bias),
            *(self.mean_logits, self.var_logits),
            training=self.training,
            momentum=update_momentum(self),
            eps=self.eps,
            group_size=self.group_size,
            process_group=resolve_process_group(self.process_group),
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
