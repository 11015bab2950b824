"""Datasets of training clips and of evaluation views, uint8 as they leave the decoder.

They need no worker pool: give them to any `torch.utils.data.DataLoader`, with their `collate`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as transforms

from snvideo.data import sampling
from snvideo.data.augmentation import AugmentationParams, sample_augmentation
from snvideo.data.config import DataConfig, TestViewConfig
from snvideo.data.decoding import DecodeError, decode_frames, warn_of_pyav
from snvideo.data.index import ClipIndex, Video
from snvideo.data.quarantine import Quarantine
from snvideo.errors import SnvideoError


class SampleKey(NamedTuple):
    """Place of a sample in a run, which alone decides the sample; `video` is a row of the index."""

    stream: int
    epoch: int
    position: int
    video: int
    failed: tuple[tuple[int, str], ...] = ()  # attempts that ended a worker process, and why


class TrainSample(NamedTuple):
    """Training clip, uint8 (T, 3, crop, crop), of the frames `numbers`, int64 (T,), of the video in
    a row of the index; name and reason of every video that was tried before."""

    clip: Tensor
    augmentation: AugmentationParams
    label: Tensor  # see `VideoDataset.label`
    unreadable: list[tuple[str, str]]
    row: int
    numbers: np.ndarray


class VideoViews(NamedTuple):
    """All evaluation views of one video, each of its frames once until they are expanded."""

    frames: Tensor  # uint8 (F, 3, h, w): what any crop shows of any frame, resized
    clips: Tensor  # int64 (clips, T): which of the frames make each clip
    corners: list[tuple[int, int]]  # top and left of each crop
    side: int  # of the crops

    def expand(self, device: torch.device) -> Tensor:
        """Views on a device, uint8 (clips * crops, T, 3, side, side), first the first clip's."""
        frames = self.frames.to(device, non_blocking=True)
        clips = self.clips.to(device, non_blocking=True)
        shape = len(clips), len(self.corners), clips.shape[1], 3, self.side, self.side
        views = frames.new_empty(shape)
        for number, (top, left) in enumerate(self.corners):
            crop = frames[..., top : top + self.side, left : left + self.side]
            if crop.shape[-2:] != (self.side, self.side):  # index_select would only warn
                raise ValueError(f"a view of {self.side} pixels lies outside of its frame")
            for clip, view in zip(clips, views[:, number], strict=True):
                torch.index_select(crop, 0, clip, out=view)
        return views.flatten(0, 1)


class EvalSample(NamedTuple):
    """All evaluation views of the video in a row of the index; None if it is unreadable."""

    views: VideoViews | None
    label: Tensor  # see `VideoDataset.label`
    video: int
    unreadable: list[tuple[str, str]]


class Batch(NamedTuple):
    """Training clips of one pass, uint8 (N, T, 3, crop, crop), of the videos in N rows of the
    index; their labels, int64 (N,) or, of an index of several labels, float32 (N, classes); name
    and reason of every video that could not be read and was replaced by another."""

    clips: Tensor
    augmentation: list[AugmentationParams]
    labels: Tensor
    unreadable: list[tuple[str, str]]
    rows: list[int]
    replaced: int = 0
    """Clips of other videos than those that were asked for; several may have been tried for one."""


class EvalBatch(NamedTuple):
    """All evaluation views of N videos, their labels as in `Batch` and rows of the index, int64
    (N,); name and reason of every video that could not be read, which is not among the N."""

    views: list[VideoViews]
    labels: Tensor
    videos: Tensor
    unreadable: list[tuple[str, str]]


def cut(frames: np.ndarray, crop: sampling.Crop, size: int) -> Tensor:
    """Crop frames, uint8 (T, H, W, 3), and resize to uint8 (T, 3, size, size)."""
    top, left, side = crop
    square = _resize(frames[:, top : top + side, left : left + side], size, size)
    # Else the network's input would inherit the decoder's order. In a third of torch's time:
    return torch.from_numpy(np.ascontiguousarray(square.numpy()))


def _resize(frames: np.ndarray, height: int, width: int) -> Tensor:
    """Resize uint8 (T, H, W, 3) to uint8 (T, 3, height, width), channels last in memory."""
    dense = np.ascontiguousarray(frames)  # resized in half the time of a part of each row
    channels_first = torch.from_numpy(dense).permute(0, 3, 1, 2)
    return transforms.resize(channels_first, [height, width], antialias=True)


