"""Norms by name, as network builders call them."""

from collections.abc import Callable
from functools import partial
from math import gcd
from typing import Any, Literal, get_args

from torch import nn

from snvideo.norm.batch_norm import BatchNorm1d, BatchNorm2d, BatchNorm3d
from snvideo.norm.batch_renorm import BatchRenorm1d, BatchRenorm2d, BatchRenorm3d
from snvideo.norm.frozen_batch_norm import FrozenBatchNorm1d, FrozenBatchNorm2d, FrozenBatchNorm3d
from snvideo.norm.switch_norm import SwitchNorm1d, SwitchNorm2d, SwitchNorm3d

NormLayer = Callable[..., nn.Module]
"""Factory of norms for network builders: norm(num_features, eps=1e-5, momentum=0.1) -> layer."""

NormName = Literal["sn", "bn", "gn", "in", "ln", "syncsn", "syncbn", "frozen_bn", "brn"]

NORMS: tuple[str, ...] = get_args(NormName)
"""Names of the norms of `create_norm`."""

GROUPS = 32
"""Groups of Group Normalization where the width allows (Wu & He, ECCV 2018, arXiv 1803.08494)."""


def _group_norm(
    num_features: int,
    eps: float = 1e-5,
    momentum: float = 0.1,
    *,
    groups: int = GROUPS,
    channels_per_group: int | None = None,
) -> nn.GroupNorm:
    """Group Normalization in the signature of Batch Normalization; it has no use for momentum."""
    if channels_per_group is not None:
        groups = max(1, num_features // channels_per_group)
    # Narrow networks have widths that 32 does not divide: the greatest common divisor always does.
    return nn.GroupNorm(gcd(groups, num_features), num_features, eps)


def _each(layers: tuple[NormLayer, ...], **options: Any) -> tuple[NormLayer, ...]:
    return tuple(partial(layer, **options) for layer in layers)


_SN = (SwitchNorm1d, SwitchNorm2d, SwitchNorm3d)
_BN = (BatchNorm1d, BatchNorm2d, BatchNorm3d)
_BY_DIMS: dict[str, tuple[NormLayer, ...]] = {
    "sn": _SN,
    "bn": _BN,
    "gn": (_group_norm,) * 3,
    "in": _each((nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d), affine=True),
    "ln": (partial(_group_norm, groups=1),) * 3,
    "syncsn": _each(_SN, process_group="world"),
    "syncbn": _each(_BN, process_group="world"),
    "brn": (BatchRenorm1d, BatchRenorm2d, BatchRenorm3d),
    "frozen_bn": (FrozenBatchNorm1d, FrozenBatchNorm2d, FrozenBatchNorm3d),
}


def depends_on_dims(norm: str) -> bool:
    """True for a name from `NORMS` whose layers have a class for each number of dimensions."""
    return len(set(_BY_DIMS[norm])) > 1


def create_norm(norm: str | NormLayer, dims: int = 3, **options: Any) -> NormLayer:
    """A callable norm(num_features, eps=1e-5, momentum=0.1) -> layer.

    Args:
        norm: a name from `NORMS`, or a layer class or partial, taken as it is.
        dims: number of position dimensions: 1, 2 or 3 (T, H, W).
        options: further keyword arguments for every layer. "gn" takes `groups` (32) or
            `channels_per_group`; in both cases the greatest divisor of the width that they allow.

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
