"""Windows of time over a long video, and the frames of a clip in each: pure functions of times."""

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import count
from typing import NamedTuple

import numpy as np

from snvideo.data import sampling
from snvideo.data.config import ClipConfig
from snvideo.data.indexing.scan import frame_rate
from snvideo.errors import SnvideoError


class Span(NamedTuple):
    """Time from `start` to before `end`, in seconds from the first shown frame."""

    start: Fraction
    end: Fraction


def plan_windows(window: float, step: float, last: Fraction | None = None) -> Iterator[Span]:
    """Plan windows of `window` seconds that begin every `step` seconds, from 0.

    They are exact fractions, so that a frame on an edge belongs to one side however many windows
    there are. A window holds the frames from its start to before its end. The first one that holds
    the last frame is the last window; with steps longer than windows it may lie before that frame.

    Args:
        window, step: in seconds.
        last: time of the last frame, (frames - 1) / fps at an even rate; None: it is not known, and
            windows go on for ever.

    Raises:
        SnvideoError: if one of them is no positive number.
    """
    for name, seconds in (("window", window), ("step", step)):
        if not (math.isfinite(seconds) and seconds >= 1e-3):
            raise SnvideoError(f"{name} is {seconds:g} seconds: expected 0.001 or more")
    # As they were written: the float 0.1 is a little more than a tenth.
    length, distance = Fraction(str(window)), Fraction(str(step))
    return _spans(length, distance, last)


def _spans(length: Fraction, distance: Fraction, last: Fraction | None) -> Iterator[Span]:
    end = Fraction(0)
    for number in count():
        start = number * distance
        if last is not None and number and (last < end or last < start):
            return
        end = start + length
        yield Span(start, end)


def window_frames(
    times: Sequence[Fraction], clip: ClipConfig, clips: int, stated: Sequence[float] = ()
) -> tuple[np.ndarray, float]:
    """Choose the frames of a window as a test chooses those of a video cut to that time.

    Frames at even times are counted. Otherwise (a variable rate, a gap) the window is laid out at
    its usual rate, and in every place stands the frame that is shown in the middle of it.

    Args:
        times: of the window's frames, ascending seconds, at least one.
        clip: frames of a clip and their distance.
        clips: spread evenly over the window.
        stated: frame rates that the file states, the best one first.

    Returns:
        Places in `times`, int64 (clips, T), and the window's frame rate.
    """
    ticks = math.lcm(*(time.denominator for time in times))
    whole = [int(time * ticks) for time in times]
    fps, _ = frame_rate(whole, 1 / ticks, stated)
    fps = round(fps, 4) or 1.0  # rounded as in an index; of a single frame any rate will do
    gaps = np.diff(np.array([float(time) for time in times]))
    even = not len(gaps) or bool((abs(gaps * fps - 1) <= 0.5).all())
    places = np.arange(len(times))
    if not even:
        seconds = np.array([float(time - times[0]) for time in times])
        middles = (np.arange(round(seconds[-1] * fps) + 1) + 0.5) / fps
        places = np.searchsorted(seconds, middles) - 1
    latest = sampling.last_start(clip, fps, len(places))
    starts = sampling.even_starts(clips, latest)
    numbers = [sampling.clip_frames(clip, fps, len(places), start) for start in starts]
    return places[np.stack(numbers)], fps
