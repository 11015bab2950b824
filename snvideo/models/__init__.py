"""Backbones: names to networks, with any norm."""

from snvideo.models.zoo import BACKBONES, build_model

__all__ = ["BACKBONES", "build_model"]
