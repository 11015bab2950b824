"""Backbones by name, with any norm."""

from snvideo.models.registry import BACKBONES, create_model, list_models

__all__ = ["BACKBONES", "create_model", "list_models"]
