"""Summary of a study: rows of runs, and tables of accuracies, differences and classes."""

import csv
import io
import math
from typing import NamedTuple

import numpy as np

from snvideo.engine.results import Results
from snvideo.study.comparability import averages_statistics, statistics_text
from snvideo.study.differences import measure_of, paired_differences
from snvideo.study.intervals import confidence_interval
from snvideo.study.runs import (
    StudyRun,
    by_cell,
    display_name,
    finished,
    geometries_of,
    norms_of,
)

ACCURACIES = ("video_top1", "video_top5", "clip_top1", "clip_top5")
_CLASSES = 5  # of a geometry that are shown

Row = dict[str, str | int | float | None]
"""A line of comparison.csv; accuracies are fractions, None where a run has no result."""

COLUMNS = (
    "norm", "gpus", "clips_per_gpu", "total_batch", "lr", "seed",
    "clip_top1", "clip_top5", "video_top1", "video_top5", "mean_average_precision", "train_seconds",
    "replaced_samples", "failed_videos", "statistics", "index_hash", "status", "run",
)  # fmt: skip


def comparison_rows(runs: list[StudyRun]) -> list[Row]:
    """One row for every run at every batch geometry; `run` names the run that was computed."""
    rows = []
    for run in runs:
        row: Row = dict.fromkeys(COLUMNS)
        row |= {
            name: getattr(run, name) for name in ("norm", "gpus", "clips_per_gpu", "lr", "seed")
        }
        row |= {"total_batch": run.gpus * run.clips_per_gpu, "status": run.status, "run": run.name}
        if run.results is not None:
            same = (
                *ACCURACIES,
                "mean_average_precision",
                "train_seconds",
                "replaced_samples",
                "failed_videos",
                "index_hash",
            )
            row |= {name: getattr(run.results, name) for name in same}
            row["statistics"] = statistics_text(run.results) if averages_statistics(run) else "none"
        rows.append(row)
    return rows


