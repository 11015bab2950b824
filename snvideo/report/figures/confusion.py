"""Figure of the confusion matrix."""

import numpy as np

from snvideo.report.style import Drawing, new_figure
from snvideo.study.runs import StudyRun, display_name, finished

_NAMED, _NUMBERED = 40, 12
"""More classes than this get no names on the axes; and no numbers in the cells."""


def confusion(runs: list[StudyRun]) -> Drawing | None:
    """Confusion matrix of the best SN run, or of the best run if there is no SN."""
    done = finished(runs)
    if not done:
        return None
    run, results = max(done, key=lambda pair: (pair[0].norm_config.name == "sn", pair[1].accuracy))
    counts = results.confusion_matrix().astype(float)
    if counts.ndim != 2 or counts.size == 0:
        return None
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    names = results.classes
    right = f"{100 * results.accuracy:.1f} % right"
    title = (
        f"Confusion matrix of {display_name(run.norm)} at {run.geometry}, seed {run.seed}: {right}"
    )
    figure = new_figure(7.2, title)
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
    axes.set(xlabel="predicted class", ylabel="true class")
    figure.colorbar(image, ax=axes, shrink=0.8, label="share of the true class's videos (%)")
    wrong = shares - np.diag(np.diag(shares))
    pairs = [np.unravel_index(k, wrong.shape) for k in np.argsort(-wrong, axis=None)[:3]]
    mistakes = [f"{names[i]} as {names[j]} {wrong[i, j]:.0f} %" for i, j in pairs if wrong[i, j]]
    text = f" Most frequent mistakes: {', '.join(mistakes)}." if mistakes else ""
    return Drawing(figure, f"{title}, over {len(names)} classes.{text}")
