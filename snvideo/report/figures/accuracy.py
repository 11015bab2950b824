"""Accuracy against the number of clips on a GPU."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from snvideo.report.figures.style import MARKERS, colour, new_figure
from snvideo.report.study_table import chance
from snvideo.report.style import MUTED
from snvideo.study.interval import Interval, student
from snvideo.study.runs import Geometry, Run, by_cell, finished, geometries_of, norms_of

_LABEL_GAP = 5.0
"""Least distance of two labels on the accuracy axis, in percentage points."""


def accuracy(runs: list[Run]) -> Figure | None:
    """Video top-1 against clips per GPU: one line a norm, intervals over seeds, chance."""
    done = finished(runs)
    if not done:
        return None
    figure = new_figure(4.6, "Video top-1 accuracy by norm and batch geometry")
    axes = figure.add_subplot()
    places = _places(geometries_of(run for run, _ in done))
    means = {
        (norm, geometry): student([results.video_top1 for _, results in finished(group)])
        for geometry, norm, group in by_cell(run for run, _ in done)
    }
    norms = norms_of(run for run, _ in done)
    ends, most = {}, (len(norms) - 1) / 2
    for number, norm in enumerate(norms):
        shift = 2 ** (0.05 * (number - most))  # so that no bar hides another
        line = [(places[g] * shift, means[norm, g]) for g in places if (norm, g) in means]
        _line(axes, norm, line)
        ends[norm] = 100 * line[-1][1].mean
    _labels(axes, max(places.values()) * 2 ** (0.05 * most), ends)
    level = 100 * min(chance(results) for _, results in done)
    axes.axhline(level, color=MUTED, linestyle=(0, (2, 2)), linewidth=1)
    axes.set_xscale("log", base=2)
    axes.set_xlim(min(places.values()) / 1.35, max(places.values()) * 1.6)
    right = axes.get_xlim()[1]
    axes.text(right, level + 1, f"chance {level:.3g} %", color=MUTED, fontsize=9, ha="right")
    axes.set_xticks(list(places.values()), [str(geometry) for geometry in places])
    axes.minorticks_off()
    axes.set_ylim(0, 103)
    axes.set_xlabel("batch geometry (gpus, clips per GPU); log scale in clips per GPU")
    axes.set_ylabel("video top-1 (%)")
    axes.set_title(_seeds([interval.n for interval in means.values()]), color=MUTED)
    return figure


def _places(geometries: list[Geometry]) -> dict[Geometry, float]:
    """Geometry -> clips per GPU; those with as many clips per GPU stand a little apart."""
    places: dict[Geometry, float] = {}
    for geometry in geometries:
        before = sum(clips == geometry[1] for _, clips in places)
        places[geometry] = geometry[1] * 2 ** (0.33 * before)
    return places


def _line(axes: Axes, norm: str, line: list[tuple[float, Interval]]) -> None:
    xs = [x for x, _ in line]
    ys = [100 * interval.mean for _, interval in line]
    style = {"color": colour(norm), "marker": MARKERS.get(norm, "o"), "markersize": 6}
    axes.plot(xs, ys, linewidth=1.8, **style)
    bars = [(x, y, 100 * i.half) for x, y, (_, i) in zip(xs, ys, line, strict=True) if i.half]
    for x, y, half in bars:
        axes.errorbar(x, y, yerr=half, color=colour(norm), capsize=4, linewidth=1.4)


def _labels(axes: Axes, x: float, ends: dict[str, float]) -> None:
    """The names of the norms to the right of the last point, at the height of their own last."""
    for norm, y in _apart(ends).items():
        axes.annotate(
            norm.upper(),
            (x, y),
            xytext=(16, 0),
            textcoords="offset points",
            color=colour(norm),
            fontweight="bold",
            va="center",
        )


def _apart(ends: dict[str, float]) -> dict[str, float]:
    """Heights at which labels do not overlap, near those that they stand for."""
    names = sorted(ends, key=ends.__getitem__)
    heights = [ends[name] for name in names]
    for _ in range(100):
        for below in range(len(heights) - 1):
            overlap = _LABEL_GAP - (heights[below + 1] - heights[below])
            if overlap > 0:
                heights[below] -= overlap / 2
                heights[below + 1] += overlap / 2
    return dict(zip(names, heights, strict=True))


def _seeds(counts: list[int]) -> str:
    """What the bars mean, or why there are none."""
    if max(counts) == 1:
        return "one seed: no interval can be given"
    seeds = str(min(counts)) if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
    text = f"mean of {seeds} seeds; bars: 95 % confidence interval (Student t)"
    return text + "; no bar: one seed" if min(counts) == 1 else text