def comparison_csv(runs: list[StudyRun]) -> str:
    """The rows as CSV, with a header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(comparison_rows(runs))
    return text.getvalue()


def chance(results: Results) -> float:
    """Accuracy of guessing, as a fraction: top-1, where any of a video's labels is right, and about
    the mAP of videos of several labels."""
    if results.mean_average_precision is None or not results.labelled_videos:
        return 1 / len(results.classes)
    labels = sum(results.per_class_videos) / results.labelled_videos
    return labels / len(results.classes)


def splits_note(runs: list[StudyRun]) -> str:
    """A sentence on the norms whose runs stand for every split of a total batch; none, no text."""
    names = norms_of(run for run in runs if run.computed_at is not None)
    if not names:
        return ""
    named = ", ".join(map(display_name, names))
    same = "the same computation at every split of a total batch, run once and shown at each"
    return f"{named}: {same}."


class SummaryTable(NamedTuple):
    """A table of texts, to be written as Markdown or HTML."""

    title: str
    note: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]


def summary_tables(runs: list[StudyRun], reference: str | None = None) -> list[SummaryTable]:
    """The tables of a study that have rows: accuracies, differences of norms, and classes."""
    tables = (accuracy_table(runs), difference_table(runs, reference), class_table(runs))
    return [table for table in tables if table.rows]


def accuracy_table(runs: list[StudyRun]) -> SummaryTable:
    """Accuracies per geometry and norm: mean over seeds with its interval."""
    lines = []
    several = any(results.mean_average_precision is not None for _, results in finished(runs))
    accuracies = ("mean_average_precision",) * several + ACCURACIES
    for geometry, norm, group in by_cell(runs):
        done = [results for _, results in finished(group)]
        columns = [
            [value for results in done if (value := getattr(results, name)) is not None]
            for name in accuracies
        ]
        values = [confidence_interval(column).percent() if column else "-" for column in columns]
        seeds = f"n = {len(done)}" + (f" of {len(group)}" if len(done) < len(group) else "")
        total_batch = str(geometry[0] * geometry[1])
        lines.append((str(geometry), total_batch, display_name(norm), *values, seeds))
    names = (name.replace("_top", " top-") for name in accuracies)
    names = (name.replace("mean_average_precision", "mAP") for name in names)
    note = (
        "In percent: mean over seeds ± 95 % confidence interval (Student t). "
        "With n = 1, one seed, no interval can be given."
    )
    return SummaryTable(
        "Accuracy",
        " ".join(filter(None, (note, splits_note(runs)))),
        ("(gpus, clips)", "total batch", "norm", *names, "seeds"),
        lines,
    )


def difference_table(runs: list[StudyRun], reference: str | None = None) -> SummaryTable:
    """Paired differences per geometry, see `paired_differences`, with their reading."""
    found, measure = paired_differences(runs, reference), measure_of(runs)
    rows: list[tuple[str, ...]] = []
    for one in found:
        pair, interval = f"{display_name(one.reference)} - {display_name(one.norm)}", one.interval
        percent, seeds = interval.percent(signed=True), f"n = {interval.n}"
        p = "-" if one.p is None else f"{one.p:.2g}"
        rows.append((str(one.geometry), pair, percent, seeds, p, one.reading))
    return SummaryTable(
        f"{display_name(found[0].reference) if found else 'SN'} against the others",
        f"Difference in {measure} in percentage points, paired by seed: mean ± 95 % confidence "
        "interval (Student t). p is that of the paired t test, by Holm's correction (1979) for all "
        "rows that are no repetition; no difference is called one where it is not below 0.05.",
        ("(gpus, clips)", "difference", measure, "seeds", "p (Holm)", "reading"),
        rows,
    )


def class_table(runs: list[StudyRun]) -> SummaryTable:
    """Recall and precision of the classes on whose recall norms differ most, per geometry."""
    done = [(run, results) for run, results in finished(runs) if results.per_class_videos]
    norms = norms_of(run for run, _ in done)
    rows: list[tuple[str, ...]] = []
    for geometry in geometries_of(run for run, _ in done):
        cells = [
            [results for run, results in done if (run.geometry, run.norm) == (geometry, norm)]
            for norm in norms
        ]
        here = [results for cell in cells for results in cell]
        if sum(map(bool, cells)) < 2:
            continue  # no norms that could differ
        if any(results.classes != here[0].classes for results in here):
            continue  # not comparable, as the report says
        classes = len(here[0].classes)
        recalls = np.stack([_over_seeds(cell, "per_class_accuracy", classes) for cell in cells])
        precisions = np.stack([_over_seeds(cell, "per_class_precision", classes) for cell in cells])
        tested = np.flatnonzero(here[0].per_class_videos)
        spread = np.nanmax(recalls[:, tested], 0) - np.nanmin(recalls[:, tested], 0)
        for label in tested[np.argsort(-spread, kind="stable")[:_CLASSES]]:
            figures = (
                f"{_percent(recall)} / {_percent(precision)}"
                for recall, precision in zip(recalls[:, label], precisions[:, label], strict=True)
            )
            videos = str(here[0].per_class_videos[label])
            rows.append((str(geometry), here[0].classes[label], videos, *figures))
    return SummaryTable(
        "Classes",
        f"Recall / precision in percent, mean over seeds: the {_CLASSES} classes of a geometry on "
        "whose recall the norms differ most. A class that is never predicted has no precision.",
        ("(gpus, clips)", "class", "videos", *(display_name(norm) for norm in norms)),
        rows,
    )


def _over_seeds(cell: list[Results], name: str, classes: int) -> np.ndarray:
    """Mean of a figure of each class over runs, float64 (classes,); NaN where none has it."""
    # Empty in results of versions that did not have it yet.
    stored = [found for results in cell if (found := getattr(results, name))]
    values = np.array(stored, float).reshape(-1, classes)
    known = np.isfinite(values)
    sums, counts = np.where(known, values, 0).sum(0), known.sum(0)
    return np.divide(sums, counts, out=np.full(classes, np.nan), where=counts > 0)


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.1f}"
