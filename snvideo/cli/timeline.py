"""Prediction of windows along videos: what `snvideo predict --window` does."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import typer

from snvideo.errors import SnvideoError

if TYPE_CHECKING:
    from snvideo.engine.timeline import TimelinePredictor


def predict_windows(
    videos: Sequence[str],
    weights: Path,
    window: float,
    step: float | None,
    *,
    out: Path | None,
    events: Path | None,
    pictures: Path | None,
    smooth: float | None,
    threshold: float | None,
    **options: Any,
) -> None:
    """Print and write timelines; `options` are those of `TimelinePredictor`, but for None, which is
    the default."""
    from snvideo.data.decoding.live import is_stream
    from snvideo.data.files import find_videos
    from snvideo.engine.timeline import TimelinePredictor
    from snvideo.report.predictions import check_output
    from snvideo.report.timeline import TimelineOutput, print_timelines

    streams = [video for video in videos if is_stream(video)]
    if streams and len(videos) > 1:
        raise SnvideoError(f"{len(videos)} videos with a stream: it may never end, give it alone")
    found = streams or find_videos(videos)
    for name, path in (("out", out), ("events", events)):
        if path is not None:
            check_output(path, name)
    output = TimelineOutput(
        out, events, pictures, smooth or 0.0, 0.5 if threshold is None else threshold
    )
    given = {name: value for name, value in options.items() if value is not None}
    step = window / 2 if step is None else step
    predictor = TimelinePredictor(weights, window, step, **given)
    if streams:
        signal.signal(signal.SIGINT, partial(_stop, predictor))
    if not print_timelines(predictor, found, output):
        raise typer.Exit(1)


def _stop(predictor: TimelinePredictor, number: int, frame: FrameType | None) -> None:
    """End a stream at the first Ctrl-C, so that what there is of it is written."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if not predictor.stop():
        signal.default_int_handler(number, frame)
