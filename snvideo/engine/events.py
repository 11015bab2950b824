"""Events of a timeline: windows in a row whose smoothed score of a class reaches a threshold."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from snvideo.engine.timeline import WindowPrediction
from snvideo.errors import SnvideoError


class Event(NamedTuple):
    """A time in which a class was seen."""

    video: str
    start: float  # seconds
    end: float
    label: str  # the class
    score: float  # mean of its smoothed probabilities over the windows
    windows: int


class SmoothedWindow(NamedTuple):
    """A window's own part of the time, and its smoothed probabilities; see `smooth_windows`."""

    video: str
    start: float
    end: float
    scores: Tensor | None  # float32 (classes,); None: the window has no answer


def smooth_windows(
    windows: Iterable[WindowPrediction], window: float, step: float, seconds: float
) -> Iterator[SmoothedWindow]:
    """Average windows of a video with their neighbours: those that have an answer and begin at most
    half of `seconds` before or after.

    Windows may overlap, so each gets a part of the time of its own: its middle `step` seconds, or
    the whole of a shorter one; the first from its start on, the last to its end.

    Args:
        windows: in their order; only neighbours are held.
        window, step: seconds of a window, and from one's start to the next one's.
        seconds: that are averaged over; 0: nothing is.

    Raises:
        SnvideoError: if `seconds` is negative or no number.
    """
    if not (math.isfinite(seconds) and seconds >= 0):
        raise SnvideoError(f"smooth is {seconds:g} seconds: expected 0 or more")
    margin = max(0.0, (window - step) / 2)
    # Of a quotient of decimal numbers that is whole, as 0.3 / 0.1, a little may be missing.
    return _smoothed(windows, margin, int(seconds / 2 / step + 1e-6))


def _smoothed(
    windows: Iterable[WindowPrediction], margin: float, side: int
) -> Iterator[SmoothedWindow]:
    near: deque[WindowPrediction] = deque()
    place, begun = 0, False  # of the window that comes next, in `near`

    def smoothed(is_last: bool) -> SmoothedWindow:
        video, start, end, *_, own = near[place]
        around = islice(near, max(0, place - side), place + side + 1)
        scores = [one.scores for one in around if one.scores is not None]
        mean = None if own is None else torch.stack(scores).mean(0)
        start, end = start + margin * begun, end - margin * (not is_last)
        return SmoothedWindow(video, start, end, mean)

    for window in windows:
        near.append(window)
        if place + max(side, 1) < len(near):  # its neighbours are here, one behind it at least
            yield smoothed(is_last=False)
            begun = True
            if place == side:
                near.popleft()
            else:
                place += 1
    while place < len(near):
        yield smoothed(is_last=place == len(near) - 1)
        begun, place = True, place + 1


def find_events(
    windows: Iterable[SmoothedWindow], classes: Sequence[str], threshold: float
) -> Iterator[Event]:
    """Merge windows in a row in which a class reaches a threshold, each event when it has ended.

    Several classes may do so at once. A window without an answer ends all events.

    Args:
        windows: of one video, in their order.
        classes: names, in the order of the scores.
        threshold: least smoothed probability, above 0 and at most 1.

    Raises:
        SnvideoError: if the threshold is another number.
    """
    if not 0 < threshold <= 1:
        raise SnvideoError(f"threshold is {threshold:g}: expected above 0 and at most 1")
    return _events(windows, classes, threshold)


def _events(
    windows: Iterable[SmoothedWindow], classes: Sequence[str], threshold: float
) -> Iterator[Event]:
    under_way: dict[int, Event] = {}  # class -> event, with the sum of its scores
    for video, start, end, scores in windows:
        reached = {}
        if scores is not None:
            places = (scores >= threshold).nonzero().flatten().tolist()
            reached = {place: scores[place].item() for place in places}
        for place in sorted(under_way.keys() - reached.keys()):
            yield _ended(under_way.pop(place))
        for place, score in reached.items():
            new = Event(video, start, end, classes[place], 0.0, 0)
            old = under_way.get(place, new)
            under_way[place] = old._replace(
                end=end, score=old.score + score, windows=old.windows + 1
            )
    for place in sorted(under_way):
        yield _ended(under_way[place])


def _ended(event: Event) -> Event:
    return event._replace(score=event.score / event.windows)