class ViewCut(NamedTuple):
    """The part of a frame that any test crop shows, and what it is resized to; crops lie in it in a
    row."""

    top: int
    bottom: int
    left: int
    right: int
    height: int  # after resizing
    width: int
    corners: list[tuple[int, int]]  # top and left of each crop, after resizing

    @classmethod
    def of(cls, height: int, width: int, view: TestViewConfig) -> ViewCut:
        """The cut of upright frames of a size."""
        crops = sampling.even_crops(height, width, view)
        (top, left, side), (last_top, last_left, _) = crops[0], crops[-1]
        scale = view.crop / side
        corners = [(round((y - top) * scale), round((x - left) * scale)) for y, x, _ in crops]
        # By the corners: a size that is rounded by itself may be a pixel less than the last crop's.
        height, width = (corner + view.crop for corner in corners[-1])
        return cls(top, last_top + side, left, last_left + side, height, width, corners)

    def shown(self, frames: np.ndarray) -> Tensor:
        """Cut and resize frames, uint8 (T, H, W, 3), to uint8 (T, 3, height, width)."""
        part = frames[:, self.top : self.bottom, self.left : self.right]
        return _resize(part, self.height, self.width)


class VideoDataset(Dataset[Any], ABC):
    """Samples of an index's videos, but for those in quarantine, which are not opened."""

    stream = sampling.TRAIN
    epoch = 0  # epoch of the samples that are asked for by row

    def __init__(self, index: ClipIndex, config: DataConfig, quarantine: Quarantine | None) -> None:
        self.index, self.config = index, config
        warn_of_pyav(config.decoder, index.trusting(config.decoder), len(index))
        self.quarantine = quarantine or Quarantine()

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, key: SampleKey | int) -> Any:
        """Sample of a key or of a row of the index."""
        *_, sample = self.steps(key if isinstance(key, SampleKey) else self.key(key))
        return sample

    def key(self, row: int) -> SampleKey:
        """Key of a row of the index."""
        return SampleKey(self.stream, self.epoch, row, row)

    def label(self, row: int) -> Tensor:
        """Label of a video, int64 (); in an index of several labels float32 (classes,), 1 for those
        that it has. All is -1 where no label is known."""
        labels = torch.from_numpy(self.index.labels_of(row).astype(np.int64))
        if not self.index.multi_label:
            return labels[0] if len(labels) else torch.tensor(-1)
        known = torch.zeros(len(self.index.labels)).index_fill(0, labels, 1.0)
        return known if len(labels) else known - 1

    @abstractmethod
    def steps(self, key: SampleKey) -> Iterator[Any]:
        """Number of every attempt before its video is opened, then the sample."""

    @staticmethod
    @abstractmethod
    def collate(samples: list[Any]) -> Any:
        """A batch of samples, with `unreadable`: names of videos and reasons."""

    def row(self, key: SampleKey, attempt: int) -> int:
        """Row of the video that is read at an attempt."""
        return key.video

    def read(
        self,
        key: SampleKey,
        attempt: int,
        video: Video,
        numbers: np.ndarray,
        transform: Callable[[np.ndarray], Tensor],
    ) -> Tensor:
        """Frames of the video of an attempt, each transformed as it comes, uint8 (1, H, W, 3); or a
        `DecodeError` if it cannot be read, is in quarantine, or has ended a process before."""
        reason = dict(key.failed).get(attempt) or self.quarantine.closed.get(video.name)
        if reason is not None:
            raise DecodeError(reason)

        def transformed(frame: np.ndarray) -> np.ndarray:
            return transform(frame[None])[0].numpy()

        # One by one, for there may be hundreds of large ones.
        return torch.from_numpy(decode_frames(video, numbers, self.config.decoder, transformed))


