"""Weights in and out: formats of many libraries, and files with metadata."""

from snvideo.models.pretrained.formats import WeightsSource
from snvideo.models.pretrained.hub import open_weights
from snvideo.models.pretrained.load import load_weights_into
from snvideo.models.pretrained.load_report import LoadReport
from snvideo.models.pretrained.metadata import (
    Preprocessing,
    WeightsMetadata,
    has_batch_part,
    layer_strides,
)
from snvideo.models.pretrained.native import (
    WEIGHTS_FILE,
    LoadedModel,
    evaluated_weights,
    load_model,
    write_weights,
)

__all__ = [
    "WEIGHTS_FILE",
    "LoadReport",
    "LoadedModel",
    "Preprocessing",
    "WeightsMetadata",
    "WeightsSource",
    "evaluated_weights",
    "has_batch_part",
    "layer_strides",
    "load_model",
    "load_weights_into",
    "open_weights",
    "write_weights",
]
