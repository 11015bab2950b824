"""Comparison of prepared videos with their sources: frame quality and decoding time."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
from av.video.frame import VideoFrame

from snvideo.data import sampling
from snvideo.data.config import ClipConfig, TrainViewConfig
from snvideo.data.decoding import decode_frames
from snvideo.data.index import IndexRow, Video, read_rows
from snvideo.data.preparing.prepare import PrepareSummary, row_pairs
from snvideo.data.preparing.reencode import scaled_frames, shown_frames
from snvideo.data.remote import Place, join
from snvideo.data.workers import WorkerPool, discard_output

FRAMES, WITHIN = 16, 1000
"""Frames of a video that are compared, and how many first ones they are chosen from."""
CLIPS = 3  # clips of a video that are timed, after a first one that is not
EQUAL = 100.0  # PSNR in decibels of equal frames, instead of infinity
_WINDOW = 11  # side in pixels of SSIM's window


@dataclass(frozen=True)
class Comparison:
    """A sample of `videos` against their sources: median and 5 % quantile of the quality of single
    frames, against the scaled ones that were encoded."""

    videos: int
    psnr_luma: list[float]  # decibels
    psnr_rgb: list[float]
    ssim: list[float]
    """Of luma (Wang et al. 2004)."""
    milliseconds_before: float  # processor time of a training clip, in the mean over the sample
    milliseconds_after: float


def sample_pairs(
    prepared: PrepareSummary, index: Path, number: int
) -> list[tuple[IndexRow, IndexRow]]:
    """Choose old and new rows of prepared videos, spread evenly over the index."""
    both = [
        pair
        for pair in row_pairs(read_rows(index), read_rows(prepared.index))
        if pair[1].status == "ok"
    ]
    chosen = np.linspace(0, len(both) - 1, min(number, len(both))).round().astype(int)
    return [both[place] for place in chosen]


def compare_videos(
    sample: Iterable[tuple[IndexRow, IndexRow]],
    root: Place,
    out: Path,
    short_side: int,
    *,
    timeout: float = 120.0,
    progress: Callable[[], None] | None = None,
) -> Comparison | None:
    """Compare prepared videos with their sources, one at a time in a worker process.

    The sample's old and new paths start from `root` and `out`; a video that takes `timeout` seconds
    is left out. `progress` is called after each. None if no video could be compared.
    """
    pairs = [
        tuple(Video.of(row, join(at, row.path)) for row, at in ((old, root), (new, out)))
        for old, new in sample
    ]
    found: list[tuple[np.ndarray, np.ndarray]] = []
    # One process, so that no other takes the caches that the times depend on.
    function = partial(compare_pair, short_side=short_side)
    with closing(WorkerPool(function, 1, timeout, initializer=discard_output)) as pool:
        for outcome in pool.run(pairs):
            if outcome.answer and outcome.failure is None:
                found.append(outcome.answer)
            if progress is not None:
                progress()
    if not found:
        return None
    quality, times = map(np.concatenate, zip(*found, strict=True))
    luma, rgb, ssim = np.percentile(quality, (50, 5), axis=0).T.round(4).tolist()
    return Comparison(len(found), luma, rgb, ssim, *times.mean(axis=0).round(3).tolist())


def compare_pair(
    pair: tuple[Video, Video], short_side: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Compare one video with its source, in a worker process: `frame_quality`, float64 (F, 3), and
    milliseconds of clips before and after, float64 (clips, 2). Yields nothing for tiny videos."""
    import torch  # here and below, as it takes seconds and only the worker needs it

    torch.set_num_threads(1)  # as in a loader's worker
    old, new = pair
    if min(new.width, new.height) <= _WINDOW:
        return
    within = min(old.frames, new.frames, WITHIN)
    # At random: every k-th frame would be key frames, which look best, too often or never.
    chosen = sampling.generator(0, 0).choice(within, min(FRAMES, within), replace=False)
    before = scaled_frames(old.source, old.orientation, short_side)
    frames = zip(before, shown_frames(new.source), strict=False)
    wanted = (both for number, both in enumerate(islice(frames, within)) if number in chosen)
    quality = np.array([frame_quality(*both) for both in wanted])
    times = np.empty((1 + CLIPS, 2))
    for number in range(1 + CLIPS):
        for which in (1, 0) if number % 2 else (0, 1):  # old and new by turns
            times[number, which] = _clip_time(pair[which], number)
    yield quality, times[1:]  # for the first one libraries load


def frame_quality(before: VideoFrame, after: VideoFrame) -> tuple[float, float, float]:
    """PSNR of luma, PSNR of RGB and SSIM of luma of two frames in 4:2:0."""
    import torch
    from torchmetrics.functional import image

    pictures = [
        (
            frame.to_ndarray()[None, : frame.height],
            frame.to_ndarray(format="rgb24").transpose(2, 0, 1),
        )
        for frame in (after, before)
    ]
    (luma, old_luma), (rgb, old_rgb) = (
        [torch.from_numpy(np.ascontiguousarray(one)).float()[None] for one in both]
        for both in zip(*pictures, strict=True)
    )
    similarity = image.structural_similarity_index_measure(luma, old_luma, data_range=255.0)
    return (
        min(image.peak_signal_noise_ratio(luma, old_luma, data_range=255.0).item(), EQUAL),
        min(image.peak_signal_noise_ratio(rgb, old_rgb, data_range=255.0).item(), EQUAL),
        torch.as_tensor(similarity).item(),
    )


def _clip_time(video: Video, number: int) -> float:
    """Milliseconds of processor time from a file to a training clip."""
    from snvideo.data.dataset import cut

    clip, view = ClipConfig(), TrainViewConfig()
    rng = sampling.generator(0, sampling.TRAIN, number)
    start = sampling.random_start(rng, sampling.last_start(clip, video.fps, video.frames))
    begun = time.process_time()
    frames = decode_frames(video, sampling.clip_frames(clip, video.fps, video.frames, start))
    _, height, width, _ = frames.shape
    cut(frames, sampling.random_crop(rng, height, width, view), view.crop)
    return 1e3 * (time.process_time() - begun)
