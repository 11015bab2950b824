"""The report of a study: comparison.csv, importance.csv, comparison.md, figures, report.html."""

from __future__ import annotations

import base64
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from markdown_it import MarkdownIt

from snvideo.atomic import write_atomic
from snvideo.engine.results import Results
from snvideo.errors import SnvideoError
from snvideo.extras import MissingExtraError, require
from snvideo.report.answer import answer, limits
from snvideo.study.comparability import (
    averages_statistics,
    config_differences,
    config_text,
    statistics_text,
)
from snvideo.study.config import StudyConfig
from snvideo.study.differences import measure_of, measured
from snvideo.study.importance import IMPORTANCE_FILE, importance_csv
from snvideo.study.rates import at_own_rate, rate_tables, rate_warnings
from snvideo.study.runs import (
    StudyRun,
    computed,
    finished,
    mixes_clips,
    read_runs,
    read_study,
    single_frame_accuracy,
)
from snvideo.study.summary import chance, comparison_csv, summary_tables

if TYPE_CHECKING:
    from snvideo.report.figures import SavedFigure

log = logging.getLogger(__name__)

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ margin: 0 auto; padding: 1rem; max-width: 60rem; background: #fff; color: #1a1a1a;
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }}
h2 {{ margin: 2.2rem 0 .5rem; break-after: avoid; }}
h1 + p {{ font-size: 1.1rem; }}
table {{ display: block; overflow-x: auto; border-collapse: collapse; font-size: .9rem;
  font-variant-numeric: tabular-nums; }}
th, td {{ text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #ddd;
  white-space: nowrap; }}
