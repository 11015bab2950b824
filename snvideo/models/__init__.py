"""Backbones: names to networks, with any norm."""

from snvideo.models.registry import BACKBONES, build_model

__all__ = ["BACKBONES", "build_model"]
