"""The importance ratios of Switchable Normalization, as areas that add up to one."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, PercentFormatter

from snvideo.engine.results import LayerImportance
from snvideo.report.figures.style import colour, new_figure
from snvideo.report.style import MUTED
from snvideo.study.runs import Geometry, Run, finished, geometries_of

Ratios = dict[Geometry, np.ndarray]
"""Geometry -> ratios (layers, 2, parts): mean and variance; instance, layer (and batch)."""

_PARTS = (("instance", "in"), ("layer", "ln"), ("batch", "bn"))
_KINDS = ("mean", "variance")


def importance_by_depth(runs: list[Run]) -> Figure | None:
    """Ratios of each layer along the depth: a column a geometry; mean above, variance below."""
    ratios = _ratios(runs)
    if not ratios:
        return None
    figure = new_figure(5.2, "SN's importance ratios in each layer")
    grid = figure.subplots(2, len(ratios), sharey=True, sharex="col", squeeze=False)
    for column, (geometry, values) in enumerate(ratios.items()):
        gap = " " if len(ratios) <= 4 else "\n"  # narrow columns have no room beside the name
        note = f"{gap}no batch part" if values.shape[2] == 2 else ""
        grid[0, column].set_title(f"{geometry}{note}", fontsize=10)
        for row, kind in enumerate(_KINDS):
            axes = grid[row, column]
            _areas(axes, values[:, row])
            if column == 0:
                axes.set_ylabel(f"ratios of the {kind}")
        grid[1, column].set_xlabel("layer")
    _legend(figure, "layers counted from the input to the output; columns: (gpus, clips per GPU)")
    return figure


def importance_by_geometry(runs: list[Run]) -> Figure | None:
    """Ratios averaged over the layers: a bar a geometry; mean on the left, variance right."""
    ratios = _ratios(runs)
    if not ratios:
        return None
    figure = new_figure(4.2, "SN's importance ratios, averaged over its layers")
    for axes, kind, row in zip(figure.subplots(1, 2, sharey=True), _KINDS, (0, 1), strict=True):
        for place, values in enumerate(ratios.values()):
            _bar(axes, place, values[:, row].mean(axis=0))
        axes.set_title(f"ratios of the {kind}")
        axes.set_xticks(range(len(ratios)), [str(geometry) for geometry in ratios])
        axes.set_xlabel("batch geometry (gpus, clips per GPU)")
        axes.set_xlim(-0.6, len(ratios) - 0.4)
        _share_axis(axes)
        axes.grid(False)
    figure.axes[0].set_ylabel("ratio")
    left_out = any(values.shape[2] == 2 for values in ratios.values())
    _legend(figure, "one clip per GPU: SN has no batch part" if left_out else "")
    return figure


def _ratios(runs: list[Run]) -> Ratios:
    """Ratios of the SN runs per geometry, averaged over seeds."""
    groups: dict[Geometry, list[np.ndarray]] = {g: [] for g in geometries_of(runs)}
    for run, results in finished(runs):
        if run.norm == "sn" and results.importance:
            groups[run.geometry].append(_array(results.importance))
    # Networks of another depth would be another study: the first one counts.
    return {
        geometry: np.mean([array for array in group if array.shape == group[0].shape], axis=0)
        for geometry, group in groups.items()
        if group
    }


def _array(layers: list[LayerImportance]) -> np.ndarray:
    parts = min(len(ratios) for layer in layers for ratios in (layer.mean, layer.variance))
    return np.array([[layer.mean[:parts], layer.variance[:parts]] for layer in layers])


def _areas(axes: Axes, values: np.ndarray) -> None:
    """Stacked steps of (layers, parts): every layer one unit wide, centred on its number."""
    edges = np.arange(len(values) + 1) + 0.5
    top = np.zeros(len(values))
    for part, (_, norm) in zip(values.T, _PARTS, strict=False):
        axes.stairs(top + part, edges, baseline=top, fill=True, color=colour(norm), linewidth=0)
        top = top + part
    axes.set_xlim(edges[0], edges[-1])
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    _share_axis(axes)


def _bar(axes: Axes, place: int, values: np.ndarray) -> None:
    """One stacked bar with each part's share written inside."""
    bottom = 0.0
    for value, (_, norm) in zip(values, _PARTS, strict=False):
        axes.bar(place, value, width=0.7, bottom=bottom, color=colour(norm))
        if value >= 0.05:
            axes.text(
                place,
                bottom + value / 2,
                f"{100 * value:.0f} %",
                ha="center",
                va="center",
                color="white" if norm == "bn" else "black",
            )
        bottom += value


def _share_axis(axes: Axes) -> None:
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))


def _legend(figure: Figure, note: str) -> None:
    patches = [Patch(color=colour(norm), label=name) for name, norm in _PARTS]
    figure.legend(handles=patches, loc="outside lower left", ncols=3)
    if note:
        figure.text(0.99, 0.015, note, ha="right", color=MUTED, fontsize=9)
