"""Comparison of prepared videos with their sources: frame quality and decoding time."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

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
from snvideo.data.decoding import decode_frames
from snvideo.data.index import IndexRow, Video
from snvideo.data.preparing.prepare import PrepareSummary, row_pairs
from snvideo.data.preparing.reencode import scaled_frames, shown_frames
from snvideo.data.workers import WorkerPool, discard_output

QUALITY = ("psnr_luma", "psnr_rgb", "ssim")
TIMES = ("milliseconds_before", "milliseconds_after")
FRAMES = 16
"""Frames of a video that are compared, chosen from its first `_WITHIN`."""
CLIPS = 3
"""Clips of a video that are timed, after a first one that is not."""
EQUAL = 100.0
"""PSNR in decibels of equal frames, instead of infinity."""
_WITHIN = 1000
_WINDOW = 11
"""Side in pixels of SSIM's window."""


class Percentiles(NamedTuple):
    """Median and 5 % quantile of values."""

    median: float
    low: float


@dataclass(frozen=True)
class Comparison:
    """Prepared videos against their sources, on a sample of `videos`."""

    videos: int
    psnr_luma: Percentiles  # decibels, of single frames against the scaled ones that were encoded
    psnr_rgb: Percentiles
    ssim: Percentiles
    """Of luma (Wang et al. 2004)."""
    milliseconds_before: float  # processor time of a training clip, in the mean over the sample
    milliseconds_after: float


def sample_pairs(
    prepared: PrepareSummary, index: Path, number: int
) -> list[tuple[IndexRow, IndexRow]]:
    """Choose old and new rows of prepared videos, spread evenly over the index."""
    made = prepared.videos - len(prepared.failures)
    chosen = np.linspace(0, made - 1, min(number, made)).round().astype(int)
    both = (pair for pair in row_pairs(index, prepared.index) if pair[1].status == "ok")
    return [pair for place, pair in enumerate(both) if place in chosen]


def compare_videos(
    sample: Iterable[tuple[IndexRow, IndexRow]],
    root: Path,
    out: Path,
    short_side: int,
    *,
    timeout: float = 120.0,
    progress: Callable[[], None] | None = None,
) -> Comparison | None:
    """Compare prepared videos with their sources, one at a time in a worker process.

    Args:
        sample: rows of the old and of the new index.
        root: folder that the old paths start from.
        out: folder that the new ones start from.
        short_side: that the videos were prepared with.
        timeout: seconds after which a video is given up, and left out.
        progress: called after each video.

    Returns:
        None if no video could be compared.
    """
    pairs = [(_video(old, root), _video(new, out)) for old, new in sample]
    found: dict[str, list[float]] = {}
    videos = 0
    # One process, so that no other takes the caches that the times depend on.
    function = partial(compare_pair, short_side=short_side)
    with closing(WorkerPool(function, 1, timeout, initializer=discard_output)) as pool:
        for outcome in pool.run(pairs):
            if outcome.answer and outcome.failure is None:
                videos += 1
                for name, values in outcome.answer.items():
                    found.setdefault(name, []).extend(values)
            if progress is not None:
                progress()
    if not videos:
        return None
    measured: dict[str, Any] = {
        **{name: Percentiles(*np.percentile(found[name], (50, 5)).round(4)) for name in QUALITY},
        **{name: float(np.mean(found[name]).round(3)) for name in TIMES},
    }
    return Comparison(videos, **measured)


def _video(row: IndexRow, folder: Path) -> Video:
    values = {name: value for name, value in row._asdict().items() if name in Video._fields}
    return Video(**{**values, "path": folder / row.path, "name": row.path})


def compare_pair(pair: tuple[Video, Video], short_side: int) -> Iterator[dict[str, list[float]]]:
    """Compare one video with its source, in a worker process; yields nothing for tiny videos."""
    torch.set_num_threads(1)  # as in a loader's worker
    old, new = pair
    if min(new.width, new.height) <= _WINDOW:
        return
    yield {**_frame_quality(old, new, short_side), **_clip_times(old, new)}


def _frame_quality(old: Video, new: Video, short_side: int) -> dict[str, list[float]]:
    within = min(old.frames, new.frames, _WITHIN)
    # At random: every k-th frame would be key frames, which look best, too often or never.
    chosen = sampling.generator(0, 0).choice(within, min(FRAMES, within), replace=False)
    values: dict[str, list[float]] = {name: [] for name in QUALITY}
    frames = zip(
        scaled_frames(old.path, old.rotation, short_side), shown_frames(new.path), strict=False
    )
    for number, (before, after) in enumerate(islice(frames, int(chosen.max()) + 1)):
        if number in chosen:
            for name, value in zip(QUALITY, frame_quality(before, after), strict=True):
                values[name].append(min(value, EQUAL))
    return values


def frame_quality(before: VideoFrame, after: VideoFrame) -> tuple[float, float, float]:
    """PSNR of luma, PSNR of RGB and SSIM of luma of two frames in 4:2:0."""
    luma, old_luma = (_tensor(f.to_ndarray()[None, : f.height]) for f in (after, before))
    rgb, old_rgb = (
        _tensor(f.to_ndarray(format="rgb24").transpose(2, 0, 1)) for f in (after, before)
    )
    similarity = structural_similarity_index_measure(luma, old_luma, data_range=255.0)
    return (
        peak_signal_noise_ratio(luma, old_luma, data_range=255.0).item(),
        peak_signal_noise_ratio(rgb, old_rgb, data_range=255.0).item(),
        torch.as_tensor(similarity).item(),
    )


def _tensor(frame: np.ndarray) -> Tensor:
    """float32 (1, C, H, W) of uint8 (C, H, W), still 0 to 255."""
    return torch.from_numpy(np.ascontiguousarray(frame)).float()[None]


def _clip_times(old: Video, new: Video) -> dict[str, list[float]]:
    times: list[list[float]] = [[], []]
    for number in range(1 + CLIPS):
        for which in (1, 0) if number % 2 else (0, 1):  # old and new by turns
            times[which].append(_clip_time((old, new)[which], number))
    return {name: spent[1:] for name, spent in zip(TIMES, times, strict=True)}  # libraries load


def _clip_time(video: Video, number: int) -> float:
    """Milliseconds of processor time from a file to a training clip."""
    clip, view = ClipConfig(), TrainViewConfig()
    rng = sampling.generator(0, sampling.TRAIN, number)
    start = sampling.random_start(rng, sampling.last_start(clip, video.fps, video.frames))
    begun = time.process_time()
    frames = decode_frames(video, sampling.clip_frames(clip, video.fps, video.frames, start))
    _, height, width, _ = frames.shape
    cut(frames, sampling.random_crop(rng, height, width, view), view.crop)
    return 1e3 * (time.process_time() - begun)
