"""The backbone that a config of PySlowFast describes."""

from __future__ import annotations

from snvideo.translation.keys import ForeignKeys
from snvideo.translation.networks import SLOW, SLOWFAST, X3D, nearest_view, unknown_network

_PLAIN = {
    ("c2d", 50): ("c2d_r50_8x8",),
    ("i3d", 50): ("i3d_r50_8x8",),
    ("i3d", 101): ("i3d_r101_8x8",),
    **{("slow", depth): names for depth, names in SLOW.items()},
    ("csn", 101): ("ir_csn_r101_32x2",),
    ("r2plus1d", 50): ("r2plus1d_r50_16x4",),
}
"""Architecture and depth -> backbones, which differ in the view that they are named after alone."""

_BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}

_NON_LOCAL = [[[]], [[1, 3]], [[1, 3, 5]], [[]]]
"""Non-local blocks of I3D here: behind these blocks of res2 to res5."""


def pyslowfast_network(keys: ForeignKeys, frames: int, stride: int) -> str:
    """Name of the backbone.

    Args:
        keys: of the config, whose sections of the network are read.
        frames, stride: of a clip, by which one of equal networks is chosen.

    Raises:
        SnvideoError: if no backbone here is that network.
    """
    arch = keys.text("MODEL.ARCH", "slowfast")
    hub = keys.text("MODEL.MODEL_NAME", "").startswith("PTV")  # networks that pytorchvideo builds
    keys.require("DATA.INPUT_CHANNEL_NUM", [3, 3] if arch == "slowfast" else [3], [3, 3])
    if arch == "x3d":
        return nearest_view(_x3d(keys, hub), frames, stride)
    depth = keys.whole("RESNET.DEPTH", 50)
    if not hub:
        _require_plain_blocks(keys, arch, depth)
    if arch == "slowfast":
        name = _slowfast(keys, depth)
    elif (arch, depth) in _PLAIN:
        name = nearest_view(_PLAIN[arch, depth], frames, stride)
    else:
        raise unknown_network(keys, f"MODEL.ARCH {arch} of depth {depth}")
    if not has_non_local(keys):
        return name
    if name != "i3d_r50_8x8":
        raise unknown_network(keys, f"{arch} of depth {depth} with non-local blocks")
    _require_non_local(keys)
    return "i3d_nln_r50_8x8"


def _x3d(keys: ForeignKeys, hub: bool) -> tuple[str, ...]:
    depth = keys.number("X3D.DEPTH_FACTOR", 1.0)
    if depth not in X3D:
        raise unknown_network(keys, f"X3D with DEPTH_FACTOR {depth:g}")
    for key, ours, default in (
        ("WIDTH_FACTOR", 2.0, 1.0),
        ("BOTTLENECK_FACTOR", 2.25, 1.0),
        ("DIM_C5", 2048, 2048),
        ("DIM_C1", 12, 12),
        ("SCALE_RES2", False, False),
        ("BN_LIN5", False, False),
        ("CHANNELWISE_3x3x3", True, True),
    ):
        keys.require(f"X3D.{key}", ours, default)
    if not hub:
        keys.require("RESNET.TRANS_FUNC", "x3d_transform", "bottleneck_transform")
        keys.require("RESNET.STRIDE_1X1", False)
    return X3D[depth]


def _slowfast(keys: ForeignKeys, depth: int) -> str:
    alpha = keys.whole("SLOWFAST.ALPHA", 8)
    length = keys.whole("SLOWFAST.FUSION_KERNEL_SZ", 5)
    keys.require("SLOWFAST.BETA_INV", 8)
    keys.require("SLOWFAST.FUSION_CONV_CHANNEL_RATIO", 2)
    if (depth, alpha, length) not in SLOWFAST:
        raise unknown_network(
            keys, f"SlowFast of depth {depth}, ALPHA {alpha} and FUSION_KERNEL_SZ {length}"
        )
    return SLOWFAST[depth, alpha, length]


def _require_plain_blocks(keys: ForeignKeys, arch: str, depth: int) -> None:
    """Check all that a ResNet could have otherwise."""
    paths = 2 if arch == "slowfast" else 1
    for key, ours in (
        ("TRANS_FUNC", "bottleneck_transform"),
        ("NUM_GROUPS", 1),
        ("WIDTH_PER_GROUP", 64),
        ("STRIDE_1X1", False),
        ("SPATIAL_DILATIONS", [[1] * paths] * 4),
    ):
        keys.require(f"RESNET.{key}", ours)
    keys.require("RESNET.SPATIAL_STRIDES", [[stride] * paths for stride in (1, 2, 2, 2)])
    if arch != "c2d" and depth in _BLOCKS:  # blocks that look along time
        blocks, default = ([[n] * paths for n in _BLOCKS[d]] for d in (depth, 50))
        keys.require("RESNET.NUM_BLOCK_TEMP_KERNEL", blocks, default)


def has_non_local(keys: ForeignKeys) -> bool:
    """True if there are non-local blocks in any stage."""
    return any(map(str.isdecimal, str(keys.take("NONLOCAL.LOCATION", []))))


def _require_non_local(keys: ForeignKeys) -> None:
    """Check that non-local blocks are those of I3D here."""
    keys.require("NONLOCAL.LOCATION", _NON_LOCAL)
    keys.require("NONLOCAL.INSTANTIATION", "softmax", "dot_product")
    keys.require("NONLOCAL.GROUP", [[1]] * 4)
    # The default is of two pathways, whatever the network.
    pools = keys.take("NONLOCAL.POOL", [[[1, 2, 2]] * 2] * 4)
    if pools not in ([[[1, 2, 2]]] * 4, [[[1, 2, 2]] * 2] * 4):
        raise keys.error(f"NONLOCAL.POOL is {pools}: nothing here has another than [1, 2, 2]")
