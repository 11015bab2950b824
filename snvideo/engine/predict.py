"""Prediction of video files with trained weights."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from snvideo.data.config import ClipConfig, DataConfig, TestViewConfig
from snvideo.data.dataset import EvalDataset, VideoViews
from snvideo.data.files import unique_files
from snvideo.data.index import ClipIndex
from snvideo.data.indexing.probe import probe_all
from snvideo.data.loader import test_loader
from snvideo.engine.config import SpeedConfig
from snvideo.engine.evaluate import view_logits
from snvideo.engine.losses import probabilities
from snvideo.engine.performance import algorithms, choose, memory_format
from snvideo.errors import SnvideoError
from snvideo.models.pretrained import LoadedModel, load_model

_PROBED_AT_ONCE = 500  # files that are probed before the first of them is predicted


class Frames(NamedTuple):
    """Frames of a video that its views show, uint8 (F, 3, H, W), and their times, ascending."""

    pixels: Tensor
    seconds: list[float]


class Prediction(NamedTuple):
    """The most probable classes of a video, or the reason why there are none."""

    video: Path  # as it was given
    classes: tuple[str, ...] = ()  # the most probable first; none if the video could not be read
    probabilities: tuple[float, ...] = ()  # of these, averaged over the views
    reason: str = ""  # why the video could not be read
    remark: str = ""  # an oddity of one that was read, as `fewer frames than its header states`
    frames: Frames | None = None  # if they were asked for and the video could be read


def predict(
    videos: Iterable[Path | str] | Path | str,
    weights: Path | str,
    *,
    clips: int = 10,
    crops: int = 3,
    top: int = 5,
    workers: int = 2,
    batch: int = 16,
    device: str = "auto",
    timeout: float = 60.0,
    keep_frames: bool = False,
) -> Iterator[Prediction]:
    """Predict videos one after another, in their order, each file once, as they are asked for.

    Frames, views and probabilities are those of an evaluation of the same weights. Files are probed
    and read by processes of their own: whatever is wrong with one costs that one alone.

    Args:
        videos: files, or one, of whatever kind.
        weights: a .safetensors file of snvideo, or the directory of a finished run.
        clips: spread evenly over each video.
        crops: of each clip: 1 (centre) or 3 (along the long side).
        top: classes of a prediction; all of them, if there are fewer.
        workers: processes that read videos, at least 1.
        batch: views in one forward pass.
        device: `auto` (a GPU if there is one), `cpu`, `cuda` or `cuda:1`.
        timeout: seconds without a packet or frame before a video is given up, at most 300.
        keep_frames: return frames of each video, for a contact sheet.

    Raises:
        SnvideoError: if there are no such weights, no such device or too little memory on it, or
            `crops` is 2.
    """
    if crops not in (1, 3):
        raise SnvideoError(f"crops is {crops}: expected 1 (centre) or 3 (along the long side)")
    if workers < 1:
        raise SnvideoError(f"workers is {workers}: expected 1 or more, for files can hang")
    place = _device(device)
    network = load_model(weights, place)
    seen = network.metadata.preprocessing
    config = DataConfig(
        index=Path(),
        workers=workers,
        timeout=timeout,
        clip=ClipConfig(frames=seen.frames, stride=seen.stride, target_fps=seen.target_fps),
        test=TestViewConfig(short_side=seen.short_side, crop=seen.crop, clips=clips, crops=crops),
        mean=seen.mean,
        std=seen.std,
    )
    speed = SpeedConfig(amp=network.metadata.amp)
    network.model.to(memory_format=memory_format(speed))
    predictor = _Predictor(network, config, speed, batch, top, place, keep_frames)
    given = [videos] if isinstance(videos, Path | str) else videos
    files = unique_files(map(Path, given))
    parts = (files[at : at + _PROBED_AT_ONCE] for at in range(0, len(files), _PROBED_AT_ONCE))
    return chain.from_iterable(map(predictor.predict, parts))


def _device(name: str) -> torch.device:
    """A device by name; `auto` is the first GPU, or the CPU where there is none."""
    count = torch.cuda.device_count()
    if name == "auto":
        return torch.device("cuda" if count else "cpu")
    with suppress(RuntimeError):
        device = torch.device(name)
        if device.type == "cpu" or (device.type == "cuda" and (device.index or 0) < count):
            return device
    raise SnvideoError(f"no device '{name}' beside {count} GPUs: expected auto, cpu, cuda, cuda:1")


@dataclass
class _Predictor:
    """One network and the views that it predicts videos from; arguments of `predict`."""

    network: LoadedModel
    config: DataConfig
    speed: SpeedConfig
    batch: int
    top: int
    device: torch.device
    keep_frames: bool

    def predict(self, videos: Sequence[Path]) -> Iterator[Prediction]:
        """Predict videos in their order, each as soon as it and those before it are read."""
        found = self._predict(videos)
        ready: dict[Path, Prediction] = {}
        for video in videos:
            while video not in ready:
                prediction = next(found)
                ready[prediction.video] = prediction
            yield ready.pop(video)

    def _predict(self, videos: Sequence[Path]) -> Iterator[Prediction]:
        """Predict videos, after those whose files are unusable."""
        given = {str(video.absolute()): video for video in videos}
        workers = min(self.config.workers, len(given))
        probes = list(probe_all(map(Path, given), "packets", workers, self.config.timeout))
        remarks, rows = {}, []
        for name, probe in zip(given, probes, strict=True):
            if probe.status == "ok":
                remarks[name] = probe.reason
                rows.append(probe._replace(path=name, split="predict"))
            else:
                yield Prediction(given[name], reason=probe.reason)
        if not rows:
            return
        index = ClipIndex(rows, "predict", labels=[""], root=Path("/"))
        clips, crops = self.config.test.clips, self.config.test.crops
        config = self.config.model_copy(update={"workers": min(workers, len(index))})
        dataset = EvalDataset(index, config, clips, crops)
        for read in test_loader(index, config, range(len(index)), self.batch, clips, crops):
            for name, reason in read.unreadable:
                yield Prediction(given[name], reason=reason)
            for row, views in zip(read.videos.tolist(), read.views, strict=True):
                video, frames = index[row], None
                if self.keep_frames:
                    seconds = np.unique(dataset.numbers(video)) / video.fps
                    frames = Frames(views.frames, seconds.tolist())
                scores = self._scores(views)
                if not scores.isfinite().all():
                    reason = "the network's output is not finite: its weights are broken"
                    yield Prediction(given[video.name], reason=reason)
                    continue
                best = scores.argsort(descending=True, stable=True)[: self.top]
                yield Prediction(
                    given[video.name],
                    tuple(self.network.classes[i] for i in best.tolist()),
                    tuple(scores[best].tolist()),
                    remark=remarks[video.name],
                    frames=frames,
                )

    @torch.inference_mode()
    def _scores(self, video: VideoViews) -> Tensor:
        """Probabilities of a video averaged over its views, float32 (classes,), on the CPU."""
        device, batch, speed = self.device, self.batch, self.speed
        views = video.expand(device)
        with algorithms(choose(speed, device, 1), device):
            try:
                logits = view_logits(self.network.model, views, self.config, speed, batch, device)
            except torch.OutOfMemoryError:
                raise SnvideoError(
                    f"{device} has too little memory for {min(batch, len(views))} views at once: "
                    "lower --batch"
                ) from None
        return probabilities(logits, self.network.metadata.activation).mean(0).cpu()
