"""Figures of Switchable Normalization's importance ratios: lines of parts, ranges over seeds."""

import logging
from collections.abc import Iterable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from snvideo.norm.mixture import PARTS
from snvideo.report.style import LINE_STYLES, MUTED, Drawing, new_figure, norm_colour, norm_marker
from snvideo.study.importance import STATISTICS, layer_ratios
from snvideo.study.runs import (
    Geometry,
    StudyRun,
    by_cell,
    display_name,
    finished,
    geometries_of,
    norms_of,
)
from snvideo.study.summary import splits_note

log = logging.getLogger(__name__)

Ratios = dict[str, np.ndarray]
"""Part -> its ratios (seeds, layers, 2), of means and variances; NaN in a layer without it."""
Cells = dict[tuple[str, Geometry], Ratios]

_ALONE: dict[str, str] = {part: part[0] + "n" for part in PARTS}
"""Part -> the norm that it is alone, in, gn, ln or bn, whose colour and marker it has."""


def importance_by_geometry(runs: list[StudyRun]) -> Drawing | None:
    """Ratios averaged over the layers against clips per GPU: a row a norm, a column a statistic."""
    mixing, cells, left_out = _cells(runs)
    for sentence in left_out:  # also said where there is no caption, as nothing is left to draw
        log.warning("importance ratios: %s", sentence)
    if not cells:
        return None
    means = {
        key: {part: np.nanmean(values, axis=1) for part, values in parts.items()}
        for key, parts in cells.items()
    }
    norms, geometries = norms_of(mixing), geometries_of(mixing)
    figure = new_figure(1.5 + 2.2 * len(norms), "SN's importance ratios, averaged over its layers")
    grid = figure.subplots(len(norms), 2, sharex=True, sharey=True, squeeze=False)
    for row, norm in zip(grid, norms, strict=True):
        here = {geometry: parts for (name, geometry), parts in means.items() if name == norm}
        row[0].set_ylabel(f"{display_name(norm)}, {_seeds(list(here.values()))}")
        for number, axes in enumerate(row):
            _lines_by_geometry(axes, here, geometries, number)
    for statistic, axes in zip(STATISTICS, grid[0], strict=True):
        axes.set_title(f"ratios of the {statistic}")
    for axes in grid[-1]:
        axes.set_xticks(range(len(geometries)), list(map(str, geometries)))
        axes.set_xlim(-0.5, len(geometries) - 0.5)
        axes.set_xlabel("batch geometry (gpus, clips per GPU)")
    _finish(figure, cells, _spread(cells, "bars"), markers=True)
    texts = [
        f"{display_name(norm)} at {geometry}, {_seeds([parts])}: {_text(parts)}"
        for (norm, geometry), parts in means.items()
    ]
    alt = "Line chart of SN's importance ratios by batch geometry, averaged over layers."
    return Drawing(figure, f"{alt} {'. '.join(texts)}.", _note(means, mixing, left_out))


