"""Weights of a known format, and the translation of names that all formats share."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn

from snvideo.models.pretrained.metadata import RGB, WeightsMetadata
from snvideo.norm import SwitchNorm

IMAGENET: tuple[RGB, RGB] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
KINETICS: tuple[RGB, RGB] = ((0.45, 0.45, 0.45), (0.225, 0.225, 0.225))
TORCHVISION: tuple[RGB, RGB] = ((0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989))


NO_POOL = "has no pool over time, the network here has one: logits differ until it is trained on"
"""Of networks that have the tensors of those here."""


class WeightsSource(NamedTuple):
    """Weights to start a network from, of a known format."""

    origin: str
    """The file, or the library and name that they come from."""
    format: str
    """Name of the format."""
    tensors: dict[str, Tensor]
    norm: str | None
    """As from `norm_kind`; None where the file does not show it."""
    mean_std: tuple[RGB, RGB]
    """Normalization of the input, for values 0..1."""
    sha256: str | None
    canonical_names: bool = False
    """Names are those of `canonical_layers`; otherwise they are the network's own."""
    images: bool = False
    """Of a network for images, whose classes are not those of videos."""
    time_stride: int | None = None
    """Of the stem's convolution, where the format says; the tensors do not tell."""
    shifted: bool | None = None
    """Channels are shifted along time, as in TSM, where the format says; as above."""
    classes: tuple[str, ...] | None = None
    """Names in the order of the logits, where the file has them."""
    metadata: WeightsMetadata | None = None
    """Of a file of snvideo."""
    notes: tuple[str, ...] = ()
    """Changes made in translation, and caveats."""
    exact: bool = True
    """With all tensors loaded, a network gives the logits of the original."""


def norm_kind(layer: nn.Module) -> str | None:
    """Kind of a norm, whatever its class and library: sn, bn, gn, ln, in; None for other layers."""
    if isinstance(layer, SwitchNorm):
        return "sn"
    if isinstance(layer, nn.GroupNorm):
        return "ln" if layer.num_groups == 1 else "gn"
    if isinstance(layer, nn.modules.instancenorm._InstanceNorm):
        return "in"
    return "bn" if isinstance(layer, nn.modules.batchnorm._NormBase) else None


Rules = dict[str, Callable[[re.Match[str]], str]]
"""Pattern of a layer's name -> its canonical name."""

STAGE = {"1": "res2", "2": "res3", "3": "res4", "4": "res5"}
LETTER = {"1": "a", "2": "b", "3": "c"}
KIND = {"conv": "conv", "bn": "norm", "sn": "norm", "0": "conv", "1": "norm"}


def rename(source: WeightsSource, rules: Rules) -> WeightsSource:
    """The source with canonical names."""

    def translate(name: str) -> str:
        layer, _, field = name.rpartition(".")
        for pattern, canonical in rules.items():
            if found := re.fullmatch(pattern, layer):
                return f"{canonical(found)}.{field}"
        return name

    tensors = {translate(name): tensor for name, tensor in source.tensors.items()}
    return source._replace(tensors=tensors, canonical_names=True)
