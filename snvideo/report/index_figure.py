"""Panels of a figure about videos, drawn from plain numbers."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import (
    LogLocator,
    MaxNLocator,
    NullLocator,
    PercentFormatter,
    ScalarFormatter,
)

from snvideo.data.index import STATUSES
from snvideo.report.style import BLUE, ORANGE, VERMILLION
from snvideo.text import shorten

STATUS_COLOURS = dict(zip(STATUSES, (BLUE, ORANGE, VERMILLION), strict=True))

_NAMED = 40
"""More classes than this get no names on the axis."""


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
        style = {"color": STATUS_COLOURS[status], "label": status, "linewidth": 0}
        if named:
            axes.bar(place, videos, 0.8, base, **style)
        else:  # hundreds of bars side by side, drawn as one area
            axes.stairs(
                base + videos, np.arange(-0.5, len(names)), baseline=base, fill=True, **style
            )
        base = base + videos  # not in place: an area keeps the array that it begins at
    axes.set_title("videos per class")
    axes.grid(axis="y")
    axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.margins(x=0.01)
    axes.set_ylim(0, 1.05 * base.max())
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=len(STATUSES))
    if named:
        few = len(names) <= 8
        labels = [shorten(names[k], 16 if few else 20) for k in order]
        turned = {} if few else {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
        axes.set_xticks(place, labels, **turned)
    else:
        axes.set_xlabel(f"{len(names)} classes, by usable videos")


def draw_durations(axes: Axes, seconds: np.ndarray) -> None:
    """A histogram; a few very long videos do not squeeze the others into a single bar."""
    axes.set_title("durations")
    axes.grid(axis="y")
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
    for axis, scale, limits, values in (
        (axes.xaxis, axes.set_xscale, axes.set_xlim, width),
        (axes.yaxis, axes.set_yscale, axes.set_ylim, height),
    ):
        scale("log", base=2)
        limits(values.min() / 1.6, values.max() * 1.6)
        axis.set_major_locator(LogLocator(2, numticks=9))
        axis.set_major_formatter(ScalarFormatter())
        axis.set_minor_locator(NullLocator())
    axes.grid()
    axes.set_xlabel("width")
    axes.set_ylabel("height")


def draw_splits(axes: Axes, counts: Mapping[str, Sequence[int]]) -> None:
    """Of each split the shares of the statuses, beside its name the number of videos.

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
    axes.set_title("reasons, and remarks on usable videos")
    axes.grid(False)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    numbers = [number for *_, number in reasons]
    colours = [STATUS_COLOURS[status] for status, *_ in reasons]
    axes.barh(range(len(reasons)), numbers, 0.3, color=colours)
    for place, (_, reason, number) in enumerate(reasons):
        axes.text(0, place - 0.25, f"{shorten(reason, 90)}: {number:,}", va="bottom", fontsize=9)
    axes.set_ylim(len(reasons) - 0.7, -0.9)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.set_xlabel("videos")
