"""Figure of an index's summary."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from snvideo.data.index import STATUSES
from snvideo.data.indexing.summary import IndexSummary
from snvideo.report.style import BLUE, ORANGE, VERMILLION, new_figure, png, styled
from snvideo.text import shorten

STATUS_COLOURS = dict(zip(STATUSES, (BLUE, ORANGE, VERMILLION), strict=True))

_NAMED = 40
"""More classes than this get no names on the axis."""


def index_png(summary: IndexSummary) -> bytes:
    """A PNG: videos per class, status by split, and durations of usable videos."""
    videos = np.sum(list(summary.counts.values()), axis=0)
    splits = {split: n.tolist() for split, n in summary.videos.items()}
    heights = [3.4, 0.9 + 0.45 * len(splits), 3.0]
    with styled():
        found = f"{summary.usable:,} of {sum(map(sum, splits.values())):,} videos usable"
        figure = new_figure(0.4 + sum(heights), f"{shorten(str(summary.path), 60)}: {found}")
        classes, by_split, durations = figure.subplots(3, height_ratios=heights)
        draw_classes(classes, summary.labels, videos)
        draw_splits(by_split, splits)
        draw_durations(durations, summary.numbers["seconds"])
        return png(figure)


def draw_classes(axes: Axes, names: Sequence[str], counts: np.ndarray) -> None:
    """Plot `counts` (classes, statuses) of videos, the class with the most usable ones first."""
    order = np.lexsort((-counts.sum(axis=1), -counts[:, 0]))
    edges, base = np.arange(-0.5, len(names)), np.zeros(len(names), np.int64)
    for status, videos in zip(STATUSES, counts[order].T, strict=True):
        top, colour = base + videos, STATUS_COLOURS[status]
        axes.stairs(top, edges, baseline=base, fill=True, color=colour, label=status, linewidth=0)
        base = top
    axes.set_title("videos per class")
    axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.margins(x=0.01)
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=len(STATUSES))
    if len(names) <= _NAMED:
        ticks, labels = range(len(names)), [shorten(names[k], 18) for k in order]
        axes.set_xticks(ticks, labels, rotation=45, ha="right", rotation_mode="anchor")
    else:
        axes.set_xlabel(f"{len(names)} classes, by usable videos")


def draw_splits(axes: Axes, counts: Mapping[str, Sequence[int]]) -> None:
    """Plot shares of the statuses from `counts` (split -> videos of each status)."""
    shares = np.array([100 * np.divide(n, max(1, sum(n))) for n in counts.values()])
    place, base = np.arange(len(counts)), np.zeros(len(counts))
    for status, share in zip(STATUSES, shares.T, strict=True):
        axes.barh(place, share, 0.6, base, color=STATUS_COLOURS[status])
        base += share
    axes.grid(False)
    axes.set_yticks(place, [f"{shorten(name, 16)}\n{sum(n):,}" for name, n in counts.items()])
    axes.invert_yaxis()
    axes.set(title="status by split", xlim=(0, 100))
    axes.xaxis.set_major_formatter(PercentFormatter(symbol=" %"))


def draw_durations(axes: Axes, seconds: np.ndarray) -> None:
    """Plot a histogram; a few very long videos do not squeeze the others into a single bar."""
    label, longest = "seconds", float(np.quantile(seconds, 0.99)) if len(seconds) else 0.0
    if seconds.max(initial=0) > 1.5 * longest:
        seconds = seconds.clip(max=longest)
        label = f"seconds (the last bar: {longest:.4g} and more)"
    axes.hist(seconds, bins=40, color=BLUE)
    axes.set(title="durations of usable videos", xlabel=label, ylabel="videos")
    axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
