"""Sizes and costs of the backbones, counted on the networks themselves."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

from snvideo.errors import SnvideoError
from snvideo.models.cost import count_parameters, multiply_adds
from snvideo.models.registry import BACKBONES, Backbone, backbone, build_model
from snvideo.norm import NORMS


class ListedModel(NamedTuple):
    """A backbone with its size and cost."""

    name: str
    backbone: Backbone
    parameters: int
    multiply_adds: int
    """Of one test view."""


def list_costs(
    names: Sequence[str] = (), norm: str = "bn", classes: int = 400
) -> Iterator[ListedModel]:
    """Count one network after the other.

    Args:
        names: of `BACKBONES`; none for all.
        norm: one of `NORMS`.
        classes: size of the logits.

    Raises:
        SnvideoError: for an unknown name or norm, before anything is counted.
    """
    found = {name: backbone(name) for name in names or BACKBONES}
    if norm not in NORMS:
        raise SnvideoError(f"unknown norm '{norm}': expected one of {', '.join(NORMS)}")
    return (_count(name, found[name], norm, classes) for name in found)


def _count(name: str, found: Backbone, norm: str, classes: int) -> ListedModel:
    with torch.device("meta"):  # shapes alone: nothing is allocated, nothing drawn
        model = build_model(name, classes, norm)
    cost = multiply_adds(model, found.frames, found.crop)
    return ListedModel(name, found, count_parameters(model), cost)
