"""How the runs went: training loss and validation accuracy against epochs."""

import math
from collections import defaultdict

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from snvideo.report.figures.style import LINES, colour, new_figure
from snvideo.study.runs import Run, by_cell, geometries_of, norms_of, read_metrics

_POINTS = 80
"""Points along a curve at most: more would be noise that hides the other curves."""

Curve = tuple[list[float], list[float]]
"""Epochs and values."""


def curves(runs: list[Run]) -> Figure | None:
    """Training loss and validation top-1: a colour a norm, a line style a geometry."""
    metrics = {run.folder: read_metrics(run.folder) for run in runs}
    measured = [run for run in runs if metrics[run.folder].train or metrics[run.folder].validate]
    if not measured:
        return None
    several = any(len(group) > 1 for _, _, group in by_cell(measured))
    figure = new_figure(4.8, "How training went" + (", means over seeds" if several else ""))
    loss, top1 = figure.subplots(1, 2)
    styles = {g: LINES[i % len(LINES)] for i, g in enumerate(geometries_of(measured))}
    for geometry, norm, group in by_cell(measured):
        shown = [run for run in group if run.results is not None] or group
        train = [line for run in shown for line in metrics[run.folder].train]
        validate = [line for run in shown for line in metrics[run.folder].validate]
        look = {"color": colour(norm), "linestyle": styles[geometry], "linewidth": 1.6}
        loss.plot(*_binned(train, "loss"), **look)
        epochs, values = _binned(validate, "top1")
        few = len(epochs) < 2
        top1.plot(epochs, [100 * v for v in values], marker="o" if few else "", **look)
    _finish(loss, "training loss (cross-entropy, nats)", "Training loss")
    _finish(top1, "top-1 (%)", "Validation top-1 (centre clip, centre crop)")
    top1.set_ylim(0, 103)
    _legends(figure, norms_of(measured), styles)
    return figure


def _binned(lines: list[dict[str, float]], name: str) -> Curve:
    """Means of a value over stretches of epochs, over all seeds together."""
    lines = [line for line in lines if isinstance(line.get(name), (int, float))]
    if not lines:
        return [], []
    width = max(line["epoch"] for line in lines) / _POINTS
    bins: dict[int, list[dict[str, float]]] = defaultdict(list)
    for line in lines:
        bins[math.ceil(line["epoch"] / width) if width else 0].append(line)
    groups = [bins[number] for number in sorted(bins)]
    return (
        [float(np.mean([line["epoch"] for line in group])) for group in groups],
        [float(np.mean([line[name] for line in group])) for group in groups],
    )


def _finish(axes: Axes, ylabel: str, title: str) -> None:
    axes.set_xlabel("epochs")
    axes.set_ylabel(ylabel)
    axes.set_title(title)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)


def _legends(figure: Figure, norms: list[str], styles: dict[tuple[int, int], object]) -> None:
    handles = [Line2D([], [], color=colour(n), linewidth=3, label=n.upper()) for n in norms]
    figure.legend(handles=handles, loc="outside lower left", ncols=4)
    handles = [
        Line2D([], [], color="black", linestyle=style, linewidth=1.6, label=str(geometry))
        for geometry, style in styles.items()
    ]
    figure.legend(
        handles=handles,
        loc="outside lower right",
        ncols=4,
        handlelength=3.2,
        title="(gpus, clips per GPU)",
        alignment="left",
    )
