"""What a trained network sees in videos: for each the classes that it finds most probable."""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from snvideo.atomic import write_atomic
from snvideo.data.config import ClipConfig, DataConfig, TestViewConfig
from snvideo.data.dataset import TestVideos, VideoViews
from snvideo.data.files import unique
from snvideo.data.index import COLUMNS, ClipIndex, IndexRow
from snvideo.data.indexing.probe import Probe
from snvideo.data.indexing.probe_pool import probe_all
from snvideo.data.loader import test_batches
from snvideo.engine.config import SpeedConfig
from snvideo.engine.evaluator import view_logits
from snvideo.engine.performance import algorithms, choose, memory_format
from snvideo.errors import SnvideoError
from snvideo.models.pretrained import LoadedModel, Preprocessing, load_model
from snvideo.report.strip import strip
from snvideo.text import shorten

_AT_ONCE = 500
"""Files that are looked into before the first of them is predicted."""
_SPLIT = "predict"
_SPEED = SpeedConfig()


class Prediction(NamedTuple):
    """What became of a video."""

    video: Path
    """As it was given."""
    classes: tuple[str, ...] = ()
    """The most probable first; none if the video could not be read."""
    probabilities: tuple[float, ...] = ()
    """Of these classes: the softmax averaged over the views."""
    reason: str = ""
    """Why there is no answer."""
    remark: str = ""
    """What is odd about a file that was read, as `fewer frames than its header states`."""


def predict(
    videos: Iterable[Path],
    weights: Path | str,
    *,
    clips: int = 10,
    crops: int = 3,
    top: int = 5,
    workers: int = 2,
    batch: int = 16,
    device: str = "auto",
    limit: float = 60.0,
    strips: Path | None = None,
) -> Iterator[Prediction]:
    """Predict videos one after another, in their order, each file once.

    Frames, views and probabilities are those of an evaluation of the same weights. Files are looked
    into and read by processes of their own: whatever is wrong with one costs that one alone.

    Args:
        videos: files, of whatever kind.
        weights: a .safetensors file of ours, or the folder of a finished run.
        clips: spread evenly over each video.
        crops: of each clip: 1 (centre) or 3 (along the long side).
        top: classes of an answer; all of them, if there are fewer.
        workers: processes that read videos, at least 1.
        batch: views in one forward pass.
        device: `auto` (a GPU if there is one), `cpu`, `cuda` or `cuda:1`.
        limit: seconds that reading one video may take, at most 300.
        strips: folder for a PNG of each video and its answer.

    Raises:
        SnvideoError: if there are no such weights, no such device or too little memory on it, if
            `crops` is 2, or a strip cannot be written.
    """
    if crops not in (1, 3):
        raise SnvideoError(f"crops is {crops}: expected 1 (centre) or 3 (along the long side)")
    if workers < 1:
        raise SnvideoError(f"workers is {workers}: expected 1 or more, for files can hang")
    chosen = find_device(device)
    network = load_model(weights, chosen)
    network.model.to(memory_format=memory_format(_SPEED))
    drawn = None if strips is None else _Strips(strips)
    config = _config(network.about.preprocessing, clips, crops, workers, limit)
    left = unique(videos)
    while left:
        some, left = left[:_AT_ONCE], left[_AT_ONCE:]
        yield from _in_order(_predict_some(some, network, config, batch, top, chosen, drawn))


