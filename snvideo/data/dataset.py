"""Videos of an index as training clips and as test views, uint8 as they leave the decoder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from snvideo.data import sampling
from snvideo.data.augmentation import (
    AugmentationParams,
    BatchAugmentationParams,
    collate_augmentation,
    sample_augmentation,
)
from snvideo.data.config import DataConfig
from snvideo.data.decoding.decode import DecodeError, decode
from snvideo.data.index import ClipIndex, Video
from snvideo.data.quarantine import Quarantine
from snvideo.data.watch import Watch
from snvideo.errors import SnvideoError


class Place(NamedTuple):
    """Where in a run a training clip is used; it alone decides the clip."""

    stream: int
    epoch: int
    position: int
    video: int
    dead: tuple[tuple[int, str], ...] = ()
    """Attempts at it that ended a worker, and how."""


class TrainSample(NamedTuple):
    """One training clip."""

    clip: Tensor
    """uint8 (T, 3, crop, crop)."""
    augmentation: AugmentationParams
    label: int
    unreadable: list[tuple[str, str]]
    """Name and reason of every video that was tried before."""
    row: int
    """Of the index: the video that is shown."""
    numbers: np.ndarray
    """int64 (T,): its frames."""


class VideoViews(NamedTuple):
    """All test views of one video, each of its frames once: they are put together on the device."""

    frames: Tensor
    """uint8 (F, 3, h, w): what any crop shows of any frame, resized."""
    clips: Tensor
    """int64 (clips, T): which of the frames make each clip."""
    corners: list[tuple[int, int]]
    """Top and left of each crop."""
    side: int
    """Of the crops."""

    def put_together(self, device: torch.device) -> Tensor:
        """The views on a device, all crops of the first clip first.

        Returns:
            uint8 (clips * crops, T, 3, side, side).
        """
        frames = self.frames.to(device, non_blocking=True)
        clips = self.clips.to(device, non_blocking=True)
        views = frames.new_empty(
            (len(clips), len(self.corners), clips.shape[1], 3, self.side, self.side)
        )
        for number, (top, left) in enumerate(self.corners):
            crop = frames[..., top : top + self.side, left : left + self.side]
            for clip, view in zip(clips, views[:, number], strict=True):
                torch.index_select(crop, 0, clip, out=view)
        return views.flatten(0, 1)


class TestSample(NamedTuple):
    """All views of one video."""

    __test__ = False  # not a test case, whatever pytest makes of the name

    views: VideoViews | None
    """None if it could not be read."""
    label: int
    video: int
    """Row of the index."""
    unreadable: list[tuple[str, str]]


class Batch(NamedTuple):
    """Training clips of one pass."""

    clips: Tensor
    """uint8 (N, T, 3, crop, crop)."""
    augmentation: BatchAugmentationParams
    labels: Tensor
    """int64 (N,)."""
    unreadable: list[tuple[str, str]]
    """Name and reason of every video that could not be read and was replaced by another."""
    rows: list[int]
    """Of the index: the N videos that are shown."""


class Views(NamedTuple):
    """All test views of some videos, each video decoded once."""

    views: list[VideoViews]
    """Of N videos."""
    labels: Tensor
    """int64 (N,)."""
    videos: Tensor
    """int64 (N,): rows of the index."""
    unreadable: list[tuple[str, str]]
    """Name and reason of every video that could not be read; it is not among the N."""


def cut(frames: np.ndarray, crop: sampling.Crop, size: int) -> Tensor:
    """Crop and resize frames.

    Args:
        frames: uint8 (T, H, W, 3).
        crop: in the frames' pixels.
        size: side of the result.

    Returns:
        uint8 (T, 3, size, size).
    """
    top, left, side = crop
    square = _resized(frames[:, top : top + side, left : left + side], size, size)
    return square.contiguous()  # else the network's input would inherit the decoder's order


def _resized(frames: np.ndarray, height: int, width: int) -> Tensor:
    """From uint8 (T, H, W, 3) to uint8 (T, 3, height, width)."""
    pictures = torch.from_numpy(frames).permute(0, 3, 1, 2)
    return transforms.resize(pictures, [height, width], antialias=True)


class Clips(ABC):
    """What makes samples of places, reading files under watch."""

    def __init__(self, index: ClipIndex, config: DataConfig, quarantine: Quarantine | None) -> None:
        self.index, self.config = index, config
        self.quarantine = quarantine or Quarantine()

    @abstractmethod
    def sample(self, place: Place, watch: Watch) -> Any:
        """The sample of a place, a function of the place and of what is in quarantine alone."""

    def row(self, place: Place, attempt: int) -> int:
        """The video that is read at the given attempt."""
        return place.video

    def name(self, place: Place, attempt: int) -> str:
        """The name of that video."""
        return self.index[self.row(place, attempt)].name

    def read(
        self, place: Place, attempt: int, video: Video, numbers: np.ndarray, watch: Watch
    ) -> np.ndarray:
        """Frames of the video of an attempt, uint8 (len(numbers), H, W, 3).

        The watch is told before the file is opened, and after.

        Raises:
            DecodeError: if it cannot be read, is in quarantine, or has ended a worker before.
        """
        reason = dict(place.dead).get(attempt) or self.quarantine.closed.get(video.name)
        if reason is not None:
            raise DecodeError(reason)
        with watch.reading(place.epoch, place.position, attempt):
            return decode(video, numbers, self.config.decoder)


class TrainClips(Clips):
    """Random clips of an index's videos, each a function of the seed and of its `Place` alone.

    A video that cannot be read is replaced by another, drawn in the same stateless way.
    """

    ATTEMPTS = 10

    def __init__(
        self,
        index: ClipIndex,
        config: DataConfig,
        seed: int,
        quarantine: Quarantine | None = None,
    ) -> None:
        super().__init__(index, config, quarantine)
        self.seed = seed

    def row(self, place: Place, attempt: int) -> int:
        """The place's own video, then others drawn at random."""
        if not attempt:
            return place.video
        rng = sampling.generator(self.seed, sampling.SUBSTITUTE, *place[:3], attempt - 1)
        return int(rng.integers(len(self.index)))

    def sample(self, place: Place, watch: Watch) -> TrainSample:
        unreadable: list[tuple[str, str]] = []
        for attempt in range(self.ATTEMPTS):
            rng = sampling.generator(self.seed, *place[:3], attempt)
            row = self.row(place, attempt)
            video = self.index[row]
            numbers = self._numbers(video, rng)
            try:
                frames = self.read(place, attempt, video, numbers, watch)
            except DecodeError as error:
                unreadable.append((video.name, str(error)))
                continue
            view = self.config.train
            crop = sampling.random_crop(rng, *frames.shape[1:3], view)
            clip = cut(frames, crop, view.crop)
            augmentation = sample_augmentation(rng, view)
            return TrainSample(clip, augmentation, video.label, unreadable, row, numbers)
        raise SnvideoError(
            f"{self.ATTEMPTS} videos in a row could not be read, the last "
            f"{': '.join(unreadable[-1])}; "
            f"check data.root ({self.index.root}) and build the index again"
        )

    def _numbers(self, video: Video, rng: np.random.Generator) -> np.ndarray:
        clip = self.config.clip
        start = sampling.random_start(rng, sampling.last_start(clip, video.fps, video.frames))
        return sampling.clip_frames(clip, video.fps, video.frames, start)