def importance_by_depth(runs: list[StudyRun]) -> Drawing | None:
    """Ratios of each layer along the depth: two rows a norm, of means and of variances, and a
    column a geometry."""
    mixing, cells, left_out = _cells(runs)
    if not cells:
        return None
    norms, geometries = norms_of(mixing), geometries_of(mixing)
    rows = [(norm, number) for norm in norms for number in range(len(STATISTICS))]
    title = "SN's importance ratios in each layer, by (gpus, clips per GPU)"
    figure = new_figure(1.4 + 1.6 * len(rows), title)
    grid = figure.subplots(len(rows), len(geometries), sharex="row", sharey=True, squeeze=False)
    for line, (norm, number) in zip(grid, rows, strict=True):
        line[0].set_ylabel(f"{display_name(norm)}\n{STATISTICS[number]}")
        mixes_batch = any("batch" in parts for (name, _), parts in cells.items() if name == norm)
        for axes, geometry in zip(line, geometries, strict=True):
            axes.xaxis.set_major_locator(MaxNLocator(4, integer=True, min_n_ticks=1))
            parts = cells.get((norm, geometry), {})
            _lines_by_depth(axes, parts, number)
            note = _seeds([parts]) if parts else "no ratios"
            if mixes_batch and parts and "batch" not in parts:
                note += ", no batch"
            head = f"{geometry}\n" if axes in grid[0] else ""
            axes.set_title(head + note, fontsize=9, pad=3)
    for axes in grid[-1]:
        axes.set_xlabel("layer")
    grid[0, 0].yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    figure.align_ylabels()
    _finish(figure, cells, _spread(cells, "bands"), markers=False)
    texts = []
    for (norm, geometry), parts in cells.items():
        layers = next(iter(parts.values())).shape[1]
        ends = (_text({part: v[:, end] for part, v in parts.items()}) for end in (0, -1))
        where = f"{display_name(norm)} at {geometry}, {_seeds([parts])}"
        texts.append(f"{where}, first and last of {layers} layers: {' / '.join(ends)}")
    alt = "Line charts of SN's importance ratios by layer, from the input to the output."
    return Drawing(figure, f"{alt} {'. '.join(texts)}.", _note(cells, mixing, left_out))


def _cells(runs: list[StudyRun]) -> tuple[list[StudyRun], Cells, list[str]]:
    """The runs that are drawn, their ratios, and sentences on those that are left out.

    Norms and variants stay apart; what a mean over seeds cannot hold is left out.
    """
    mixing, cells, left_out = [], Cells(), []
    for geometry, norm, group in by_cell(run for run, res in finished(runs) if res.importance):
        seeds: list[list[dict[str, tuple[float, float]]]] = []
        names: list[str] = []
        for run, results in finished(group):
            layers = layer_ratios(results)
            own = [layer.layer for layer in results.importance or []]
            names = names or own
            if own != names or layers[0].keys() != (seeds or [layers])[0][0].keys():
                left_out.append(f"{run.name} is left out: its layers are not those of other seeds.")
            elif not np.isfinite([v for layer in layers for v in layer.values()]).all():
                left_out.append(f"{run.name} is left out: it has ratios that are no numbers.")
            else:
                seeds.append(layers)
                mixing.append(run)
        missing = (float("nan"),) * 2
        parts = dict.fromkeys(part for layers in seeds for layer in layers for part in layer)
        if parts:
            cells[norm, geometry] = {
                part: np.array([[layer.get(part, missing) for layer in one] for one in seeds])
                for part in parts
            }
    cells = {key: cells[key] for norm in norms_of(mixing) for key in cells if key[0] == norm}
    return mixing, cells, list(dict.fromkeys(left_out))


def _lines_by_geometry(
    axes: Axes, cells: dict[Geometry, Ratios], geometries: list[Geometry], number: int
) -> None:
    """A line a part and total batch, with bars over seeds; a gap where the part is not mixed."""
    parts = _parts(cells.values())
    for place, part in enumerate(parts):
        shift = 0.07 * (place - (len(parts) - 1) / 2)  # so that no bar hides another
        for total in dict.fromkeys(gpus * clips for gpus, clips in geometries):
            # Missing points stay in the line, as NaN: it is not to lead across them.
            line = [(x, g) for x, g in enumerate(geometries) if g[0] * g[1] == total]
            values = [
                _range(cells[g][part][:, number]) if part in cells.get(g, {}) else [np.nan] * 3
                for _, g in line
            ]
            low, mean, high = np.array(values).T
            alone = [len(cells.get(g, {}).get(part, ())) == 1 for _, g in line]
            axes.errorbar(
                [x + shift for x, _ in line],
                mean,
                # One seed has no range, not one of zero.
                [np.where(alone, np.nan, mean - low), np.where(alone, np.nan, high - mean)],
                **_look(part),
                marker=_marker(part),
                markersize=5,
                linewidth=1.2,
                capsize=2.5,
            )


