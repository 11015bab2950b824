"""Choice of videos, frames and crops: pure functions of a random generator or of nothing."""

import math
from typing import NamedTuple

import numpy as np

from snvideo.data.config import ClipConfig, TestViewConfig, TrainViewConfig

# First number of every random stream: streams that share a seed stay independent.
ORDER, TRAIN, STATISTICS, SUBSTITUTE, DROPOUT, TEST, DROP_PATH = range(7)


def generator(seed: int, stream: int, *place: int) -> np.random.Generator:
    """Random generator that depends on its place in the run and on nothing that came before it.

    So the number of workers, a restart or a resume in mid-epoch changes no number.
    """
    return np.random.default_rng((seed, stream, *place))


def epoch_order(seed: int, epoch: int, videos: int) -> np.ndarray:
    """Order of an epoch's videos, an int64 permutation of shape (videos,)."""
    return generator(seed, ORDER, epoch).permutation(videos)


def repeat_videos(order: np.ndarray, repeats: int, batch: int) -> np.ndarray:
    """Order of steps of `batch` clips, in each of which every video comes `repeats` times.

    Its copies lie `batch / repeats` places apart: in groups of no more clips, over which batch
    statistics are taken, all videos differ.

    Args:
        order: rows of the videos, int64 (videos,), as many as the steps need.
        repeats: clips of a video in its step; divides the batch.
        batch: clips of a step.

    Returns:
        rows of whole steps, int64 (steps * batch,).
    """
    videos = batch // repeats
    steps = order[: len(order) // videos * videos].reshape(-1, videos)
    return np.tile(steps, (1, repeats)).ravel()


def balanced_order(
    seed: int, epoch: int, labels: np.ndarray, count: int | None = None
) -> np.ndarray:
    """Order of an epoch as long as `epoch_order`, with equally many places for each class.

    The videos of a class take its places by turns: none comes a second time in the epoch before
    all have come once. Which classes get one of the places that are left over is random.

    Args:
        seed, epoch: of the run.
        labels: class of each video, whole numbers (videos,).
        count: number of places, in place of that of videos.

    Returns:
        rows of videos, int64 (places,).
    """
    rng = generator(seed, ORDER, epoch)
    classes = rng.permutation(np.unique(labels))
    total = np.arange(len(labels) if count is None else count)
    places = [len(part) for part in np.array_split(total, len(classes))]  # sizes differ by one
    rows = []
    for label, count in zip(classes, places, strict=True):
        (videos,) = np.nonzero(labels == label)
        rounds = [rng.permutation(videos) for _ in range(-(-count // len(videos)))]
        rows.append(np.concatenate([np.empty(0, np.int64), *rounds])[:count])
    return rng.permutation(np.concatenate(rows))


def frame_step(clip: ClipConfig, fps: float) -> float:
    """Frames of the file from one clip frame to the next."""
    return clip.stride * (fps / clip.target_fps if clip.target_fps and fps > 0 else 1.0)


def last_start(clip: ClipConfig, fps: float, frames: int) -> float:
    """Latest frame at which a whole clip can begin; 0 for a video shorter than a clip."""
    return max(0.0, frames - 1 - (clip.frames - 1) * frame_step(clip, fps))


def is_short(clip: ClipConfig, fps: float, frames: int) -> bool:
    """True if a clip that begins with frame 0 goes on, rounded to frames, beyond the last."""
    return math.floor((clip.frames - 1) * frame_step(clip, fps) + 0.5) >= frames


def clip_frames(clip: ClipConfig, fps: float, frames: int, start: float) -> np.ndarray:
    """Frame numbers of a clip, int64 (clip.frames,); a short video repeats its last frame."""
    numbers = np.floor(start + frame_step(clip, fps) * np.arange(clip.frames) + 0.5)
    return numbers.clip(0, frames - 1).astype(np.int64)


def random_start(rng: np.random.Generator, latest: float) -> float:
    """Random whole frame from [0, latest], uniform."""
    return float(rng.integers(0, int(latest) + 1))


def even_starts(clips: int, latest: float) -> np.ndarray:
    """Starts spread evenly over [0, latest] with both ends; a single one in the middle."""
    return np.linspace(0, latest, clips) if clips > 1 else np.array([latest / 2])


def consecutive_starts(clip: ClipConfig, fps: float, frames: int) -> np.ndarray:
    """Starts of clips one behind the other over a whole video, in frames, float64 (clips,).

    A clip takes `clip.frames` steps, and the next one begins at the step after its last frame.
    Frames that are left at the end, too few for a whole clip, are in a last clip that ends with the
    video's last frame and overlaps the one before it. A video of no more than that has one, from 0.
    """
    length = clip.frames * frame_step(clip, fps)
    whole = max(1, int(frames / length + 1e-6))  # a rate of 29.97 is no exact number
    starts = length * np.arange(whole)
    if frames - whole * length >= 1 - 1e-6:
        starts = np.append(starts, last_start(clip, fps, frames))
    return starts


class Crop(NamedTuple):
    """A square of a frame in its own pixels, to be resized to the view's size."""

    top: int
    left: int
    side: int


def _side(height: int, width: int, crop: int, short_side: float) -> int:
    """Side, in the frame's pixels, of a crop of a frame whose short side became `short_side`."""
    # Cutting before resizing gives the same view and never resizes what is thrown away.
    return max(1, min(height, width, round(min(height, width) * crop / short_side)))


def random_crop(rng: np.random.Generator, height: int, width: int, view: TrainViewConfig) -> Crop:
    """Scale jitter and position of a training view, both uniform."""
    low, high = view.short_side
    side = _side(height, width, view.crop, int(rng.integers(low, high + 1)))
    return Crop(
        int(rng.integers(0, height - side + 1)), int(rng.integers(0, width - side + 1)), side
    )


def even_crops(height: int, width: int, view: TestViewConfig) -> list[Crop]:
    """Test crops along the long side, both ends included, centred on the short one."""
    side = _side(height, width, view.crop, view.short_side)
    places = (0.0, 0.5, 1.0) if view.crops == 3 else (0.5,)
    free_height, free_width = height - side, width - side
    if width >= height:
        return [Crop(free_height // 2, round(free_width * place), side) for place in places]
    return [Crop(round(free_height * place), free_width // 2, side) for place in places]