class TrainDataset(VideoDataset):
    """Random clips of an index's videos, each a function of the run's seed and of its key alone.

    A video that cannot be read is replaced by another, drawn in the same stateless way.
    """

    ATTEMPTS = 10

    def __init__(
        self, index: ClipIndex, config: DataConfig, seed: int, quarantine: Quarantine | None = None
    ) -> None:
        super().__init__(index, config, quarantine)
        self.seed = seed

    def order(self, epoch: int, batch: int | None = None) -> np.ndarray:
        """Rows of an epoch's videos in the order of training, int64 (videos,), or with repeats of
        videos in steps of `batch` clips, (steps * batch,)."""
        repeats = self.config.repeats
        if batch is not None and repeats > 1:
            count = len(self.index) // batch * (batch // repeats)
            return sampling.repeat_videos(self._order(epoch, count), repeats, batch)
        return self._order(epoch, len(self.index))

    def _order(self, epoch: int, count: int) -> np.ndarray:
        if self.config.sampling == "balanced":
            if missing := len(self.index) - len(self.index.labelled):
                raise SnvideoError(
                    f"data.sampling=balanced needs the label of each video, and {missing} of split "
                    f"{self.index.split!r} have none: data.sampling=shuffled takes them"
                )
            return sampling.balanced_order(self.seed, epoch, self.index.first_labels, count)
        return sampling.epoch_order(self.seed, epoch, len(self.index))[:count]

    def row(self, key: SampleKey, attempt: int) -> int:
        """The key's own video, then others drawn at random."""
        if not attempt:
            return key.video
        rng = sampling.generator(self.seed, sampling.SUBSTITUTE, *key[:3], attempt - 1)
        return int(rng.integers(len(self.index)))

    def steps(self, key: SampleKey) -> Iterator[Any]:
        unreadable: list[tuple[str, str]] = []
        for attempt in range(self.ATTEMPTS):
            rng, row = sampling.generator(self.seed, *key[:3], attempt), self.row(key, attempt)
            video, clip = self.index[row], self.config.clip
            start = sampling.random_start(rng, sampling.last_start(clip, video.fps, video.frames))
            numbers = sampling.clip_frames(clip, video.fps, video.frames, start)
            yield attempt
            view = self.config.train
            crop = sampling.random_crop(rng, video.height, video.width, view)
            try:
                shown = self.read(
                    key, attempt, video, numbers, partial(cut, crop=crop, size=view.crop)
                )
            except DecodeError as error:
                unreadable.append((video.name, str(error)))
                continue
            augmentation = sample_augmentation(rng, view)
            yield TrainSample(shown, augmentation, self.label(row), unreadable, row, numbers)
            return
        raise SnvideoError(
            f"{attempt + 1} videos in a row could not be read, the last "
            f"{': '.join(unreadable[-1])}; check data.root ({self.index.root}) and build the index "
            "again"
        )

    @staticmethod
    def collate(samples: list[TrainSample]) -> Batch:
        return Batch(
            torch.stack([sample.clip for sample in samples]),
            [sample.augmentation for sample in samples],
            torch.stack([sample.label for sample in samples]),
            [video for sample in samples for video in sample.unreadable],
            [sample.row for sample in samples],
            sum(bool(sample.unreadable) for sample in samples),
        )


class EvalDataset(VideoDataset):
    """All evaluation views of an index's videos, `clips * crops` of each."""

    stream = sampling.TEST

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

    def steps(self, key: SampleKey) -> Iterator[Any]:
        video = self.index[key.video]
        numbers = self.key_numbers(key)
        wanted, inverse = np.unique(numbers, return_inverse=True)
        view_cut = ViewCut.of(video.height, video.width, self.view)
        yield 0
        try:
            frames = self.read(key, 0, video, wanted, view_cut.shown)
        except DecodeError as error:
            label = self.label(key.video)
            yield EvalSample(None, label, key.video, [(video.name, str(error))])
            return
        clips = torch.from_numpy(inverse.reshape(numbers.shape))
        views = VideoViews(frames, clips, view_cut.corners, self.view.crop)
        yield EvalSample(views, self.label(key.video), key.video, [])

    def key_numbers(self, key: SampleKey) -> np.ndarray:
        """Frames of the clips of a sample, int64 (clips, T)."""
        return self.numbers(self.index[key.video])

    def numbers(self, video: Video) -> np.ndarray:
        """Frames of all clips of a video, int64 (clips, T)."""
        clip = self.config.clip
        starts = self.starts(video)
        return np.stack([sampling.clip_frames(clip, video.fps, video.frames, s) for s in starts])

    def starts(self, video: Video) -> np.ndarray:
        """Starts of all clips of a video, in frames (clips,)."""
        latest = sampling.last_start(self.config.clip, video.fps, video.frames)
        return sampling.even_starts(self.view.clips, latest)

    @staticmethod
    def collate(samples: list[EvalSample]) -> EvalBatch:
        read = [sample for sample in samples if sample.views is not None]
        return EvalBatch(
            [sample.views for sample in read if sample.views is not None],
            torch.stack([sample.label for sample in read]) if read else torch.empty(0),
            torch.tensor([sample.video for sample in read], dtype=torch.int64),
            [video for sample in samples for video in sample.unreadable],
        )
