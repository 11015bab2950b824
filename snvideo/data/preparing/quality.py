"""One prepared video against its source: likeness of frames, processor time of clips."""

import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from av.video.frame import VideoFrame
from torch import Tensor
from torchmetrics.functional.image import (
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)

from snvideo.data import sampling
from snvideo.data.config import ClipConfig, TrainViewConfig
from snvideo.data.dataset import cut
from snvideo.data.decoding.decode import decode
from snvideo.data.index import Video
from snvideo.data.preparing.comparison import LIKENESS, TIMES
from snvideo.data.preparing.reencode import shown_frames, small_frames

FRAMES = 16
"""Frames of a video that are compared, drawn from its first `_WITHIN`."""
CLIPS = 3
"""Clips of a video that are timed, besides one before them that is not."""
EQUAL = 100.0
"""Decibels that stand for equal pictures."""
_WITHIN = 1000
_WINDOW = 11
"""Pixels that SSIM looks at at a time."""


def compare_one(
    pair: tuple[dict[str, Any], dict[str, Any]], short_side: int
) -> Iterator[dict[str, list[float]]]:
    """Values of one video's frames and clips, as a worker process calls it; none of tiny ones."""
    torch.set_num_threads(1)  # as in a loader's worker
    old, new = (Video(**{**values, "path": Path(values["path"])}) for values in pair)
    if min(new.width, new.height) <= _WINDOW:
        return
    yield {**_likeness(old, new, short_side), **_times(old, new)}


def _likeness(old: Video, new: Video, short_side: int) -> dict[str, list[float]]:
    within = min(old.frames, new.frames, _WITHIN)
    # At random, so that key frames, which look best, get no more than their part.
    chosen = sampling.generator(0, 0).choice(within, min(FRAMES, within), replace=False)
    values: dict[str, list[float]] = {name: [] for name in LIKENESS}
    frames = zip(
        small_frames(old.path, old.rotation, short_side), shown_frames(new.path), strict=False
    )
    for number, (before, after) in enumerate(islice(frames, int(chosen.max()) + 1)):
        if number in chosen:
            for name, value in zip(LIKENESS, _alike(before, after), strict=True):
                values[name].append(min(float(value), EQUAL))
    return values


def _alike(before: VideoFrame, after: VideoFrame) -> tuple[Tensor, Tensor, Tensor]:
    lumas = [_tensor(frame.to_ndarray()[None, : frame.height]) for frame in (after, before)]
    colours = [
        _tensor(frame.to_ndarray(format="rgb24").transpose(2, 0, 1)) for frame in (after, before)
    ]
    return (
        peak_signal_noise_ratio(*lumas, data_range=255.0),
        peak_signal_noise_ratio(*colours, data_range=255.0),
        structural_similarity_index_measure(*lumas, data_range=255.0),
    )


def _tensor(picture: np.ndarray) -> Tensor:
    """From (C, H, W) bytes to float32 (1, C, H, W), still 0 to 255."""
    return torch.from_numpy(np.ascontiguousarray(picture)).float()[None]


def _times(old: Video, new: Video) -> dict[str, list[float]]:
    """Of the same clips, taking turns."""
    spent: dict[str, list[float]] = {name: [] for name in TIMES}
    for number in range(1 + CLIPS):
        turns = list(zip(TIMES, (old, new), strict=True))
        for name, video in turns[:: -1 if number % 2 else 1]:
            milliseconds = _clip_time(video, number)
            if number:  # the first is slower: libraries load
                spent[name].append(milliseconds)
    return spent


def _clip_time(video: Video, number: int) -> float:
    """Milliseconds of processor time from a file to a training clip."""
    clip, view = ClipConfig(), TrainViewConfig()
    rng = sampling.generator(0, sampling.TRAIN, number)
    start = sampling.random_start(rng, sampling.last_start(clip, video.fps, video.frames))
    begun = time.process_time()
    frames = decode(video, sampling.clip_frames(clip, video.fps, video.frames, start))
    cut(frames, sampling.random_crop(rng, *frames.shape[1:3], view), view.crop)
    return 1e3 * (time.process_time() - begun)
