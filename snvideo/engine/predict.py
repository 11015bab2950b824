"""Prediction of video files with trained weights."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

from snvideo.data.dataset import EvalDataset
from snvideo.data.image_sequences import FPS
from snvideo.data.loader import test_loader
from snvideo.data.remote import Place
from snvideo.engine.explanation import Explanation, explain_prediction
from snvideo.engine.inference import NOT_FINITE, Inference, ProbedFiles, open_inference, probe_files
from snvideo.engine.losses import probabilities


class Frames(NamedTuple):
    """Frames of a video that its views show, uint8 (F, 3, H, W), and their times, ascending."""

    pixels: Tensor
    seconds: list[float]


class Prediction(NamedTuple):
    """The most probable classes of a video, or the reason why there are none."""

    video: Place  # as it was given
    classes: tuple[str, ...] = ()  # the most probable first; none if the video could not be read
    probabilities: tuple[float, ...] = ()  # of these, averaged over the views
    reason: str = ""  # why the video could not be read
    remark: str = ""  # an oddity of one that was read, as `fewer frames than its header states`
    frames: Frames | None = None  # if they were asked for and the video could be read
    explanation: Explanation | None = None  # as the frames


def predict(
    videos: Iterable[Place | str] | Place | str,
    weights: Path | str,
    *,
    clips: int = 10,
    crops: int = 3,
    top: int = 5,
    workers: int = 2,
    batch: int = 16,
    device: str = "auto",
    timeout: float = 60.0,
    fps: float = FPS,
    keep_frames: bool = False,
    explained: bool = False,
) -> Iterator[Prediction]:
    """Predict videos one after another, in their order, each file once, as they are asked for.

    Frames, views and probabilities are those of an evaluation of the same weights. Files are probed
    and read by processes of their own: whatever is wrong with one costs that one alone.

    Args:
        videos: files, or one, of whatever kind, members of tar files, image sequences, URLs.
        weights: a .safetensors file of snvideo, or the directory of a finished run.
        clips: spread evenly over each video.
        crops: of each clip: 1 (centre) or 3 (along the long side).
        top: classes of a prediction; all of them, if there are fewer.
        workers: processes that read videos, at least 1.
        batch: views in one forward pass.
        device: `auto` (a GPU if there is one), `cpu`, `cuda` or `cuda:1`.
        timeout: seconds without a packet or frame before a video is given up, at most 300.
        fps: frames a second of image sequences.
        keep_frames: return frames of each video, for a contact sheet.
        explained: return Grad-CAM of the most probable class, in the view that speaks most for it.

    Raises:
        SnvideoError: if there are no such weights, no such device or too little memory on it, or
            `crops` is 2.
    """
    inference = open_inference(
        weights,
        clips=clips,
        crops=crops,
        workers=workers,
        batch=batch,
        device=device,
        timeout=timeout,
    )
    predictor = _Predictor(inference, top, keep_frames, explained)
    return chain.from_iterable(map(predictor.predict, probe_files(videos, workers, timeout, fps)))


@dataclass
class _Predictor:
    """Predictions of the views of an inference; arguments of `predict`."""

    inference: Inference
    top: int
    keep_frames: bool
    explained: bool

    def predict(self, files: ProbedFiles) -> Iterator[Prediction]:
        """Predict videos in their order, each as soon as it and those before it are read."""
        found = self._predict(files)
        ready: dict[Place, Prediction] = {}
        for video in files.given.values():
            while video not in ready:
                prediction = next(found)
                ready[prediction.video] = prediction
            yield ready.pop(video)

    def _predict(self, files: ProbedFiles) -> Iterator[Prediction]:
        """Predict videos, after those whose files are unusable."""
        index, given, inference = files.index, files.given, self.inference
        for name, reason in files.failed.items():
            yield Prediction(given[name], reason=reason)
        if not len(index):
            return
        clips, crops = inference.config.test.clips, inference.config.test.crops
        workers = min(inference.config.workers, len(index))
        config = inference.config.model_copy(update={"workers": workers})
        dataset = EvalDataset(index, config, clips, crops)
        for read in test_loader(index, config, range(len(index)), inference.batch, clips, crops):
            for name, reason in read.unreadable:
                yield Prediction(given[name], reason=reason)
            for row, views in zip(read.videos.tolist(), read.views, strict=True):
                video, frames = index[row], None
                if self.keep_frames:
                    seconds = np.unique(dataset.numbers(video)) / video.fps
                    frames = Frames(views.frames, seconds.tolist())
                activation = inference.network.metadata.activation
                by_view = probabilities(inference.logits(views), activation).cpu()
                scores = by_view.mean(0)
                if not scores.isfinite().all():
                    yield Prediction(given[video.name], reason=NOT_FINITE)
                    continue
                explanation = None
                if self.explained:
                    times = (dataset.numbers(video) / video.fps).tolist()
                    explanation = explain_prediction(inference, views, by_view, times)
                best = scores.argsort(descending=True, stable=True)[: self.top]
                yield Prediction(
                    given[video.name],
                    tuple(inference.network.classes[i] for i in best.tolist()),
                    tuple(scores[best].tolist()),
                    remark=files.remarks[video.name],
                    frames=frames,
                    explanation=explanation,
                )
