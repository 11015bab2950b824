"""Figure of training: loss and validation accuracy against epochs."""

import math
from collections import defaultdict
from typing import Any

import numpy as np
from matplotlib.lines import Line2D

from snvideo.report.style import LINE_STYLES, Drawing, looks_of, new_figure
from snvideo.study.differences import measure_of
from snvideo.study.runs import (
    StudyRun,
    by_cell,
    computed,
    display_name,
    geometries_of,
    norms_of,
    read_metrics,
)

_POINTS = 80
"""Points along a curve at most: more would be noise that hides the other curves."""


def curves(runs: list[StudyRun]) -> Drawing | None:
    """Training loss and validation accuracy: a colour a norm, a line style a geometry."""
    runs = computed(runs)
    metrics = {run.folder: read_metrics(run.folder) for run in runs}
    measured = [run for run in runs if any(metrics[run.folder].values())]
    if not measured:
        return None
    several = any(len(group) > 1 for _, _, group in by_cell(measured))
    figure = new_figure(4.8, "Training" + (", means over seeds" if several else ""))
    loss, validation = figure.subplots(1, 2)
    key, accuracy = ("map", "mAP") if measure_of(runs) == "mAP" else ("top1", "top-1")
    entropy = {run.config.get("optim.loss") for run in measured} == {"cross_entropy"}
    styles = {g: LINE_STYLES[i % len(LINE_STYLES)] for i, g in enumerate(geometries_of(measured))}
    looks, texts = looks_of(norms_of(measured)), []
    for geometry, norm, group in by_cell(measured):
        lines: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for run in [run for run in group if run.results is not None] or group:
            for kind, found in metrics[run.folder].items():
                lines[kind] += found
        look = {"color": looks[norm].color, "linestyle": styles[geometry], "linewidth": 1.6}
        epochs, losses = _binned(lines["train"], "loss", 1)
        loss.plot(epochs, losses, **look)
        text = f", last loss {losses[-1]:.3g}" if losses else ""
        epochs, percents = _binned(lines["validate"], key, 100)
        validation.plot(epochs, percents, marker="o" if len(epochs) < 2 else "", **look)
        text += f", last validation {accuracy} {percents[-1]:.1f} %" if percents else ""
        texts.append(f"{display_name(norm)} at {geometry}{text}")
    for axes, title, label in (
        (loss, "Training loss", "cross-entropy (nats)" if entropy else "loss"),
        (validation, f"Validation {accuracy} (centre clip, centre crop)", f"{accuracy} (%)"),
    ):
        axes.set(title=title, xlabel="epochs", ylabel=label)
        axes.set(xlim=(0, None), ylim=(0, None))
    validation.set_ylim(0, 103)
    handles = [
        Line2D([], [], color=look.color, linewidth=3, label=display_name(norm))
        for norm, look in looks.items()
    ] + [
        Line2D([], [], color="black", linestyle=style, linewidth=1.6, label=str(geometry))
        for geometry, style in styles.items()
    ]
    title = "norms; (gpus, clips per GPU)"
    figure.legend(handles=handles, loc="outside lower left", ncols=6, handlelength=3, title=title)
    return Drawing(figure, f"Curves of training loss and validation accuracy. {'; '.join(texts)}.")


def _binned(
    lines: list[dict[str, Any]], name: str, scale: float
) -> tuple[list[float], list[float]]:
    """Epochs and values times `scale`: means over stretches of epochs and all seeds."""
    lines = [line for line in lines if isinstance(line.get(name), (int, float))]
    width = max((line["epoch"] for line in lines), default=0) / _POINTS
    bins: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for line in lines:
        number = math.ceil(line["epoch"] / width) if width else 0
        bins[number].append((line["epoch"], scale * line[name]))
    means = [np.mean(bins[number], axis=0).tolist() for number in sorted(bins)]
    return [epoch for epoch, _ in means], [value for _, value in means]
