"""Figures of Switchable Normalization's importance ratios, as areas that add up to one."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, PercentFormatter

from snvideo.report.style import MUTED, new_figure, norm_colour
from snvideo.study.runs import StudyRun, by_cell, display_name, finished, norms_of

Ratios = dict[str, np.ndarray]
"""Name of a part -> its ratios (layers, 2), of means and variances."""

_COLOURS = {part: norm_colour(part[0] + "n") for part in ("instance", "group", "layer", "batch")}
"""Those of the norms that a part does alone: in, gn, ln, bn."""
_KINDS = ("mean", "variance")


def importance_by_depth(runs: list[StudyRun]) -> tuple[Figure, str] | None:
    """Ratios of each layer along the depth: a column a geometry; mean above, variance below."""
    ratios = _ratios(runs)
    if not ratios:
        return None
    figure = new_figure(5.2, "SN's importance ratios in each layer")
    grid = figure.subplots(2, len(ratios), sharey=True, sharex="col", squeeze=False)
    for column, (cell, parts) in zip(grid.T, ratios.items(), strict=True):
        gap = " " if len(ratios) <= 4 else "\n"  # narrow columns have no space beside the name
        note = "" if "batch" in parts else f"{gap}no batch part"
        column[0].set_title(f"{cell}{note}", fontsize=10)
        column[1].set_xlabel("layer")
        for number, axes in enumerate(column):
            top = np.zeros(len(next(iter(parts.values()))))
            edges = np.arange(len(top) + 1) + 0.5  # a layer is one unit wide, about its number
            for name, values in parts.items():
                base, top = top, top + values[:, number]
                look = {"color": _COLOURS.get(name, MUTED), "linewidth": 0}
                axes.stairs(top, edges, baseline=base, fill=True, **look)
            axes.set_xlim(edges[0], edges[-1])
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    for axes, kind in zip(grid[:, 0], _KINDS, strict=True):
        axes.set_ylabel(f"ratios of the {kind}")
    note = "layers counted from the input to the output; columns: (gpus, clips per GPU)"
    _finish(figure, ratios, note)
    texts = [
        f"{cell}, first and last of {len(next(iter(parts.values())))} layers: "
        f"{_text(parts, 0)}; {_text(parts, -1)}"
        for cell, parts in ratios.items()
    ]
    return figure, f"Areas of SN's importance ratios by layer. {'. '.join(texts)}."


def importance_by_geometry(runs: list[StudyRun]) -> tuple[Figure, str] | None:
    """Ratios averaged over the layers: a bar a geometry; mean on the left, variance right."""
    ratios = {
        cell: {name: values.mean(axis=0, keepdims=True) for name, values in parts.items()}
        for cell, parts in _ratios(runs).items()
    }
    if not ratios:
        return None
    figure = new_figure(4.2, "SN's importance ratios, averaged over its layers")
    for kind, axes in enumerate(figure.subplots(1, 2, sharey=True)):
        for place, parts in enumerate(ratios.values()):
            base = 0.0
            for name, values in parts.items():
                share = values[0, kind]
                axes.bar(place, share, 0.7, base, color=_COLOURS.get(name, MUTED))
                if share >= 0.05:
                    text, shade = f"{100 * share:.0f} %", "white" if name == "batch" else "black"
                    axes.text(place, base + share / 2, text, ha="center", va="center", color=shade)
                base += share
        axes.set(title=f"ratios of the {_KINDS[kind]}", xlim=(-0.6, len(ratios) - 0.4))
        axes.set_xticks(range(len(ratios)), list(ratios))
        axes.set_xlabel("batch geometry (gpus, clips per GPU)")
        axes.grid(False)
    complete = all("batch" in parts for parts in ratios.values())
    _finish(figure, ratios, "" if complete else "one clip per GPU: SN has no batch part")
    texts = [f"{cell}: {_text(parts, 0)}" for cell, parts in ratios.items()]
    return figure, f"Stacked bars of SN's mean importance ratios. {'. '.join(texts)}."


def _ratios(runs: list[StudyRun]) -> dict[str, Ratios]:
    """Ratios of the SN runs averaged over seeds, by geometry, and by name if there are several."""
    mixing = [run for run, results in finished(runs) if results.importance]
    several = len(norms_of(mixing)) > 1
    found = {}
    for geometry, norm, group in by_cell(mixing):
        layers = [results.importance or [] for _, results in finished(group)]
        arrays = [np.array([(one.mean, one.variance) for one in layer]) for layer in layers]
        # Networks of another depth would be another study: the first one counts.
        mean = np.mean([array for array in arrays if array.shape == arrays[0].shape], axis=0)
        name = f"{display_name(norm)} {geometry}" if several else str(geometry)
        # Files of older versions do not name the parts: those of the paper, but for the last.
        found[name] = dict(zip(layers[0][0].parts, np.moveaxis(mean, 2, 0), strict=False))
    return found


def _finish(figure: Figure, ratios: dict[str, Ratios], note: str) -> None:
    """Axes in percent, the legend and a note below."""
    figure.axes[0].set_ylim(0, 1)
    figure.axes[0].yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    names = dict.fromkeys(name for parts in ratios.values() for name in parts)
    patches = [Patch(color=_COLOURS.get(name, MUTED), label=name) for name in names]
    figure.legend(handles=patches, loc="outside lower left", ncols=4)
    if note:
        figure.text(0.99, 0.015, note, ha="right", color=MUTED, fontsize=9)


def _text(parts: Ratios, layer: int) -> str:
    """Ratios of a layer in words."""
    return ", ".join(
        f"{kind} " + " ".join(f"{name} {100 * v[layer, k]:.0f} %" for name, v in parts.items())
        for k, kind in enumerate(_KINDS)
    )
