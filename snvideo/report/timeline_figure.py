"""Picture of a timeline: probabilities of the main classes over time, and events."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.ticker import FuncFormatter, MaxNLocator

from snvideo.engine.events import Event, SmoothedWindow
from snvideo.report.style import BLUE, PALE, VERMILLION, new_figure, png, styled
from snvideo.text import shorten

ROWS = 12
"""Most classes that are drawn."""
COLUMNS = 1024
"""Most columns, about as many as the picture has places for: windows of long timelines share
them."""
EVENTS = 20_000
"""Most events that are drawn."""

_BLUES = LinearSegmentedColormap.from_list("probability", ["#FFFFFF", PALE, BLUE, "#00324F"])
_NO_ANSWER = "#DDDDDD"


class TimelinePicture:
    """Content of a picture of a timeline, in memory that does not grow with it.

    Args:
        video: its name.
        classes: names, in the order of the scores.
        threshold, smooth: of the events, and seconds that windows are averaged over.
    """

    def __init__(
        self, video: str, classes: tuple[str, ...], threshold: float, smooth: float
    ) -> None:
        self._video, self._classes = video, classes
        self._threshold, self._smooth = threshold, smooth
        self._sums = np.zeros((COLUMNS, len(classes)), np.float32)
        self._answers = np.zeros(COLUMNS, np.int64)  # windows with an answer, in each column
        self._starts: list[float] = []  # of the columns, seconds
        self._end = 0.0
        self._windows, self._together = 0, 1  # and how many share a column
        self._events: list[Event] = []
        self._left_out = 0

    @property
    def has_content(self) -> bool:
        """True if there was a window."""
        return self._windows > 0

    def add(self, window: SmoothedWindow) -> None:
        """Add the next window."""
        if self._windows == COLUMNS * self._together:  # all are full: two become one
            for values in (self._sums, self._answers):
                values[: COLUMNS // 2] = values[::2] + values[1::2]
                values[COLUMNS // 2 :] = 0
            self._starts = self._starts[::2]
            self._together *= 2
        column, within = divmod(self._windows, self._together)
        if not within:
            self._starts.append(window.start)
        if window.scores is not None:
            self._sums[column] += window.scores.numpy()
            self._answers[column] += 1
        self._windows, self._end = self._windows + 1, window.end

    def add_event(self, event: Event) -> None:
        """Add an event."""
        if len(self._events) < EVENTS:
            self._events.append(event)
        else:
            self._left_out += 1

    def png(self) -> bytes:
        """A PNG: a row for each class of an event, then for those most probable at any time."""
        count = len(self._starts)
        means = self._sums[:count] / np.maximum(self._answers[:count], 1)[:, None]
        of_events = {event.label for event in self._events}
        has_event = np.array([label in of_events for label in self._classes])
        rows = np.lexsort((-means.max(axis=0), ~has_event))[:ROWS]
        with styled():
            figure = new_figure(1.9 + 0.36 * len(rows), shorten(self._video, 80))
            axes = figure.subplots()
            heat = self._draw(axes, means[:, rows].T, [self._classes[row] for row in rows])
            figure.colorbar(heat, ax=axes, label="probability", fraction=0.04, pad=0.01)
            return png(figure)

    def _draw(self, axes: Axes, means: np.ndarray, labels: list[str]) -> QuadMesh:
        """Draw mean probabilities (rows, columns), and the events of these classes."""
        edges, places = np.array([*self._starts, self._end]), np.arange(len(labels) + 1) - 0.5
        known = np.broadcast_to(self._answers[: means.shape[1]] > 0, means.shape)
        axes.set_facecolor(_NO_ANSWER)
        shown = np.ma.masked_array(means, ~known)
        heat = axes.pcolormesh(edges, places, shown, cmap=_BLUES, vmin=0, vmax=1)
        axes.hlines(places[1:-1], edges[0], edges[-1], color="white", linewidth=3)
        for row, label in enumerate(labels):
            spans = [(one.start, one.end - one.start) for one in self._events if one.label == label]
            axes.broken_barh(spans, (row + 0.28, 0.18), color=VERMILLION, linewidth=0)
        axes.set_yticks(range(len(labels)), [shorten(label, 30) for label in labels])
        axes.invert_yaxis()
        axes.grid(False)
        axes.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 1.5, 2, 3, 6, 10]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: _clock(seconds)))
        axes.set_title(self._caption(), fontsize=9)
        return heat

    def _caption(self) -> str:
        parts = [f"{self._windows:,} windows"]
        parts += [f"averaged over {self._smooth:g} s"] * (self._smooth > 0)
        parts.append(f"orange: {len(self._events):,} events, {self._threshold:g} or more")
        parts += [f"{self._left_out:,} more are not drawn"] * (self._left_out > 0)
        parts += ["grey: no answer"] * bool((self._answers[: len(self._starts)] == 0).any())
        return "; ".join(parts)


def _clock(seconds: float) -> str:
    """Hours, minutes and seconds, as many as there are."""
    minutes, rest = divmod(seconds, 60)
    if minutes >= 60:
        return f"{minutes // 60:.0f}:{minutes % 60:02.0f}:{rest:02.0f}"
    return f"{minutes:.0f}:{rest:02.0f}" if rest == round(rest) else f"{minutes:.0f}:{rest:04.1f}"
