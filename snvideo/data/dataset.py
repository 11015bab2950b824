"""Videos of an index as training clips and as test views, uint8 as they leave the decoder."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as transforms

from snvideo.data import sampling
from snvideo.data.config import DataConfig
from snvideo.data.decode import DecodeError, decode
from snvideo.data.index import ClipIndex
from snvideo.errors import SnvideoError


class Place(NamedTuple):
    """Where in a run a training clip is used; it alone decides the clip."""

    stream: int
    epoch: int
    position: int
    video: int


class Batch(NamedTuple):
    """Training clips of one pass."""

    clips: Tensor
    """uint8 (N, T, 3, crop, crop)."""
    flips: Tensor
    """bool (N,): which are to be mirrored."""
    labels: Tensor
    """int64 (N,)."""
    replaced: list[tuple[str, str]]
    """Name and reason of every video that could not be read and was replaced by another."""


class Views(NamedTuple):
    """All test views of some videos, each video decoded once."""

    clips: Tensor
    """uint8 (N, views, T, 3, crop, crop)."""
    labels: Tensor
    """int64 (N,)."""
    videos: Tensor
    """int64 (N,): rows of the index."""
    failed: list[tuple[str, str]]
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
    square = torch.from_numpy(
        np.ascontiguousarray(frames[:, top : top + side, left : left + side])
    ).permute(0, 3, 1, 2)
    return transforms.resize(square, [size, size], antialias=True).contiguous()


class TrainClips(Dataset[tuple[Tensor, bool, int, list[tuple[str, str]]]]):
    """Random clips of an index's videos, each a function of the seed and of its `Place` alone.

    A video that cannot be read is replaced by another, drawn in the same stateless way.
    """

    ATTEMPTS = 10

    def __init__(self, index: ClipIndex, config: DataConfig, seed: int) -> None:
        self.index, self.config, self.seed = index, config, seed

    def __getitem__(self, place: Place) -> tuple[Tensor, bool, int, list[tuple[str, str]]]:
        number, replaced = place.video, []
        for attempt in range(self.ATTEMPTS):
            video = self.index[number]
            try:
                rng = sampling.generator(self.seed, *place[:3], attempt)
                return *self._clip(number, rng), video.label, replaced
            except DecodeError as error:
                replaced.append((video.name, str(error)))
            substitute = sampling.generator(self.seed, sampling.SUBSTITUTE, *place[:3], attempt)
            number = int(substitute.integers(len(self.index)))
        raise SnvideoError(
            f"{self.ATTEMPTS} videos in a row could not be read, the last "
            f"{': '.join(replaced[-1])}; "
            f"check data.root ({self.index.root}) and build the index again"
        )

    def _clip(self, number: int, rng: np.random.Generator) -> tuple[Tensor, bool]:
        video, clip, view = self.index[number], self.config.clip, self.config.train
        latest = sampling.last_start(clip, video.fps, video.frames)
        start = sampling.random_start(rng, latest)
        frames = decode(video, sampling.clip_frames(clip, video.fps, video.frames, start))
        crop = sampling.random_crop(rng, *frames.shape[1:3], view)
        flip = bool(view.flip and rng.random() < 0.5)
        return cut(frames, crop, view.crop), flip


def collate_clips(samples: list[tuple[Tensor, bool, int, list[tuple[str, str]]]]) -> Batch:
    """Put training clips together."""
    clips, flips, labels, replaced = zip(*samples, strict=True)
    return Batch(
        torch.stack(clips),
        torch.tensor(flips),
        torch.tensor(labels),
        [video for some in replaced for video in some],
    )


class TestVideos(Dataset[tuple[Tensor | None, int, int, str]]):
    """All test views of an index's videos; a video that cannot be read says so."""

    __test__ = False  # not a test case, whatever pytest makes of the name

    def __init__(self, index: ClipIndex, config: DataConfig, clips: int, crops: int) -> None:
        self.index, self.config = index, config
        self.view = config.test.model_copy(update={"clips": clips, "crops": crops})

    def __getitem__(self, number: int) -> tuple[Tensor | None, int, int, str]:
        video, clip, view = self.index[number], self.config.clip, self.view
        latest = sampling.last_start(clip, video.fps, video.frames)
        starts = sampling.even_starts(view.clips, latest)
        numbers = np.stack(
            [sampling.clip_frames(clip, video.fps, video.frames, start) for start in starts]
        )
        wanted, inverse = np.unique(numbers, return_inverse=True)
        try:
            frames = decode(video, wanted)
        except DecodeError as error:
            return None, video.label, number, str(error)
        inverse = torch.from_numpy(inverse.reshape(numbers.shape))
        crops = sampling.even_crops(*frames.shape[1:3], view)
        cuts = [cut(frames, crop, view.crop) for crop in crops]
        views = torch.stack([pictures[clip] for clip in inverse for pictures in cuts])
        return views, video.label, number, ""


def collate_views(index: ClipIndex, samples: list[tuple[Tensor | None, int, int, str]]) -> Views:
    """Put the views of several videos together, leaving out those that could not be read."""
    good = [sample for sample in samples if sample[0] is not None]
    failed = [(index[number].name, reason) for views, _, number, reason in samples if views is None]
    return Views(
        torch.stack([views for views, *_ in good]) if good else torch.empty(0, dtype=torch.uint8),
        torch.tensor([label for _, label, *_ in good], dtype=torch.int64),
        torch.tensor([number for _, _, number, _ in good], dtype=torch.int64),
        failed,
    )
