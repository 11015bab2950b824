"""Switchable Normalization and its rivals. Knows tensors only, and needs torch alone."""

from snvideo.norm.factory import NORMS, convert_norm, create_norm
from snvideo.norm.functional import switch_norm
from snvideo.norm.importance import Importance, importance
from snvideo.norm.statistics import (
    average_statistics,
    kept_statistics,
    one_update,
    tracking_layers,
)
from snvideo.norm.switch_norm import SwitchNorm, SwitchNorm1d, SwitchNorm2d, SwitchNorm3d

__all__ = [
    "NORMS",
    "Importance",
    "SwitchNorm",
    "SwitchNorm1d",
    "SwitchNorm2d",
    "SwitchNorm3d",
    "average_statistics",
    "convert_norm",
    "create_norm",
    "importance",
    "kept_statistics",
    "one_update",
    "switch_norm",
    "tracking_layers",
]
