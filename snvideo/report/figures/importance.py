"""Figures of Switchable Normalization's importance ratios, as areas that add up to one."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, PercentFormatter

from snvideo.report.style import MUTED, new_figure, norm_colour
from snvideo.study.runs import Geometry, StudyRun, finished, geometries_of

Ratios = dict[Geometry, np.ndarray]
"""Geometry -> ratios (layers, 2, parts): mean and variance; instance, layer (and batch)."""

_PARTS = {"instance": "in", "layer": "ln", "batch": "bn"}
_KINDS = ("mean", "variance")


def importance_by_depth(runs: list[StudyRun]) -> tuple[Figure, str] | None:
    """Ratios of each layer along the depth: a column a geometry; mean above, variance below."""
    ratios = _ratios(runs)
    if not ratios:
        return None
    figure = new_figure(5.2, "SN's importance ratios in each layer")
    grid = figure.subplots(2, len(ratios), sharey=True, sharex="col", squeeze=False)
    for column, (geometry, values) in zip(grid.T, ratios.items(), strict=True):
        gap = " " if len(ratios) <= 4 else "\n"  # narrow columns have no space beside the name
        note = f"{gap}no batch part" if values.shape[2] == 2 else ""
        column[0].set_title(f"{geometry}{note}", fontsize=10)
        column[1].set_xlabel("layer")
        edges = np.arange(len(values) + 1) + 0.5  # a layer is one unit wide, about its number
        for axes, parts in zip(column, values.transpose(1, 2, 0), strict=True):
            tops = np.cumsum(parts, axis=0)
            for top, part, norm in zip(tops, parts, _PARTS.values(), strict=False):
                look = {"color": norm_colour(norm), "linewidth": 0}
                axes.stairs(top, edges, baseline=top - part, fill=True, **look)
            axes.set_xlim(edges[0], edges[-1])
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    for axes, kind in zip(grid[:, 0], _KINDS, strict=True):
        axes.set_ylabel(f"ratios of the {kind}")
    _finish(figure, "layers counted from the input to the output; columns: (gpus, clips per GPU)")
    texts = [
        f"{geometry}, first and last of {len(values)} layers: {_text(values[0])}; "
        f"{_text(values[-1])}"
        for geometry, values in ratios.items()
    ]
    return figure, f"Areas of SN's importance ratios by layer. {'. '.join(texts)}."


def importance_by_geometry(runs: list[StudyRun]) -> tuple[Figure, str] | None:
    """Ratios averaged over the layers: a bar a geometry; mean on the left, variance right."""
    ratios = {geometry: values.mean(axis=0) for geometry, values in _ratios(runs).items()}
    if not ratios:
        return None
    figure = new_figure(4.2, "SN's importance ratios, averaged over its layers")
    for row, axes in enumerate(figure.subplots(1, 2, sharey=True)):
        for place, means in enumerate(ratios.values()):
            _bar(axes, place, means[row])
        axes.set(title=f"ratios of the {_KINDS[row]}", xlim=(-0.6, len(ratios) - 0.4))
        axes.set_xticks(range(len(ratios)), [str(geometry) for geometry in ratios])
        axes.set_xlabel("batch geometry (gpus, clips per GPU)")
        axes.grid(False)
    left_out = any(means.shape[1] == 2 for means in ratios.values())
    _finish(figure, "one clip per GPU: SN has no batch part" if left_out else "")
    texts = [f"{geometry}: {_text(means)}" for geometry, means in ratios.items()]
    return figure, f"Stacked bars of SN's mean importance ratios. {'. '.join(texts)}."


def _ratios(runs: list[StudyRun]) -> Ratios:
    """Ratios of the SN runs per geometry, averaged over seeds."""
    groups: dict[Geometry, list[np.ndarray]] = {g: [] for g in geometries_of(runs)}
    for run, results in finished(runs):
        if run.norm == "sn" and (layers := results.importance):
            parts = min(len(ratios) for one in layers for ratios in (one.mean, one.variance))
            array = np.array([[one.mean[:parts], one.variance[:parts]] for one in layers])
            groups[run.geometry].append(array)
    # Networks of another depth would be another study: the first one counts.
    return {
        geometry: np.mean([array for array in group if array.shape == group[0].shape], axis=0)
        for geometry, group in groups.items()
        if group
    }


def _bar(axes: Axes, place: int, values: np.ndarray) -> None:
    """One stacked bar with each part's share written inside."""
    tops = np.cumsum(values)
    for value, top, norm in zip(values, tops, _PARTS.values(), strict=False):
        axes.bar(place, value, width=0.7, bottom=top - value, color=norm_colour(norm))
        if value >= 0.05:
            middle, shade = top - value / 2, "white" if norm == "bn" else "black"
            axes.text(place, middle, f"{100 * value:.0f} %", ha="center", va="center", color=shade)


def _finish(figure: Figure, note: str) -> None:
    """Axes in percent, the legend and a note below."""
    figure.axes[0].set_ylim(0, 1)
    figure.axes[0].yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    patches = [Patch(color=norm_colour(norm), label=name) for name, norm in _PARTS.items()]
    figure.legend(handles=patches, loc="outside lower left", ncols=3)
    if note:
        figure.text(0.99, 0.015, note, ha="right", color=MUTED, fontsize=9)


def _text(ratios: np.ndarray) -> str:
    """Ratios (2, parts) in words."""
    return ", ".join(
        f"{kind} " + " ".join(f"{n} {100 * v:.0f} %" for n, v in zip(_PARTS, values, strict=False))
        for kind, values in zip(_KINDS, ratios, strict=True)
    )
