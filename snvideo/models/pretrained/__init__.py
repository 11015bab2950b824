"""Weights in and out: whose they are, what of them is taken, and files that say what they are."""

from snvideo.models.pretrained.formats import Source
from snvideo.models.pretrained.hub import open_weights
from snvideo.models.pretrained.load import transfer
from snvideo.models.pretrained.load_report import Report
from snvideo.models.pretrained.metadata import About, Preprocessing, has_batch_part, strides
from snvideo.models.pretrained.native import MODEL, LoadedModel, load_model, write_weights

__all__ = [
    "MODEL",
    "About",
    "LoadedModel",
    "Preprocessing",
    "Report",
    "Source",
    "has_batch_part",
    "load_model",
    "open_weights",
    "strides",
    "transfer",
    "write_weights",
]