def find_device(name: str) -> torch.device:
    """A device by name; `auto` is the first GPU, or the CPU where there is none.

    Raises:
        SnvideoError: if it is not here.
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


def _config(seen: Preprocessing, clips: int, crops: int, workers: int, limit: float) -> DataConfig:
    """What the loader has to know."""
    return DataConfig(
        index=Path(),
        workers=workers,
        limit=limit,
        clip=ClipConfig(frames=seen.frames, stride=seen.stride, target_fps=seen.target_fps),
        test=TestViewConfig(short_side=seen.short_side, crop=seen.crop, clips=clips, crops=crops),
        mean=seen.mean,
        std=seen.std,
    )


def _in_order(answers: Iterable[tuple[int, Prediction]]) -> Iterator[Prediction]:
    """Predictions numbered from 0, each as soon as those before it are here."""
    early: dict[int, Prediction] = {}
    place = 0
    for number, prediction in answers:
        early[number] = prediction
        while place in early:
            yield early.pop(place)
            place += 1


def _predict_some(
    videos: Sequence[Path],
    network: LoadedModel,
    config: DataConfig,
    batch: int,
    top: int,
    device: torch.device,
    drawn: _Strips | None,
) -> Iterator[tuple[int, Prediction]]:
    """Predictions with the places of their videos, those of unusable files first."""
    paths = [video.absolute() for video in videos]
    workers = min(config.workers, len(paths))
    probes = list(probe_all(paths, "packets", workers, config.limit))
    usable = [place for place, found in enumerate(probes) if found.status == "ok"]
    for place in sorted(set(range(len(videos))) - set(usable)):
        yield place, Prediction(videos[place], reason=probes[place].reason)
    if not usable:
        return
    index = _index([paths[place] for place in usable], [probes[place] for place in usable])
    views, rows = config.test, range(len(index))
    config = config.model_copy(update={"workers": min(workers, len(index))})
    sample = TestVideos(index, config, views.clips, views.crops)
    places = {str(paths[place]): place for place in usable}
    for read in test_batches(index, config, rows, batch, views.clips, views.crops):
        for name, reason in read.unreadable:
            yield places[name], Prediction(videos[places[name]], reason=reason)
        for row, seen in zip(read.videos.tolist(), read.views, strict=True):
            place = usable[row]
            probabilities = _probabilities(network.model, seen, config, batch, device)
            best = probabilities.argsort(descending=True, stable=True)[:top]
            prediction = Prediction(
                videos[place],
                tuple(network.classes[i] for i in best.tolist()),
                tuple(probabilities[best].tolist()),
                remark=probes[place].reason,
            )
            if drawn is not None:
                video = index[row]
                seconds = np.unique(sample.numbers(video)) / video.fps
                drawn.draw(prediction, seen.frames, seconds.tolist())
            yield place, prediction


def _index(paths: Sequence[Path], probes: Sequence[Probe]) -> ClipIndex:
    """Usable files as an index of one split, which is read and forgotten."""
    with tempfile.TemporaryDirectory(prefix="snvideo-") as folder:
        file = Path(folder, "index.csv")
        with file.open("w", newline="", encoding="utf-8", errors="surrogateescape") as table:
            writer = csv.writer(table, lineterminator="\n")
            writer.writerow(COLUMNS)
            for path, found in zip(paths, probes, strict=True):
                # Rounded as in every index, for the frames of a clip may depend on it.
                found = found._replace(fps=round(found.fps, 4), seekable=int(found.seekable))
                writer.writerow(IndexRow(str(path), 0, "", _SPLIT, None, None, *found))
        file.with_suffix(".json").write_text('{"root": "/", "labels": [""]}')
        return ClipIndex.load(file, _SPLIT)


@torch.inference_mode()
def _probabilities(
    model: nn.Module, seen: VideoViews, config: DataConfig, batch: int, device: torch.device
) -> Tensor:
    """The softmax of a video averaged over its views, float32 (classes,), on the CPU."""
    views = seen.put_together(device)
    with algorithms(choose(_SPEED, device, 1), device):
        try:
            logits = view_logits(model, views, config, _SPEED, batch, device)
        except torch.OutOfMemoryError:
            raise SnvideoError(
                f"{device} has too little memory for {min(batch, len(views))} views at once: "
                "lower --batch"
            ) from None
    return logits.softmax(-1).mean(0).cpu()


class _Strips:
    """A folder of strips, named after their videos; equal names are numbered."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._taken: set[str] = set()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SnvideoError(f"strips {folder}: cannot be made: {error.strerror}") from None

    def draw(self, prediction: Prediction, frames: Tensor, seconds: Sequence[float]) -> None:
        """Write the strip of a video."""
        _, classes, probabilities, *_ = prediction
        content = strip(frames, seconds, str(prediction.video), classes, probabilities)
        path = self._folder / self._name(prediction.video)
        try:
            write_atomic(path, content)
        except OSError as error:
            raise SnvideoError(f"strip {path}: cannot be written: {error.strerror}") from None

    def _name(self, video: Path) -> str:
        stem = name = shorten(video.name, 50)  # 200 bytes at most, whatever the characters
        number = 1
        while name in self._taken:
            number += 1
            name = f"{stem} ({number})"
        self._taken.add(name)
        return f"{name}.png"
