"""Prediction of video files with trained weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

from snvideo.data.config import ClipConfig, DataConfig, TestViewConfig
from snvideo.data.files import unique_files
from snvideo.engine.predictor import Prediction, Predictor
from snvideo.errors import SnvideoError
from snvideo.models.pretrained import load_model

_PROBED_AT_ONCE = 500
"""Files that are probed before the first of them is predicted."""


def predict(
    videos: Iterable[Path | str],
    weights: Path | str,
    *,
    clips: int = 10,
    crops: int = 3,
    top: int = 5,
    workers: int = 2,
    batch: int = 16,
    device: str = "auto",
    timeout: float = 60.0,
    keep_frames: bool = False,
) -> Iterator[Prediction]:
    """Predict videos one after another, in their order, each file once.

    Frames, views and probabilities are those of an evaluation of the same weights. Files are probed
    and read by processes of their own: whatever is wrong with one costs that one alone.

    Args:
        videos: files, of whatever kind.
        weights: a .safetensors file of snvideo, or the directory of a finished run.
        clips: spread evenly over each video.
        crops: of each clip: 1 (centre) or 3 (along the long side).
        top: classes of a prediction; all of them, if there are fewer.
        workers: processes that read videos, at least 1.
        batch: views in one forward pass.
        device: `auto` (a GPU if there is one), `cpu`, `cuda` or `cuda:1`.
        timeout: seconds that reading one video may take, at most 300.
        keep_frames: return frames of each video, for a contact sheet.

    Raises:
        SnvideoError: if there are no such weights, no such device or too little memory on it, or
            `crops` is 2.
    """
    if crops not in (1, 3):
        raise SnvideoError(f"crops is {crops}: expected 1 (centre) or 3 (along the long side)")
    if workers < 1:
        raise SnvideoError(f"workers is {workers}: expected 1 or more, for files can hang")
    chosen = find_device(device)
    network = load_model(weights, chosen)
    seen = network.metadata.preprocessing
    config = DataConfig(
        index=Path(),
        workers=workers,
        timeout=timeout,
        clip=ClipConfig(frames=seen.frames, stride=seen.stride, target_fps=seen.target_fps),
        test=TestViewConfig(short_side=seen.short_side, crop=seen.crop, clips=clips, crops=crops),
        mean=seen.mean,
        std=seen.std,
    )
    predictor = Predictor(network, config, batch, top, chosen, keep_frames)
    files = unique_files(map(Path, videos))
    for begin in range(0, len(files), _PROBED_AT_ONCE):
        yield from predictor.predict(files[begin : begin + _PROBED_AT_ONCE])


def find_device(name: str) -> torch.device:
    """A device by name; `auto` is the first GPU, or the CPU where there is none.

    Raises:
        SnvideoError: if there is no such device.
    """
    count = torch.cuda.device_count()
    if name == "auto":
        return torch.device("cuda" if count else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise SnvideoError(f"no device '{name}': expected auto, cpu, cuda, or cuda: and a number")
    if device.type == "cuda" and (device.index or 0) >= count:
        raise SnvideoError(f"no device '{name}': {count} GPUs were found; use auto or cpu")
    return device
