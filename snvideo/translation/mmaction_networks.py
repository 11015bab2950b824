"""The backbone that a config of mmaction2 describes."""

from __future__ import annotations

from typing import Any

from snvideo.models.registry import BACKBONES
from snvideo.translation.keys import ForeignKeys
from snvideo.translation.networks import SLOW, SLOWFAST, X3D, nearest_view, unknown_network

_BACKBONE = "model.backbone"

_I3D = ((1, 1, 1), (1, 0, 1, 0), (1, 0, 1, 0, 1, 0), (0, 1, 0))
"""Blocks of I3D that look along time."""


def mmaction_network(keys: ForeignKeys, frames: int, stride: int) -> str:
    """Name of the backbone.

    Args:
        keys: of the config, whose sections of the network are read.
        frames, stride: of a clip, by which one of equal networks is chosen.

    Raises:
        SnvideoError: if no backbone here is that network.
    """
    kind = keys.text(f"{_BACKBONE}.type", "none")
    if kind not in _NETWORKS:
        raise keys.error(
            f"{_BACKBONE}.type {kind}: expected one of {', '.join(_NETWORKS)}; no other is here"
        )
    for key in ("non_local", "with_cbam"):
        flat = str(keys.values.get(f"{_BACKBONE}.{key}", 0))
        if any(digit in flat for digit in "123456789T"):
            raise keys.error(f"{_BACKBONE}.{key} is {flat}: no network here is that")
        keys.take(f"{_BACKBONE}.{key}")
    return nearest_view(_NETWORKS[kind](keys), frames, stride)


def _whole(keys: ForeignKeys, key: str) -> int:
    """A whole number that the file has to state, as its default differs between versions."""
    if f"{_BACKBONE}.{key}" not in keys:
        raise keys.error(f"{_BACKBONE}.{key} is not stated: write it into the file")
    return keys.whole(f"{_BACKBONE}.{key}", 0)


def _require(keys: ForeignKeys, settings: dict[str, Any], place: str = _BACKBONE) -> None:
    for key, ours in settings.items():
        keys.require(f"{place}.{key}", ours)


_RESNET = {
    "in_channels": 3,
    "base_channels": 64,
    "num_stages": 4,
    "spatial_strides": (1, 2, 2, 2),
    "temporal_strides": (1, 1, 1, 1),
    "dilations": (1, 1, 1, 1),
    "style": "pytorch",
    "conv_cfg.type": "Conv3d",
    "with_pool1": True,
}
"""What a ResNet in 3D could have otherwise."""


def _resnet3d(keys: ForeignKeys) -> tuple[str, ...]:
    _require(keys, _RESNET | {"conv1_kernel": (5, 7, 7), "inflate_style": "3x1x1"})
    depth = _whole(keys, "depth")
    strides = _whole(keys, "conv1_stride_t"), _whole(keys, "pool1_stride_t")
    if f"{_BACKBONE}.inflate" not in keys:
        raise keys.error(f"{_BACKBONE}.inflate is not stated: write it into the file")
    _require(keys, {"inflate": _I3D, "with_pool2": True})
    if (depth, strides) == (50, (2, 2)):
        keys.add(
            f"{_BACKBONE}.pool1_stride_t", 2, "the first pool sees three frames, as in the paper"
        )
        return ("i3d_r50_32x2",)
    if (depth, strides) == (50, (1, 1)):
        return ("i3d_r50_8x8",)
    raise unknown_network(keys, f"I3D of depth {depth} with the strides {strides} in time")


def _slow(keys: ForeignKeys) -> tuple[str, ...]:
    slow = {"conv1_kernel": (1, 7, 7), "inflate": (0, 0, 1, 1), "with_pool2": False}
    _require(keys, _RESNET | slow | {"conv1_stride_t": 1, "pool1_stride_t": 1, "lateral": False})
    depth = _whole(keys, "depth")
    if depth not in SLOW:
        raise unknown_network(keys, f"SlowOnly of depth {depth}")
    return SLOW[depth]


def _slowfast(keys: ForeignKeys) -> tuple[str, ...]:
    ratio = keys.whole(f"{_BACKBONE}.speed_ratio", 8)
    keys.require(f"{_BACKBONE}.resample_rate", ratio, default=8)
    _require(keys, {"channel_ratio": 8})
    slow, fast = f"{_BACKBONE}.slow_pathway", f"{_BACKBONE}.fast_pathway"
    common = _RESNET | {"type": "resnet3d", "conv1_stride_t": 1, "pool1_stride_t": 1}
    pathways = {
        slow: {"conv1_kernel": (1, 7, 7), "inflate": (0, 0, 1, 1), "lateral": True},
        fast: {"conv1_kernel": (5, 7, 7), "inflate": (1, 1, 1, 1), "lateral": False},
    }
    _require(keys, common | pathways[slow], slow)
    _require(keys, common | pathways[fast] | {"base_channels": 8}, fast)
    keys.expect(f"{slow}.lateral_norm", True, "lateral connections have norms", default=False)
    depth, length = keys.whole(f"{slow}.depth", 50), keys.whole(f"{slow}.fusion_kernel", 5)
    keys.require(f"{fast}.depth", depth)
    if (depth, ratio, length) not in SLOWFAST:
        raise unknown_network(
            keys, f"SlowFast of depth {depth}, speed_ratio {ratio} and fusion_kernel {length}"
        )
    return (SLOWFAST[depth, ratio, length],)


def _csn(keys: ForeignKeys) -> tuple[str, ...]:
    mode = keys.text(f"{_BACKBONE}.bottleneck_mode", "ir")
    depth = _whole(keys, "depth")
    csn = {"conv1_kernel": (3, 7, 7), "conv1_stride_t": 1, "pool1_stride_t": 1}
    halved = {"temporal_strides": (1, 2, 2, 2), "with_pool2": False}
    _require(keys, _RESNET | csn | halved)
    name = f"{mode}_csn_r{depth}_32x2"
    if name not in BACKBONES:
        raise unknown_network(keys, f"CSN of depth {depth} with bottleneck_mode {mode}")
    return (name,)


def _tsm(keys: ForeignKeys) -> tuple[str, ...]:
    depth = _whole(keys, "depth")
    settings = {"shift_div": 8, "num_segments": 8, "shift_place": "blockres", "is_shift": True}
    _require(keys, settings | {"temporal_pool": False, "style": "pytorch"})
    if depth != 50:
        raise unknown_network(keys, f"TSM of depth {depth}")
    return ("tsm_r50_8x8",)


def _x3d(keys: ForeignKeys) -> tuple[str, ...]:
    if missing := [k for k in ("gamma_w", "gamma_b", "gamma_d") if f"{_BACKBONE}.{k}" not in keys]:
        raise keys.error(f"{_BACKBONE}.{missing[0]} is not stated: write it into the file")
    _require(keys, {"gamma_w": 1.0, "gamma_b": 2.25, "base_channels": 24, "se_ratio": 1 / 16})
    depth = keys.number(f"{_BACKBONE}.gamma_d", 1.0)
    if depth not in X3D:
        raise unknown_network(keys, f"X3D with gamma_d {depth:g}")
    return X3D[depth]


_NETWORKS = {
    "ResNet3d": _resnet3d,
    "ResNet3dSlowOnly": _slow,
    "ResNet3dSlowFast": _slowfast,
    "ResNet3dCSN": _csn,
    "ResNetTSM": _tsm,
    "X3D": _x3d,
}
