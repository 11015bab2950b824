"""Figure of an index's summary."""

from collections.abc import Mapping, Sequence
from itertools import compress

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


def index_png(summary: IndexSummary, most: int = 5) -> bytes:
    """A PNG: videos per class, durations, resolutions, status by split, `most` reasons of each."""
    reasons = summary.commonest_reasons(most)
    heights = [3.4, 3.0, 0.9 + 0.45 * len(summary.counts), 0.9 + 0.4 * len(reasons)]
    heights = list(compress(heights, [True, summary.usable > 0, True, bool(reasons)]))
    videos = np.sum(list(summary.counts.values()), axis=0)
    with styled():
        found = f"{summary.usable:,} of {videos.sum():,} videos usable"
        title = f"{shorten(str(summary.path), 60)}: {found}"
        figure = new_figure(0.4 + sum(heights), title)
        panels = iter(figure.subfigures(len(heights), squeeze=False, height_ratios=heights).flat)
        draw_classes(next(panels).subplots(), summary.labels, videos)
        if summary.usable:
            left, right = next(panels).subplots(1, 2)
            draw_durations(left, summary.numbers["seconds"])
            draw_sizes(right, summary.sizes)
        splits = {split: n.sum(axis=0).tolist() for split, n in summary.counts.items()}
        draw_splits(next(panels).subplots(), splits)
        if reasons:
            draw_reasons(next(panels).subplots(), reasons)
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
        labels = [shorten(names[k], 18) for k in order]
        ticks = range(len(names))
        axes.set_xticks(ticks, labels, rotation=45, ha="right", rotation_mode="anchor")
    else:
        axes.set_xlabel(f"{len(names)} classes, by usable videos")


def draw_durations(axes: Axes, seconds: np.ndarray) -> None:
    """Plot a histogram; a few very long videos do not squeeze the others into a single bar."""
    label, longest = "seconds", float(np.quantile(seconds, 0.99))
    if seconds.max() > 1.5 * longest:
        seconds = seconds.clip(max=longest)
        label = f"seconds (the last bar: {longest:.4g} and more)"
    axes.hist(seconds, bins=40, color=BLUE)
    axes.set(title="durations", xlabel=label, ylabel="videos")
    axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))


def draw_sizes(axes: Axes, sizes: Mapping[tuple[int, int], int]) -> None:
    """Plot width against height, each size a disc whose area is its number of videos."""
    width, height = np.array(list(sizes)).T
    videos = np.array(list(sizes.values()))
    order = np.argsort(-videos)  # the small discs on top
    area = 6 + 1000 * videos[order] / videos.sum()
    axes.scatter(width[order], height[order], area, BLUE, alpha=0.5, linewidths=0)
    axes.set(title="resolutions (area: videos)", xlabel="width", ylabel="height")
    axes.margins(0.15)
    axes.grid(True, axis="both")


def draw_splits(axes: Axes, counts: Mapping[str, Sequence[int]]) -> None:
    """Plot shares of the statuses from `counts` (split -> videos of each status)."""
    shares = np.array([100 * np.divide(n, max(1, sum(n))) for n in counts.values()])
    place, base = np.arange(len(counts)), np.zeros(len(counts))
    for status, share in zip(STATUSES, shares.T, strict=True):
        axes.barh(place, share, 0.6, base, color=STATUS_COLOURS[status])
        base += share
    axes.set_title("status by split")
    axes.grid(False)
    axes.set_yticks(place, [f"{shorten(name, 16)}\n{sum(n):,}" for name, n in counts.items()])
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.xaxis.set_major_formatter(PercentFormatter(symbol=" %"))


def draw_reasons(axes: Axes, reasons: Sequence[tuple[str, str, int]]) -> None:
    """Plot a bar for each (status, reason, videos), in the status's colour."""
    numbers = [number for *_, number in reasons]
    colours = [STATUS_COLOURS[status] for status, *_ in reasons]
    axes.barh(range(len(reasons)), numbers, 0.3, color=colours)
    for place, (_, reason, number) in enumerate(reasons):
        axes.text(0, place - 0.25, f"{shorten(reason, 90)}: {number:,}", va="bottom", fontsize=9)
    axes.set(title="reasons, and remarks on usable videos", xlabel="videos", yticks=[])
    axes.grid(False)
    axes.set_ylim(len(reasons) - 0.7, -0.9)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
