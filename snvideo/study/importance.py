"""Importance ratios of a study's SN runs, by layer, and importance.csv."""

import csv
import io
from collections.abc import Iterator

from snvideo.engine.results import Results
from snvideo.study.runs import StudyRun, finished

STATISTICS = ("mean", "variance")
IMPORTANCE_FILE = "importance.csv"

_COLUMNS = (
    "norm", "gpus", "clips_per_gpu", "seed", "layer", "depth", "statistic", "part", "ratio", "run",
)  # fmt: skip


def layer_ratios(results: Results) -> list[dict[str, tuple[float, float]]]:
    """Part -> its ratios (mean, variance), of each SN layer from the input to the output."""
    return [
        # Files of older versions do not name the parts: those of the paper, but for the last.
        dict(zip(layer.parts, zip(layer.mean, layer.variance, strict=True), strict=False))
        for layer in results.importance or []
    ]


def importance_csv(runs: list[StudyRun]) -> str | None:
    """One row for every ratio of a run at every batch geometry, with a header; None without SN.

    A part that a layer does not mix has no row. `run` names the run that was computed.
    """
    rows = list(_rows(runs))
    if not rows:
        return None
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([_COLUMNS, *rows])
    return text.getvalue()


def _rows(runs: list[StudyRun]) -> Iterator[tuple[str | int | float, ...]]:
    for run, results in finished(runs):
        for layer, parts in zip(results.importance or [], layer_ratios(results), strict=True):
            for number, statistic in enumerate(STATISTICS):
                for part, ratios in parts.items():
                    place = (run.norm, run.gpus, run.clips_per_gpu, run.seed)
                    what = (layer.layer, layer.depth, statistic, part)
                    yield (*place, *what, ratios[number], run.name)
