"""The engine of prediction: probe files, read their views, average the softmax over them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from snvideo.data.config import DataConfig
from snvideo.data.dataset import EvalDataset, VideoViews
from snvideo.data.index import ClipIndex
from snvideo.data.indexing.probe import index_row, probe_all
from snvideo.data.loader import test_loader
from snvideo.engine.config import SpeedConfig
from snvideo.engine.evaluator import view_logits
from snvideo.engine.performance import algorithms, choose, memory_format
from snvideo.errors import SnvideoError
from snvideo.models.pretrained import LoadedModel

_SPEED = SpeedConfig()


class Frames(NamedTuple):
    """Frames of a video that its views show."""

    pixels: Tensor
    """uint8 (F, 3, H, W)."""
    seconds: list[float]
    """Their F times, ascending."""


class Prediction(NamedTuple):
    """The most probable classes of a video, or the reason why there are none."""

    video: Path
    """As it was given."""
    classes: tuple[str, ...] = ()
    """The most probable first; none if the video could not be read."""
    probabilities: tuple[float, ...] = ()
    """Of these classes: the softmax averaged over the views."""
    reason: str = ""
    """Why the video could not be read."""
    remark: str = ""
    """An oddity of a file that was read, as `fewer frames than its header states`."""
    frames: Frames | None = None
    """If they were asked for and the video could be read."""


@dataclass
class Predictor:
    """One network and the views that it predicts videos from."""

    network: LoadedModel  # on `device`
    config: DataConfig  # clips, views and workers
    batch: int  # views in one forward pass
    top: int  # classes of a prediction
    device: torch.device
    keep_frames: bool  # whether predictions hold frames of their videos

    def __post_init__(self) -> None:
        self.network.model.to(memory_format=memory_format(_SPEED))

    def predict(self, videos: Sequence[Path]) -> Iterator[Prediction]:
        """Predict videos in their order, each as soon as it and those before it are read.

        Raises:
            SnvideoError: if the device has too little memory.
        """
        early: dict[int, Prediction] = {}
        place = 0
        for number, prediction in self._predict(videos):
            early[number] = prediction
            while place in early:
                yield early.pop(place)
                place += 1

    def _predict(self, videos: Sequence[Path]) -> Iterator[tuple[int, Prediction]]:
        """Predictions with the places of their videos, those of unusable files first."""
        paths = [video.absolute() for video in videos]
        workers = min(self.config.workers, len(paths))
        probes = list(probe_all(paths, "packets", workers, self.config.timeout))
        usable = [place for place, probe in enumerate(probes) if probe.status == "ok"]
        for place in sorted(set(range(len(videos))) - set(usable)):
            yield place, Prediction(videos[place], reason=probes[place].reason)
        if not usable:
            return
        table = [index_row(probes[i], str(paths[i]), split="predict") for i in usable]
        index = ClipIndex.from_rows(table, labels=[""], root=Path("/"))
        clips, crops, rows = self.config.test.clips, self.config.test.crops, range(len(index))
        config = self.config.model_copy(update={"workers": min(workers, len(index))})
        dataset = EvalDataset(index, config, clips, crops)
        places = {str(paths[place]): place for place in usable}
        for read in test_loader(index, config, rows, self.batch, clips, crops):
            for name, reason in read.unreadable:
                yield places[name], Prediction(videos[places[name]], reason=reason)
            for row, views in zip(read.videos.tolist(), read.views, strict=True):
                probabilities = self._probabilities(views)
                best = probabilities.argsort(descending=True, stable=True)[: self.top]
                frames = None
                if self.keep_frames:
                    numbers = np.unique(dataset.numbers(index[row]))
                    frames = Frames(views.frames, (numbers / index[row].fps).tolist())
                place = usable[row]
                prediction = Prediction(
                    videos[place],
                    tuple(self.network.classes[i] for i in best.tolist()),
                    tuple(probabilities[best].tolist()),
                    remark=probes[place].reason,
                    frames=frames,
                )
                yield place, prediction

    @torch.inference_mode()
    def _probabilities(self, video: VideoViews) -> Tensor:
        """The softmax of a video averaged over its views, float32 (classes,), on the CPU."""
        device, batch = self.device, self.batch
        views = video.expand(device)
        with algorithms(choose(_SPEED, device, 1), device):
            try:
                logits = view_logits(self.network.model, views, self.config, _SPEED, batch, device)
            except torch.OutOfMemoryError:
                raise SnvideoError(
                    f"{device} has too little memory for {min(batch, len(views))} views at once: "
                    "lower --batch"
                ) from None
        return logits.softmax(-1).mean(0).cpu()
