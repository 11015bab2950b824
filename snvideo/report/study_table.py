"""The study as files of numbers: comparison.csv, a row for every run, and comparison.md."""

import csv
import io
from collections.abc import Callable

from snvideo.engine.results import Results
from snvideo.study.comparability import averages_statistics, statistics_text, warnings
from snvideo.study.runs import Run, finished, read_runs
from snvideo.study.summary import ACCURACIES, Table, tables

__all__ = ["COLUMNS", "Row", "comparison_csv", "comparison_md", "facts", "read_runs", "rows"]

Row = dict[str, str | int | float | None]
"""A line of comparison.csv; accuracies are fractions, None where a run has no result."""

COLUMNS = (
    "norm", "gpus", "clips_per_gpu", "total_batch", "seed",
    "clip_top1", "clip_top5", "video_top1", "video_top5", "train_seconds",
    "replaced_samples", "failed_videos", "statistics", "index_hash", "status", "run",
)  # fmt: skip


def rows(runs: list[Run]) -> list[Row]:
    """One row for every run."""
    return [_row(run) for run in runs]


def _row(run: Run) -> Row:
    row: Row = dict.fromkeys(COLUMNS)
    row |= {
        "norm": run.norm,
        "gpus": run.gpus,
        "clips_per_gpu": run.clips_per_gpu,
        "total_batch": run.gpus * run.clips_per_gpu,
        "seed": run.seed,
        "status": run.status,
        "run": run.name,
    }
    if run.results is not None:
        same = (*ACCURACIES, "train_seconds", "replaced_samples", "failed_videos", "index_hash")
        row |= {name: getattr(run.results, name) for name in same}
        row["statistics"] = statistics_text(run.results) if averages_statistics(run) else "none"
    return row


def comparison_csv(runs: list[Run]) -> str:
    """The rows as CSV, with a header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows(runs))
    return text.getvalue()


def facts(runs: list[Run]) -> dict[str, str]:
    """What holds for the whole study; where runs differ, every value is named."""
    done = finished(runs)

    def distinct(value: Callable[[Results], object]) -> str:
        values = dict.fromkeys(str(value(results)) for _, results in done)
        return " / ".join(values) + (" (runs differ)" if len(values) > 1 else "")

    totals = sorted({run.gpus * run.clips_per_gpu for run in runs})
    found = {"runs": f"{len(done)} finished of {len(runs)}"}
    if done:
        found |= {
            "model": distinct(lambda r: r.model),
            "epochs": distinct(lambda r: r.epochs),
            "classes": distinct(lambda r: f"{len(r.classes)}, chance {100 * chance(r):.3g} %"),
            "test videos": distinct(lambda r: r.videos),
            "views": distinct(lambda r: f"{r.views.clips} x {r.views.crops} (clips x crops)"),
            "statistics for evaluation": _statistics(done),
        }
    if len(totals) == 1:
        found["total batch"] = f"{totals[0]} clips in every geometry: only the statistics differ"
    else:
        sizes = ", ".join(map(str, totals))
        found["total batch"] = f"{sizes} clips: at equal epochs the number of steps differs too"
    return found


def chance(results: Results) -> float:
    """Top-1 accuracy of guessing, as a fraction."""
    return 1 / len(results.classes)


def _statistics(done: list[tuple[Run, Results]]) -> str:
    users = [statistics_text(results) for run, results in done if averages_statistics(run)]
    return " / ".join(dict.fromkeys(users)) if users else "none: no norm here keeps any"


def comparison_md(runs: list[Run], title: str) -> str:
    """The study as Markdown: conditions, warnings, tables."""
    parts = [f"# {title}\n", *(f"- {name}: {value}" for name, value in facts(runs).items()), ""]
    found = warnings(runs)
    if found:
        parts += ["## Warnings\n", *(f"- {_escape(line)}" for line in found), ""]
    for table in tables(runs):
        parts += [f"## {table.title}\n", f"{table.note}\n", _markdown(table), ""]
    return "\n".join(parts)


def _markdown(table: Table) -> str:
    lines = [table.header, ("---",) * len(table.header), *table.rows]
    return "\n".join(f"| {' | '.join(map(_escape, line))} |" for line in lines)


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")
