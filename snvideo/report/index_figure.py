"""Figure of an index's summary."""

from collections.abc import Mapping, Sequence
from itertools import compress
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, NullLocator, PercentFormatter, ScalarFormatter

from snvideo.data.index import STATUSES
from snvideo.data.indexing.summary import IndexSummary
from snvideo.report.style import BLUE, ORANGE, VERMILLION, new_figure, png, styled
from snvideo.text import shorten

STATUS_COLOURS = dict(zip(STATUSES, (BLUE, ORANGE, VERMILLION), strict=True))

_NAMED = 40
"""More classes than this get no names on the axis."""


def index_png(summary: IndexSummary, most: int = 5) -> bytes:
    """A PNG: videos per class, durations, resolutions, status by split, reasons.

    Args:
        summary: of an index.
        most: reasons of each status that are drawn.
    """
    reasons = summary.commonest_reasons(most)
    heights = [3.4, 3.0, 0.9 + 0.45 * len(summary.counts), 0.9 + 0.4 * len(reasons)]
    shown = [True, summary.usable > 0, True, bool(reasons)]
    heights = list(compress(heights, shown))
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
    """Videos of each class, stacked by status, the class with the most usable ones first.

    Args:
        axes: to draw in.
        names: of the classes.
        counts: int64 (classes, statuses).
    """
    order = np.lexsort((-counts.sum(axis=1), -counts[:, 0]))
    named = len(names) <= _NAMED
    place, base = np.arange(len(names)), np.zeros(len(names), np.int64)
    for status, videos in zip(STATUSES, counts[order].T, strict=True):
        look: dict[str, Any] = {"color": STATUS_COLOURS[status], "label": status, "linewidth": 0}
        if named:
            axes.bar(place, videos, 0.8, base, **look)
        else:  # hundreds of bars side by side, drawn as one area
            edges = np.arange(-0.5, len(names))
            axes.stairs(base + videos, edges, baseline=base, fill=True, **look)
        base = base + videos  # not in place: an area keeps the array that it begins at
    axes.set_title("videos per class")
    axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.margins(x=0.01)
    axes.set_ylim(0, 1.05 * base.max())
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=len(STATUSES))
    if named:
        labels = [shorten(names[k], 18) for k in order]
        axes.set_xticks(place, labels, rotation=45, ha="right", rotation_mode="anchor")
    else:
        axes.set_xlabel(f"{len(names)} classes, by usable videos")


def draw_durations(axes: Axes, seconds: np.ndarray) -> None:
    """A histogram; a few very long videos do not squeeze the others into a single bar."""
    axes.set_title("durations")
    longest = float(np.quantile(seconds, 0.99))
    if seconds.max() > 1.5 * longest:
        label = f"seconds (the last bar: {longest:.4g} and more)"
    else:
        label, longest = "seconds", float(seconds.max())
    axes.hist(seconds.clip(max=longest), bins=40, color=BLUE)
    axes.set_xlabel(label)
    axes.set_ylabel("videos")
    axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))


def draw_sizes(axes: Axes, sizes: Mapping[tuple[int, int], int]) -> None:
    """Width against height, each size a disc whose area tells how many videos have it."""
    axes.set_title("resolutions (area: videos)")
    width, height = np.array(list(sizes)).T
    videos = np.array(list(sizes.values()))
    order = np.argsort(-videos)  # the small discs on top
    area = 6 + 1000 * videos[order] / videos.sum()
    axes.scatter(width[order], height[order], area, BLUE, alpha=0.5, linewidths=0)
    axes.set(xlabel="width", ylabel="height")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xlim(width.min() / 1.6, width.max() * 1.6)
    axes.set_ylim(height.min() / 1.6, height.max() * 1.6)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(ScalarFormatter())
        axis.set_minor_locator(NullLocator())
    axes.grid(True, axis="both")


def draw_splits(axes: Axes, counts: Mapping[str, Sequence[int]]) -> None:
    """Shares of the statuses in each split, beside its name the number of videos.

    Args:
        axes: to draw in.
        counts: split -> videos of each status.
    """
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
    """A bar for each (status, reason, videos), in the status's colour."""
    numbers = [number for *_, number in reasons]
    colours = [STATUS_COLOURS[status] for status, *_ in reasons]
    axes.barh(range(len(reasons)), numbers, 0.3, color=colours)
    for place, (_, reason, number) in enumerate(reasons):
        axes.text(0, place - 0.25, f"{shorten(reason, 90)}: {number:,}", va="bottom", fontsize=9)
    axes.set_title("reasons, and remarks on usable videos")
    axes.grid(False)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_ylim(len(reasons) - 0.7, -0.9)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.set_xlabel("videos")
