"""Norms by name, as network builders call them, and the exchange of norms in a finished network."""

from collections.abc import Callable
from functools import partial
from math import gcd
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import nn

from snvideo.norm.batch_norm import BatchNorm1d, BatchNorm2d, BatchNorm3d
from snvideo.norm.frozen_batch_norm import FrozenBatchNorm1d, FrozenBatchNorm2d, FrozenBatchNorm3d
from snvideo.norm.switch_norm import SwitchNorm1d, SwitchNorm2d, SwitchNorm3d

NormLayer = Callable[..., nn.Module]
"""Factory of norms for network builders: norm(num_features, eps=1e-5, momentum=0.1) -> layer."""

NormName = Literal["sn", "bn", "gn", "in", "ln", "syncsn", "syncbn", "frozen_bn"]

NORMS: tuple[str, ...] = get_args(NormName)
"""Names of the norms of `create_norm`."""

MAX_GROUPS = 32
"""Groups of Group Normalization where the width allows (Wu & He, ECCV 2018, arXiv 1803.08494)."""


def _group_norm(
    num_features: int, eps: float = 1e-5, momentum: float = 0.1, *, max_groups: int = MAX_GROUPS
) -> nn.GroupNorm:
    """Group Normalization in the signature of Batch Normalization; it has no use for momentum."""
    # Narrow networks have widths that 32 does not divide: the greatest common divisor always does.
    return nn.GroupNorm(gcd(max_groups, num_features), num_features, eps)


def _each(layers: tuple[NormLayer, ...], **options: Any) -> tuple[NormLayer, ...]:
    return tuple(partial(layer, **options) for layer in layers)


_SN = (SwitchNorm1d, SwitchNorm2d, SwitchNorm3d)
_BN = (BatchNorm1d, BatchNorm2d, BatchNorm3d)
_BY_DIMS: dict[str, tuple[NormLayer, ...]] = {
    "sn": _SN,
    "bn": _BN,
    "gn": (_group_norm,) * 3,
    "in": _each((nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d), affine=True),
    "ln": (partial(_group_norm, max_groups=1),) * 3,
    "syncsn": _each(_SN, process_group="world"),
    "syncbn": _each(_BN, process_group="world"),
    "frozen_bn": (FrozenBatchNorm1d, FrozenBatchNorm2d, FrozenBatchNorm3d),
}


def create_norm(norm: str | NormLayer, dims: int = 3, **options: Any) -> NormLayer:
    """A callable norm(num_features, eps=1e-5, momentum=0.1) -> layer.

    Args:
        norm: a name from `NORMS`, or a layer class or partial, taken as it is.
        dims: number of position dimensions: 1, 2 or 3 (T, H, W).
        options: further keyword arguments for every layer.

    Raises:
        ValueError: for an unknown name or number of dimensions.
    """
    if isinstance(norm, str):
        if norm not in _BY_DIMS:
            raise ValueError(f"unknown norm '{norm}', expected one of {', '.join(NORMS)}")
        if dims not in (1, 2, 3):
            raise ValueError(f"dims is 1, 2 or 3 (got {dims})")
        norm = _BY_DIMS[norm][dims - 1]
    return partial(norm, **options) if options else norm


class Replacement(NamedTuple):
    """One norm exchanged by `convert_norm`."""

    layer: str
    old: str
    new: str


_CHANNEL_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm)


def _dims(layer: nn.Module, default: int) -> int:
    """Number of position dimensions of a norm, as the name of its class or of a parent says it."""
    digits = (kind.__name__[-2:-1] for kind in type(layer).__mro__)
    return next((int(digit) for digit in digits if digit.isdigit()), default)


def _carry_over(old: nn.Module, new: nn.Module) -> None:
    """Copy the parameters, and the batch statistics where both hold them."""
    # BatchNorm stores an unbiased variance and SwitchNorm a biased one: a factor of 1 - 1/count,
    # forgotten as soon as statistics are averaged for evaluation.
    names = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    with torch.no_grad():
        for name in (*names, "mean_logits", "var_logits"):
            source, target = getattr(old, name, None), getattr(new, name, None)
            if source is not None and target is not None and source.shape == target.shape:
                target.copy_(source)


def convert_norm(
    model: nn.Module, norm: str | NormLayer, dims: int = 3, **options: Any
) -> list[Replacement]:
    """Exchange every Batch, Group, Instance or Switchable Normalization inside a model, in place.

    Affine parameters and batch statistics are kept where both layers have them, and so are device,
    dtype and mode. A layer that is as wanted is left alone, so a second call changes nothing.

    Args:
        model: any module that holds norms; it may not be a norm itself.
        norm: as for `create_norm`.
        dims: position dimensions for layers that do not tell (nn.GroupNorm, nn.SyncBatchNorm).
        options: further keyword arguments for every new layer.

    Returns:
        what was replaced, in the order of the modules.

    Raises:
        ValueError: if the model is a norm itself: nobody could put another in its place.
    """
    if isinstance(model, _CHANNEL_NORMS):
        raise ValueError("convert_norm needs the module that holds the norm, not the norm itself")
    replaced = []
    for parent_name, parent in list(model.named_modules()):
        for child_name, old in list(parent.named_children()):
            if not isinstance(old, _CHANNEL_NORMS):
                continue
            channels = old.num_channels if isinstance(old, nn.GroupNorm) else old.num_features
            create = create_norm(norm, _dims(old, dims), **options)
            new = create(channels, eps=old.eps, momentum=getattr(old, "momentum", 0.1))
            if repr(new) == repr(old):  # the class and all its settings
                continue
            _carry_over(old, new)
            reference = next(old.parameters(), next(old.buffers(), torch.empty(0)))
            new.to(reference.device, reference.dtype)
            layer = f"{parent_name}.{child_name}" if parent_name else child_name
            replaced.append(Replacement(layer, type(old).__name__, type(new).__name__))
            # Some libraries' norms hold the activation that follows, as timm's BatchNormAct2d does.
            after = list(old.children())
            stand_in = nn.Sequential(new, *after) if after else new
            setattr(parent, child_name, stand_in.train(old.training))
    return replaced
