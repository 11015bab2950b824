"""Backbones by the numbers that both libraries describe them with."""

from __future__ import annotations

from collections.abc import Sequence

from snvideo.errors import SnvideoError
from snvideo.models.registry import BACKBONES
from snvideo.translation.keys import ForeignKeys

SLOW = {50: ("slow_r50_8x8", "slow_r50_4x16"), 101: ("slow_r101_8x8",)}
"""Depth -> backbones, which differ in the view that they are named after alone."""

SLOWFAST = {
    (50, 8, 5): "slowfast_r50_4x16",
    (50, 4, 7): "slowfast_r50_8x8",
    (101, 4, 5): "slowfast_r101_8x8",
}
"""Depth, alpha and length of the kernels between the pathways -> backbone."""

X3D = {2.2: ("x3d_m", "x3d_s", "x3d_xs"), 5.0: ("x3d_l",)}
"""Depth factor -> backbones."""


def nearest_view(names: Sequence[str], frames: int, stride: int) -> str:
    """Of equal networks the one that is named after a view, or the first."""
    views = {(BACKBONES[name].frames, BACKBONES[name].stride): name for name in names}
    return views.get((frames, stride), names[0])


def unknown_network(keys: ForeignKeys, what: str) -> SnvideoError:
    """The error of a config whose network is none of those here."""
    return keys.error(f"no network here is {what}: 'snvideo models' lists those that are")