def collate_clips(samples: list[TrainSample]) -> Batch:
    """Put training clips together."""
    return Batch(
        torch.stack([sample.clip for sample in samples]),
        collate_augmentation([sample.augmentation for sample in samples]),
        torch.tensor([sample.label for sample in samples]),
        [video for sample in samples for video in sample.unreadable],
        [sample.row for sample in samples],
    )


class TestVideos(Clips):
    """All test views of an index's videos; a video that cannot be read says so."""

    __test__ = False  # not a test case, whatever pytest makes of the name

    def __init__(
        self,
        index: ClipIndex,
        config: DataConfig,
        clips: int,
        crops: int,
        quarantine: Quarantine | None = None,
    ) -> None:
        super().__init__(index, config, quarantine)
        self.view = config.test.model_copy(update={"clips": clips, "crops": crops})

    def sample(self, place: Place, watch: Watch) -> TestSample:
        video = self.index[place.video]
        numbers = self.numbers(video)
        wanted, inverse = np.unique(numbers, return_inverse=True)
        try:
            frames = self.read(place, 0, video, wanted, watch)
        except DecodeError as error:
            return TestSample(None, video.label, place.video, [(video.name, str(error))])
        views = self._views(frames, torch.from_numpy(inverse.reshape(numbers.shape)))
        return TestSample(views, video.label, place.video, [])

    def _views(self, frames: np.ndarray, clips: Tensor) -> VideoViews:
        """Cut out all that any crop shows, resize it once, and say where the crops lie in it."""
        view = self.view
        crops = sampling.even_crops(*frames.shape[1:3], view)
        side = crops[0].side
        top, left = min(crop.top for crop in crops), min(crop.left for crop in crops)
        bottom = max(crop.top for crop in crops) + side
        right = max(crop.left for crop in crops) + side
        scale = view.crop / side
        shown = frames[:, top:bottom, left:right]
        height, width = (round(pixels * scale) for pixels in shown.shape[1:3])
        corners = [
            (round((crop.top - top) * scale), round((crop.left - left) * scale)) for crop in crops
        ]
        # Compact, for it is sent from the worker with all memory that it lies in.
        pictures = _resized(shown, height, width).contiguous(memory_format=torch.channels_last)
        return VideoViews(pictures, clips, corners, view.crop)

    def numbers(self, video: Video) -> np.ndarray:
        """Frames of all clips of a video, int64 (clips, T)."""
        clip = self.config.clip
        latest = sampling.last_start(clip, video.fps, video.frames)
        starts = sampling.even_starts(self.view.clips, latest)
        return np.stack(
            [sampling.clip_frames(clip, video.fps, video.frames, start) for start in starts]
        )


def collate_views(samples: list[TestSample]) -> Views:
    """Put the views of several videos together, leaving out those that could not be read."""
    good = [sample for sample in samples if sample.views is not None]
    return Views(
        [sample.views for sample in good],
        torch.tensor([sample.label for sample in good], dtype=torch.int64),
        torch.tensor([sample.video for sample in good], dtype=torch.int64),
        [video for sample in samples for video in sample.unreadable],
    )