img {{ display: block; width: 100%; }}
@media print {{ th, td {{ white-space: normal; }} img, tr {{ break-inside: avoid; }} }}
</style>
</head>
<body>
{body}
</body>
</html>
"""


def write_report(folder: Path) -> Path:
    """Write comparison.csv, comparison.md, figures/*.png and report.html into a study's folder, and
    importance.csv if a run has importance ratios.

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
    every, study = runs, read_study(folder)
    runs = at_own_rate(every, study)
    title = f"{folder.resolve().name}: norms compared"
    figures: list[SavedFigure] = []
    try:
        require("report", "figures")
    except MissingExtraError as error:
        log.warning("%s", error)
    else:
        from snvideo.report.figures import save_figures

        figures = save_figures(runs, folder / "figures", _single_frame(study, runs))
    write_atomic(folder / "comparison.csv", comparison_csv(every))
    if (ratios := importance_csv(runs)) is not None:
        write_atomic(folder / IMPORTANCE_FILE, ratios)
    else:
        (folder / IMPORTANCE_FILE).unlink(missing_ok=True)
    text = comparison_md(every, title, figures, study)
    write_atomic(folder / "comparison.md", text)
    made = f"{datetime.now().astimezone():%Y-%m-%d %H:%M %Z}"
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    for figure in figures:
        # Another call may be writing its file anew.
        data = base64.b64encode(figure.content).decode("ascii")
        body = body.replace(f"figures/{figure.path.name}", f"data:image/png;base64,{data}")
    body += f"<p>Made by snvideo, {made}.</p>"
    write_atomic(folder / "report.html", _PAGE.format(title=escape(title), body=body))
    return folder / "report.html"


def _single_frame(study: StudyConfig | None, runs: list[StudyRun]) -> float | None:
    """The level of single frames; None without one, with a warning if it cannot be had."""
    if study is None or study.single_frame is None:
        return None
    try:
        return single_frame_accuracy(study.single_frame, runs)
    except SnvideoError as error:  # which is no reason to end a study
        log.warning("%s; the figure is drawn without it", error)
        return None


def comparison_md(
    runs: list[StudyRun],
    title: str,
    figures: Sequence[SavedFigure] = (),
    study: StudyConfig | None = None,
) -> str:
    """The study as Markdown: answer, tables, conditions, warnings, figures, runs, environment."""
    return "\n".join(_lines(runs, title, figures, study))


def _lines(
    every: list[StudyRun], title: str, figures: Sequence[SavedFigure], study: StudyConfig | None
) -> Iterator[str]:
    runs, reference = at_own_rate(every, study), None if study is None else study.reference
    yield f"# {_escape(title)}\n"
    yield from (f"{_escape(sentence)}\n" for sentence in answer(runs, reference))
    yield from _list("Not shown, or to be read with care", limits(runs, reference))
    pictures = {
        one.path.name: f"![{_escape(one.alt)}](figures/{one.path.name})\n\n{one.caption}\n"
        for one in figures
    }
    yield pictures.pop("accuracy.png", "")
    for table in [*summary_tables(runs, reference), *rate_tables(every, study)]:
        yield f"## {_escape(table.title)}\n\n{table.note}\n"
        yield from _table(table.header, table.rows)
    yield from _list("Conditions", [f"{key}: {value}" for key, value in conditions(runs).items()])
    yield from _list("Warnings", rate_warnings(every, study))
    if pictures:
        yield "## Figures\n"
        yield from pictures.values()
    yield "## Runs\n\nWith every config key in which they differ.\n"
    keys, measure = list(config_differences(every)), measure_of(every)
    lines = [
        (
            run.name,
            run.status,
            f"{100 * measured(run.results, measure):.1f} %" if run.results else "-",
            f"{run.results.train_seconds:.0f} s" if run.results else "-",
            *(config_text(run.config, key) for key in keys),
        )
        for run in computed(every)
    ]
    yield from _table(("run", "status", measure, "training", *keys), lines)
    found: dict[str, dict[str, None]] = {}
    for run in every:
        for key, value in run.environment.items():
            found.setdefault(key, {})[str(value)] = None
    yield from _list("Environment", [f"{key}: {' / '.join(found[key])}" for key in found])


def _list(title: str, lines: Sequence[str]) -> list[str]:
    return [f"## {title}\n", *(f"- {_escape(line)}" for line in lines), ""] if lines else []


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [header, ("---",) * len(header), *rows]
    return [*(f"| {' | '.join(map(_escape, line))} |" for line in lines), ""]


def _escape(text: str) -> str:
    """Text without the marks of Markdown."""
    return re.sub(r"([\\`*\[\]|])", r"\\\1", " ".join(text.split())).replace("<", "&lt;")


def conditions(runs: list[StudyRun]) -> dict[str, str]:
    """Conditions of the whole study; where runs differ, every value is named."""
    done = finished(runs)

    def distinct(value: Callable[[Results], object]) -> str:
        values = dict.fromkeys(str(value(results)) for _, results in done)
        return " / ".join(values) + (" (runs differ)" if len(values) > 1 else "")

    found = {"runs": f"{len(finished(computed(runs)))} finished of {len(computed(runs))}"}
    in_steps = bool(done) and all(results.epochs is None for _, results in done)
    if done:
        length = {"steps": distinct(lambda r: r.steps)}
        if not in_steps:
            length = {"epochs": distinct(lambda r: r.epochs or f"{r.steps:,} steps")}
        statistics = dict.fromkeys(
            statistics_text(results) for run, results in done if averages_statistics(run)
        )
        found |= {
            "model": distinct(lambda r: r.model),
            **length,
            "classes": distinct(lambda r: f"{len(r.classes)}, chance {100 * chance(r):.3g} %"),
            "test videos": distinct(lambda r: r.videos),
            "views": distinct(lambda r: f"{r.views.clips} x {r.views.crops} (clips x crops)"),
            "statistics for evaluation": " / ".join(statistics) or "none: no norm here keeps any",
        }
    totals = sorted({run.gpus * run.clips_per_gpu for run in runs})
    differs = "steps the number of clips" if in_steps else "epochs the number of steps"
    note = f": at equal {differs} differs too"
    if len(totals) == 1:
        mixed = any(mixes_clips(run) for run in runs)
        what = "statistics and the clips that are mixed" if mixed else "statistics"
        note = f" in every geometry: only the {what} differ"
    return (
        found | {"total batch": f"{', '.join(map(str, totals))} clips{note}"} if totals else found
    )
