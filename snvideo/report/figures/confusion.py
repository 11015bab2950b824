"""Which classes are taken for which."""

import numpy as np
from matplotlib.figure import Figure

from snvideo.report.figures.style import new_figure
from snvideo.study.runs import Run, finished

_NAMED = 40
"""More classes than this get no names on the axes."""
_NUMBERED = 12
"""More classes than this get no numbers in the cells."""


def confusion(runs: list[Run]) -> Figure | None:
    """Confusion matrix of the best SN run, or of the best run if there is no SN."""
    done = finished(runs)
    if not done:
        return None
    run, results = max(done, key=lambda pair: (pair[0].norm == "sn", pair[1].video_top1))
    counts = np.array(results.confusion, dtype=float)
    if counts.ndim != 2 or counts.size == 0:
        return None
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    names = results.classes
    figure = new_figure(
        7.2,
        f"What {run.norm.upper()} at {run.geometry}, seed {run.seed}, takes for what: "
        f"{100 * results.video_top1:.1f} % right",
    )
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=100, interpolation="nearest")
    axes.grid(False)
    if len(names) <= _NAMED:
        axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(names)), names)
    if len(names) <= _NUMBERED:
        for (row, column), share in np.ndenumerate(shares):
            if share > 0:
                shade = "white" if share > 55 else "black"
                axes.text(column, row, f"{share:.0f}", ha="center", va="center", color=shade)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    bar = figure.colorbar(image, ax=axes, shrink=0.8)
    bar.set_label("share of the true class's videos (%)")
    return figure