def _lines_by_depth(axes: Axes, parts: Ratios, number: int) -> None:
    """A line a part, and a band over seeds."""
    for part, values in parts.items():
        low, mean, high = _range(values[:, :, number])
        layers = np.arange(len(mean)) + 1
        look = _look(part)
        axes.fill_between(layers, low, high, color=look["color"], alpha=0.25, linewidth=0)
        axes.plot(layers, mean, **look, linewidth=1.4, marker="o" if len(layers) == 1 else "")
        axes.set_xlim(0.5, len(layers) + 0.5)


def _parts(cells: Iterable[Ratios]) -> list[str]:
    """The parts of some cells in the order of `PARTS`, before any of other names."""
    names = dict.fromkeys(part for parts in cells for part in parts)
    return sorted(names, key=[*PARTS, *names].index)


def _look(part: str) -> dict[str, Any]:
    place = list(_ALONE).index(part) if part in _ALONE else -1
    return {"color": norm_colour(_ALONE.get(part, "")), "linestyle": LINE_STYLES[place]}


def _marker(part: str) -> str:
    return norm_marker(_ALONE.get(part, ""))


def _range(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lowest, mean and highest over the seeds, the first axis."""
    low, high = values.min(axis=0), values.max(axis=0)
    return low, np.clip(values.mean(axis=0), low, high), high  # rounded, it may lie outside


def _finish(figure: Figure, cells: Cells, note: str, markers: bool) -> None:
    """Axes in percent from zero, the legend and a note below."""
    figure.axes[0].set_ylim(bottom=0)
    figure.axes[0].yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    handles = [
        Line2D([], [], **_look(part), marker=_marker(part) if markers else "", label=part)
        for part in _parts(cells.values())
    ]
    figure.legend(handles=handles, loc="outside lower left", ncols=4, handlelength=3)
    figure.text(0.99, 0.13 / figure.get_figheight(), note, ha="right", color=MUTED, fontsize=9)


def _spread(cells: Cells, marks: str) -> str:
    """The meaning of bars or bands, or why there are none."""
    counts = {len(values) for parts in cells.values() for values in parts.values()}
    if counts == {1}:
        return "one seed: no spread can be shown"
    return f"{marks}: lowest to highest seed" + ("; none: one seed" if 1 in counts else "")


def _seeds(cells: list[Ratios]) -> str:
    """The number of seeds of some cells."""
    counts = sorted({len(values) for parts in cells for values in parts.values()})
    return "n = " + " to ".join(map(str, sorted({counts[0], counts[-1]})))


def _text(parts: Ratios) -> str:
    """Ratios (seeds, 2) of parts in words: mean, and lowest to highest of several seeds."""
    texts = []
    for number, statistic in enumerate(STATISTICS):
        words = []
        for part, values in parts.items():
            low, mean, high = (100 * value for value in _range(values[:, number]))
            spread = f" ({low:.1f} to {high:.1f})" if len(values) > 1 else ""
            words.append(f"{part} {mean:.1f} %{spread}" if np.isfinite(mean) else f"{part} none")
        texts.append(f"{statistic} {', '.join(words)}")
    return "; ".join(texts)


def _note(cells: Cells, runs: list[StudyRun], left_out: list[str]) -> str:
    """Numbers of seeds and how far they are apart, for the caption."""
    texts = []
    for norm in norms_of(runs):
        here = [parts for (name, _), parts in cells.items() if name == norm]
        ranges = [np.ptp(v, axis=0) for parts in here for v in parts.values() if len(v) > 1]
        text = "one seed, so no spread can be shown"
        if ranges:
            text = f"seeds at most {100 * max(map(np.nanmax, ranges)):.1f} points apart"
        texts.append(f"{display_name(norm)}: {_seeds(here)}, {text}")
    return " ".join([f"{'; '.join(texts)}.", *filter(None, [splits_note(runs)]), *left_out])
