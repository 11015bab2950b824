"""The report of a study: comparison.csv, comparison.md, figures and report.html."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from snvideo.atomic import write_atomic
from snvideo.engine.results import Results
from snvideo.errors import SnvideoError
from snvideo.extras import MissingExtraError, require
from snvideo.report import html
from snvideo.report.answer import answer, limits
from snvideo.study.comparability import (
    averages_statistics,
    comparison_warnings,
    config_differences,
    config_text,
    statistics_text,
)
from snvideo.study.runs import StudyRun, finished, read_runs
from snvideo.study.summary import chance, comparison_csv, summary_tables

if TYPE_CHECKING:
    from snvideo.report.figures import SavedFigure

log = logging.getLogger(__name__)

_LIMITS = "Not shown, or to be read with care"


def write_report(folder: Path) -> Path:
    """Write comparison.csv, comparison.md, figures/*.png and report.html into a study's folder.

    Returns:
        the path of report.html, which holds its figures and needs no other file.

    Raises:
        SnvideoError: if the folder holds no runs, or a run that cannot be read.
    """
    folder = Path(folder)
    runs = read_runs(folder)
    if not runs:
        raise SnvideoError(
            f"no runs in {folder}: name the folder that 'snvideo compare' wrote to (its 'output')"
        )
    title = f"{folder.resolve().name}: norms compared"
    write_atomic(folder / "comparison.csv", comparison_csv(runs))
    write_atomic(folder / "comparison.md", comparison_md(runs, title))
    figures: list[SavedFigure] = []
    try:
        require("report", "figures")
    except MissingExtraError as error:
        log.warning("%s", error)
    else:
        from snvideo.report.figures import save_figures

        figures = save_figures(runs, folder / "figures")
    path = folder / "report.html"
    made = f"Made by snvideo, {datetime.now().astimezone():%Y-%m-%d %H:%M %Z}."
    write_atomic(path, html.page(title, _parts(runs, figures), made))
    return path


def _parts(runs: list[StudyRun], figures: list[SavedFigure]) -> Iterator[str]:
    """The report from top to bottom: answer, accuracy, tables, conditions, figures, runs."""
    yield from (html.paragraph(sentence, "answer") for sentence in answer(runs))
    yield html.warning_box(_LIMITS, limits(runs))
    accuracy = [figure for figure in figures if figure.path.name == "accuracy.png"]
    yield from (html.image(*figure) for figure in accuracy)
    for table in summary_tables(runs):
        yield html.heading(table.title)
        yield html.paragraph(table.note)
        yield html.html_table(table.header, table.rows)
    yield html.heading("Conditions")
    yield html.definitions(conditions(runs))
    yield html.warning_box("All warnings", comparison_warnings(runs))
    if len(figures) > len(accuracy):
        yield html.heading("Figures")
        yield from (html.image(*figure) for figure in figures if figure not in accuracy)
    yield html.heading("Runs")
    yield html.paragraph("With every config key in which they differ.")
    keys = list(config_differences(runs))
    lines = (
        (
            run.name,
            run.status,
            f"{100 * run.results.video_top1:.1f} %" if run.results else "-",
            f"{run.results.train_seconds:.0f} s" if run.results else "-",
            *(config_text(run.config, key) for key in keys),
        )
        for run in runs
    )
    yield html.html_table(("run", "status", "video top-1", "training", *keys), lines)
    yield html.heading("Environment")
    yield html.definitions(_environment(runs))


def comparison_md(runs: list[StudyRun], title: str) -> str:
    """The study as Markdown: answer, tables, conditions and warnings."""
    parts = [f"# {title}\n", *(f"{sentence}\n" for sentence in answer(runs))]
    for table in summary_tables(runs):
        cells = [table.header, ("---",) * len(table.header), *table.rows]
        rows = [f"| {' | '.join(map(_escape, line))} |" for line in cells]
        parts += [f"## {table.title}\n", f"{table.note}\n", *rows, ""]
    facts = [f"{name}: {value}" for name, value in conditions(runs).items()]
    sections = {_LIMITS: limits(runs), "Conditions": facts, "Warnings": comparison_warnings(runs)}
    for name, lines in sections.items():
        if lines:
            parts += [f"## {name}\n", *(f"- {_escape(line)}" for line in lines), ""]
    return "\n".join(parts)


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def conditions(runs: list[StudyRun]) -> dict[str, str]:
    """Conditions of the whole study; where runs differ, every value is named."""
    done = finished(runs)

    def distinct(value: Callable[[Results], object]) -> str:
        values = dict.fromkeys(str(value(results)) for _, results in done)
        return " / ".join(values) + (" (runs differ)" if len(values) > 1 else "")

    found = {"runs": f"{len(done)} finished of {len(runs)}"}
    if done:
        statistics = dict.fromkeys(
            statistics_text(results) for run, results in done if averages_statistics(run)
        )
        found |= {
            "model": distinct(lambda r: r.model),
            "epochs": distinct(lambda r: r.epochs),
            "classes": distinct(lambda r: f"{len(r.classes)}, chance {100 * chance(r):.3g} %"),
            "test videos": distinct(lambda r: r.videos),
            "views": distinct(lambda r: f"{r.views.clips} x {r.views.crops} (clips x crops)"),
            "statistics for evaluation": " / ".join(statistics) or "none: no norm here keeps any",
        }
    totals = sorted({run.gpus * run.clips_per_gpu for run in runs})
    same = " in every geometry: only the statistics differ"
    other = ": at equal epochs the number of steps differs too"
    batch = f"{', '.join(map(str, totals))} clips"
    return found | {"total batch": batch + (same if len(totals) == 1 else other)}


def _environment(runs: list[StudyRun]) -> dict[str, str]:
    """The environment of the runs, with all values that occur."""
    found: dict[str, dict[str, None]] = {}
    for run in runs:
        for key, value in run.environment.items():
            found.setdefault(key, {})[str(value)] = None
    return {key: " / ".join(values) for key, values in found.items()}
