"""Prediction of windows of time along untrimmed videos."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from av.error import FFmpegError
from torch import Tensor

from snvideo.data.dataset import VideoViews
from snvideo.data.decoding import DecodeError
from snvideo.data.decoding.live import LiveDecoder, is_stream
from snvideo.data.decoding.sequential import SequentialDecoder
from snvideo.data.indexing.probe import check_file
from snvideo.data.remote import Place, as_place
from snvideo.data.source import Source
from snvideo.data.unusable import Unusable
from snvideo.data.window_views import WindowViews, read_windows
from snvideo.data.windows import plan_windows
from snvideo.engine.inference import NOT_FINITE, open_inference
from snvideo.engine.losses import probabilities
from snvideo.errors import SnvideoError

NO_FRAME = "no frame in this window"

_DELAY = 2.0
"""Seconds of a stream whose frames may wait."""


class WindowPrediction(NamedTuple):
    """The most probable classes of a window of a video, or the reason why there are none."""

    video: str  # as it was given
    start: float = 0.0  # seconds from the first shown frame
    end: float = 0.0  # the first moment behind it; of a video that cannot be read, 0
    frames: int = 0  # shown in the window
    classes: tuple[str, ...] = ()  # the most probable first
    probabilities: tuple[float, ...] = ()  # of these, averaged over the views of the window
    reason: str = ""  # why there is no answer
    remark: str = ""  # an oddity, as `3 damaged packets or pictures`
    scores: Tensor | None = None  # probabilities of all classes, float32 (classes,)


class TimelinePredictor:
    """A network that predicts windows of videos of any length, in memory that does not grow with
    it.

    Frames, views and probabilities of a window are those of a test of the video cut to it.

    Args:
        weights: a .safetensors file of snvideo, or the directory of a finished run.
        window: seconds of a window.
        step: seconds from one window's start to the next one's.
        clips: spread evenly over each window.
        crops: of each clip: 1 (centre) or 3 (along the long side).
        top: classes of a prediction.
        batch: views in one forward pass; with more than those of a window, windows wait for
            one another.
        device: `auto` (a GPU if there is one), `cpu`, `cuda` or `cuda:1`.
        timeout: seconds that opening a file or reading a packet may take, at most 300.
        delay: seconds of a stream whose frames may wait, above 0, before new ones are dropped and
            counted; None: 2, and of the standard input all, so that its writer waits.

    Raises:
        SnvideoError: if there are no such weights, no such device, `crops` is 2, or `window`,
            `step` or `delay` no positive number; by `predict` if the device has too little memory.
    """

    def __init__(
        self,
        weights: Path | str,
        window: float,
        step: float,
        *,
        clips: int = 1,
        crops: int = 1,
        top: int = 5,
        batch: int = 1,
        device: str = "auto",
        timeout: float = 60.0,
        delay: float | None = None,
    ) -> None:
        plan_windows(window, step)  # whose errors come before the weights are read
        if delay is not None and not 0 < delay < float("inf"):
            raise SnvideoError(f"delay is {delay:g} seconds: expected above 0")
        self._delay = delay
        self._live: LiveDecoder | None = None  # of the stream that is being predicted
        self.window, self.step, self.top = window, step, top
        self._inference = open_inference(
            weights,
            clips=clips,
            crops=crops,
            workers=1,  # this process
            batch=batch,
            device=device,
            timeout=timeout,
        )
        self._at_once = max(1, batch // (clips * crops))

    @property
    def classes(self) -> tuple[str, ...]:
        """Names, in the order of `WindowPrediction.scores`."""
        return self._inference.network.classes

    def predict(self, video: Place | str) -> Iterator[WindowPrediction]:
        """Predict the windows of a video in their order, as they are asked for.

        One that cannot be read is one prediction without times, with the reason.

        Args:
            video: a file, or a stream as of `is_stream`, whose end may never come.
        """
        name = without_password(str(video))
        try:
            for part in self._windows(self._open(str(video))):
                yield from self._answers(name, part)
        except FileNotFoundError:
            yield WindowPrediction(name, reason="no such file")
        except (DecodeError, Unusable) as error:
            yield WindowPrediction(name, reason=str(error))
        except (FFmpegError, OSError) as error:
            yield WindowPrediction(name, reason=error.strerror or str(error))
        finally:
            self._live = None

    def stop(self) -> bool:
        """End the stream that is being predicted, whose last windows are still to come; false if
        there is none."""
        if self._live is None:
            return False
        self._live.stop()
        return True

    def _open(self, video: str) -> SequentialDecoder:
        timeout = self._inference.config.timeout
        if not is_stream(video):
            # Absolute, as FFmpeg takes what stands before a colon for a protocol.
            source = Source.of(as_place(video).absolute())
            check_file(source)
            return SequentialDecoder(source.address(), timeout)
        if video == "-" and self._delay is None:
            return SequentialDecoder(video, timeout)
        self._live = LiveDecoder(video, timeout, self._delay or _DELAY)
        return self._live

    def _windows(self, decoder: SequentialDecoder) -> Iterator[list[WindowViews]]:
        """Windows as many as go into one forward pass, and what is left of them at the end."""
        config = self._inference.config
        waiting: list[WindowViews] = []
        for window in read_windows(decoder, self.window, self.step, config.clip, config.test):
            waiting.append(window)
            if len(waiting) == self._at_once:
                yield waiting
                waiting = []
        if waiting:
            yield waiting

    def _answers(self, video: str, windows: list[WindowViews]) -> Iterator[WindowPrediction]:
        read = [window.views for window in windows if window.views is not None]
        scores = iter(self._scores(read) if read else ())
        for span, frames, views, remark in windows:
            found = WindowPrediction(video, float(span.start), float(span.end), frames)
            found = found._replace(remark=remark)
            if views is None:
                yield found._replace(reason=NO_FRAME)
                continue
            own = next(scores)
            if not own.isfinite().all():
                yield found._replace(reason=NOT_FINITE)
                continue
            best = own.argsort(descending=True, stable=True)[: self.top]
            yield found._replace(
                classes=tuple(self.classes[place] for place in best.tolist()),
                probabilities=tuple(own[best].tolist()),
                scores=own,
            )

    def _scores(self, windows: list[VideoViews]) -> Tensor:
        """Probabilities of windows, each averaged over its views, float32 (N, classes), on the
        CPU."""
        logits = self._inference.logits(join_views(windows))
        scores = probabilities(logits, self._inference.network.metadata.activation)
        return scores.unflatten(0, (len(windows), -1)).mean(1).cpu()


def without_password(source: str) -> str:
    """An address without the user and password in it, for results that others read."""
    return re.sub(r"(?<=://)[^/@]*@", "", source)


def join_views(windows: Sequence[VideoViews]) -> VideoViews:
    """Views of several windows of a video as those of one, the first window's first."""
    first = windows[0]
    ends = np.cumsum([len(one.frames) for one in windows]).tolist()
    clips = [one.clips + end - len(one.frames) for one, end in zip(windows, ends, strict=True)]
    frames = torch.cat([one.frames for one in windows])
    return VideoViews(frames, torch.cat(clips), first.corners, first.side)
