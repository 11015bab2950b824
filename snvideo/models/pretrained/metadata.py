"""Metadata of weight files: network, norm, classes and preprocessing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import PositiveFloat, PositiveInt
from torch import nn

from snvideo.base_config import Section
from snvideo.norm import SwitchNorm
from snvideo.norm.factory import NormName

RGB = tuple[float, float, float]

METADATA_KEY = "snvideo"
"""The key of the metadata in a file."""


class Preprocessing(Section):
    """From a video to the network's input."""

    mean: RGB
    """Of the three channels, for values 0..1."""
    std: RGB
    frames: PositiveInt
    """Frames of a clip."""
    stride: PositiveInt
    """Frames of the video from one clip frame to the next."""
    target_fps: PositiveFloat | None = None
    """Frame rate that strides are counted at; null: the video's own."""
    short_side: PositiveInt
    """Pixels, in tests."""
    crop: PositiveInt
    """Side of a test view, pixels."""


class WeightsMetadata(Section):
    """Facts of a network and its weights that the tensors do not say."""

    architecture: str
    """One of `snvideo.models.BACKBONES`."""
    strides: Mapping[str, tuple[int, ...]]
    """As from `layer_strides`. Networks of other strides may have the same tensors."""
    norm: NormName
    use_batch: bool = True
    """Switchable Normalization has its batch part."""
    norm_options: Mapping[str, Any] = {}
    """Keyword arguments of the norms beside their defaults, as from `NormConfig.options`."""
    dropout: float = 0.5
    """Rate before the classifier while training."""
    drop_path: float = 0.0
    """Rate of the last residual branch while training."""
    amp: Literal["auto", "none", "bf16", "fp16"] = "auto"
    """Precision of the convolutions, as configured, that it was tested with."""
    statistics: str | None
    """Kind of the batch statistics: `average` or `population`, taken of training batches, or
    `moving` averages; null for norms that have none."""
    classes: tuple[str, ...]
    """Names, in the order of the logits."""
    activation: Literal["softmax", "sigmoid"] = "softmax"
    """From logits to probabilities: of one class of all, or of each class by itself."""
    preprocessing: Preprocessing
    started_from: Mapping[str, Any] | None = None
    """The weights that training started from."""
    results: Mapping[str, Any] | None = None
    """Of the last test: accuracies, views, what was tested on."""

    def to_checkpoint(self) -> dict[str, Any]:
        """The entry of a checkpoint, in plain values."""
        return {METADATA_KEY: self.model_dump(mode="json")}


def layer_strides(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Strides of the convolutions and pools of a network that have any: module -> (T, H, W).

    The tensors of the 8x8 I3D fit the 32x2 one, whose strides differ, and mean nothing there.
    """
    found = {}
    for name, module in model.named_modules():
        stride = getattr(module, "stride", (1,))
        steps = (stride,) * 3 if isinstance(stride, int) else tuple(map(int, stride))
        if set(steps) != {1}:
            found[name] = steps
    return found


def has_batch_part(model: nn.Module) -> bool:
    """False for a network whose Switchable Normalization has no batch part."""
    return all(layer.use_batch for layer in model.modules() if isinstance(layer, SwitchNorm))
