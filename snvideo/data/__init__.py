"""Clips of real videos: index, decoding, sampling, augmentation, loading."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from snvideo.data.dataset import EvalDataset as EvalDataset
    from snvideo.data.dataset import TrainDataset as TrainDataset
    from snvideo.data.decoding import decode_frames as decode_frames
    from snvideo.data.index import ClipIndex as ClipIndex
    from snvideo.data.indexing.build import build_index as build_index
    from snvideo.data.loader import test_loader as test_loader
    from snvideo.data.loader import train_loader as train_loader

_MODULES = {
    "ClipIndex": "index",
    "EvalDataset": "dataset",
    "TrainDataset": "dataset",
    "build_index": "indexing.build",
    "decode_frames": "decoding",
    "test_loader": "loader",
    "train_loader": "loader",
}
__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'snvideo.data' has no attribute '{name}'")
    return getattr(import_module(f"snvideo.data.{_MODULES[name]}"), name)
