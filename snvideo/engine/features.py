"""Features of videos: what a layer of a trained network gives for each view."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from snvideo.data import sampling
from snvideo.data.config import DataConfig
from snvideo.data.consecutive import ConsecutiveClips, consecutive_loader
from snvideo.data.dataset import EvalDataset, VideoViews
from snvideo.data.image_sequences import FPS
from snvideo.data.index import ClipIndex
from snvideo.data.loader import test_loader
from snvideo.data.remote import Place
from snvideo.engine.content import file_hash
from snvideo.engine.inference import NOT_FINITE, open_inference, probe_files
from snvideo.engine.performance import precision
from snvideo.errors import SnvideoError
from snvideo.models.features import PooledLayer
from snvideo.models.pretrained.native import weights_file

Per = Literal["clip", "video", "snippet"]
SHORT = "shorter than a clip: its last frame is repeated"


class FeatureRow(NamedTuple):
    """The part of a video that a row of features is of."""

    clip: int | None  # number of the clip, or of the snippet; None: the mean of all
    crop: int | None  # number of the crop; None: the mean of all
    start: float  # seconds, of the first frame that was seen
    end: float  # seconds, of the last one


class VideoFeatures(NamedTuple):
    """Features of a video, or the reason why there are none."""

    video: Place  # as it was given; of an index, where the file is
    values: Tensor | None = None  # float32 (rows, C), on the CPU
    rows: tuple[FeatureRow, ...] = ()
    labels: tuple[int, ...] = ()  # ids of the index, where they are known
    reason: str = ""  # why there are none
    remark: str = ""  # an oddity, as `fewer frames than its header states`


class _Read(NamedTuple):
    """Features of a video in a row of an index, and the frames of its clips, int64 (clips, T)."""

    row: int
    values: Tensor | None = None
    numbers: np.ndarray | None = None
    reason: str = ""


class FeatureExtractor:
    """A trained network, one of its layers, and the views that it is given.

    Frames, views and precision are those of `snvideo.predict`.

    Args:
        weights: a .safetensors file of snvideo, or the directory of a finished run.
        layer: a name of the network's `named_modules()`, see `snvideo.models.features.PooledLayer`;
            None: the input of the classifier.
        per: `clip`: a row for each view, first the crops of the first clip; `video`: one row, the
            mean of all views; `snippet`: a row for each clip of `sampling.consecutive_starts`, the
            mean of its crops.
        clips: spread evenly over each video; without effect on snippets.
        crops: of each clip: 1 (centre) or 3 (along the long side).
        workers: processes that read videos, at least 1.
        batch: views in one forward pass.
        device: `auto` (a GPU if there is one), `cpu`, `cuda` or `cuda:1`.
        timeout: seconds without a packet or frame before a video is given up, at most 300.
        fps: frames a second of image sequences; without effect on the videos of an index.

    Raises:
        SnvideoError: if there are no such weights, no such layer or device, or `crops` is 2.

    Example::

        >>> extractor = FeatureExtractor("runs/toy", clips=2, crops=1, workers=1)
        >>> found = next(extractor.extract(Path("toy/val").rglob("*.mp4")))
        >>> found.values.shape
        torch.Size([2, 512])
    """

    def __init__(
        self,
        weights: Path | str,
        *,
        layer: str | None = None,
        per: Per = "clip",
        clips: int = 10,
        crops: int = 3,
        workers: int = 2,
        batch: int = 16,
        device: str = "auto",
        timeout: float = 60.0,
        fps: float = FPS,
    ) -> None:
        if per not in get_args(Per):
            raise SnvideoError(f"per is '{per}': expected one of {', '.join(get_args(Per))}")
        self.per, self._fps = per, fps
        self._weights = weights_file(weights)
        self._inference = open_inference(
            self._weights,
            clips=clips,
            crops=crops,
            workers=workers,
            batch=batch,
            device=device,
            timeout=timeout,
        )
        self._layer = PooledLayer(self._inference.network.model, layer)

    @property
    def settings(self) -> dict[str, str | float]:
        """Settings that decide the features; of the weights, the beginning of the
        SHA-256 of their file."""
        inference = self._inference
        view = inference.config.test
        number = {} if self.per == "snippet" else {"clips": view.clips}
        return {
            "weights": file_hash(self._weights)[:16],
            "layer": self._layer.name,
            "per": self.per,
            **number,
            "crops": view.crops,
            "precision": precision(inference.speed, inference.device),
            "fps": self._fps,
        }

    def extract(
        self,
        videos: Iterable[Place | str] | Place | str | ClipIndex,
        rows: Sequence[int] | None = None,
    ) -> Iterator[VideoFeatures]:
        """Extract features of videos as they are asked for, each file once.

        Files are probed and read by processes of their own: whatever is wrong with one costs that
        one alone. They come in their order, but for some that cannot be read.

        Args:
            videos: files, or one, of whatever kind; or the videos of an index.
            rows: of the index; None: all of them.

        Raises:
            SnvideoError: if the layer does not run once in a pass, or memory is too small.
        """
        if isinstance(videos, ClipIndex):
            wanted = range(len(videos)) if rows is None else rows
            first: dict[Place, int] = {}
            for row in wanted:
                first.setdefault(videos[row].path, row)
            yield from self._extract(videos, list(first.values()))
            return
        config = self._inference.config
        for files in probe_files(videos, config.workers, config.timeout, self._fps):
            for name, reason in files.failed.items():
                yield VideoFeatures(files.given[name], reason=reason)
            for found in self._extract(files.index, range(len(files.index))):
                name = str(found.video)
                remarks = (files.remarks[name], found.remark)
                yield found._replace(
                    video=files.given[name], remark="; ".join(filter(None, remarks))
                )

    def _extract(self, index: ClipIndex, rows: Sequence[int]) -> Iterator[VideoFeatures]:
        """Features of videos of an index; the paths are those of the files."""
        if not rows:
            return
        inference = self._inference
        workers = min(inference.config.workers, len(rows))
        config = inference.config.model_copy(update={"workers": workers})
        read = self._read_snippets if self.per == "snippet" else self._read_clips
        for row, values, numbers, reason in read(index, rows, config):
            video, labels = index[row], tuple(index.labels_of(row).tolist())
            if values is None or numbers is None:
                yield VideoFeatures(video.path, labels=labels, reason=reason)
            elif not values.isfinite().all():
                yield VideoFeatures(video.path, labels=labels, reason=NOT_FINITE)
            else:
                short = sampling.is_short(config.clip, video.fps, video.frames)
                times = self._rows(numbers / video.fps)
                remark = SHORT if short else ""
                yield VideoFeatures(video.path, values, times, labels, remark=remark)

    def _read_clips(
        self, index: ClipIndex, rows: Sequence[int], config: DataConfig
    ) -> Iterator[_Read]:
        """Features of clips spread over each video."""
        clips, crops = config.test.clips, config.test.crops
        dataset = EvalDataset(index, config, clips, crops)
        row_of = {index[row].name: row for row in rows}
        for read in test_loader(index, config, rows, self._inference.batch, clips, crops):
            for name, reason in read.unreadable:
                yield _Read(row_of[name], reason=reason)
            for row, views in zip(read.videos.tolist(), read.views, strict=True):
                values = self._values(views)
                if self.per == "video":
                    values = values.mean(0, keepdim=True)
                yield _Read(row, values, dataset.numbers(index[row]))

    def _read_snippets(
        self, index: ClipIndex, rows: Sequence[int], config: DataConfig
    ) -> Iterator[_Read]:
        """Features of clips one behind the other over each video."""
        crops = config.test.crops
        dataset = ConsecutiveClips(index, config, crops)
        parts: list[Tensor] = []
        failures: list[str] = []
        for row, is_last, read in consecutive_loader(dataset, rows):
            failures += [reason for _, reason in read.unreadable]
            parts += [self._values(views).unflatten(0, (-1, crops)).mean(1) for views in read.views]
            if not is_last:
                continue
            if failures:
                yield _Read(row, reason=failures[0])
            else:
                yield _Read(row, torch.cat(parts), dataset.numbers(index[row]))
            parts, failures = [], []

    def _values(self, views: VideoViews) -> Tensor:
        """Features of views, float32 (views, C), on the CPU."""
        with self._layer.recorded() as found:
            passes = len(self._inference.logits(views))
        if (rows := sum(map(len, found))) != passes:
            raise SnvideoError(
                f"layer '{self._layer.name}' gives {rows} rows for {passes} views: name one that "
                "runs once in a forward pass"
            )
        return torch.cat(found).cpu()

    def _rows(self, seconds: np.ndarray) -> tuple[FeatureRow, ...]:
        """Rows of a video whose clips show frames at these times (clips, T)."""
        if self.per == "video":
            return (FeatureRow(None, None, float(seconds.min()), float(seconds.max())),)
        crops = [None] if self.per == "snippet" else range(self._inference.config.test.crops)
        return tuple(
            FeatureRow(clip, crop, float(times[0]), float(times[-1]))
            for clip, times in enumerate(seconds)
            for crop in crops
        )
