"""Weights in and out: whose they are, what of them is taken, and files that say what they are."""

from snvideo.models.weights.about import About, Preprocessing, has_batch_part, strides
from snvideo.models.weights.formats import Source
from snvideo.models.weights.open import open_weights
from snvideo.models.weights.ours import MODEL, LoadedModel, load_model, write_weights
from snvideo.models.weights.report import Report
from snvideo.models.weights.transfer import transfer

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
