"""Clips of real videos: index, decoding, sampling, augmentation, loading."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from snvideo.data.dataset import EvalDataset, TrainDataset
    from snvideo.data.decoding import decode_frames
    from snvideo.data.index import ClipIndex
    from snvideo.data.indexing.build import build_index
    from snvideo.data.loader import test_loader, train_loader

__all__ = [
    "ClipIndex",
    "EvalDataset",
    "TrainDataset",
    "build_index",
    "decode_frames",
    "test_loader",
    "train_loader",
]

_MODULES = {
    "ClipIndex": "snvideo.data.index",
    "EvalDataset": "snvideo.data.dataset",
    "TrainDataset": "snvideo.data.dataset",
    "build_index": "snvideo.data.indexing.build",
    "decode_frames": "snvideo.data.decoding",
    "test_loader": "snvideo.data.loader",
    "train_loader": "snvideo.data.loader",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'snvideo.data' has no attribute '{name}'")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *_MODULES]
