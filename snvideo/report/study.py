"""Everything that a study's folder says about its runs, drawn anew from what the runs left."""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from snvideo.atomic import write_atomic
from snvideo.errors import SnvideoError
from snvideo.report.figures import save_figures
from snvideo.report.html import heading, html_table, image, note, page, pairs, warning_box
from snvideo.report.study_table import comparison_csv, comparison_md, facts
from snvideo.study.comparability import config_differences, shown, warnings
from snvideo.study.runs import Run, read_runs
from snvideo.study.summary import tables

_VALUES = 3
"""Values of one entry of the environment that are written out where runs differ."""


def write_report(folder: Path) -> Path:
    """Write comparison.csv, comparison.md, figures/*.png and report.html into a study's folder.

    Args:
        folder: holds the run folders (or is one).

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
    figures = save_figures(runs, folder / "figures")
    path = folder / "report.html"
    made = f"Made by snvideo, {datetime.now().astimezone():%Y-%m-%d %H:%M %Z}."
    write_atomic(path, page(title, _parts(runs, figures), made))
    return path


def _parts(runs: list[Run], figures: dict[str, Path]) -> Iterator[str]:
    """The report from top to bottom: conditions, doubts, results, pictures, runs, machine."""
    yield pairs(facts(runs))
    found = warnings(runs)
    if found:
        yield warning_box(found)
    for table in tables(runs):
        yield heading(table.title)
        yield note(table.note)
        yield html_table(table.header, table.rows)
    if figures:
        yield heading("Figures")
        yield from (image(path, caption) for caption, path in figures.items())
    yield heading("Runs")
    yield note("With every config key in which they differ.")
    yield _run_list(runs)
    environment = _environment(runs)
    if environment:
        yield heading("Environment")
        yield pairs(environment)


def _run_list(runs: list[Run]) -> str:
    keys = list(config_differences(runs))
    lines = [
        (
            run.name,
            run.status,
            f"{100 * run.results.video_top1:.1f} %" if run.results else "-",
            f"{run.results.train_seconds:.0f} s" if run.results else "-",
            *(shown(run.config, key) for key in keys),
        )
        for run in runs
    ]
    return html_table(("run", "status", "video top-1", "training", *keys), lines)


def _environment(runs: list[Run]) -> dict[str, str]:
    """What the runs were made with; the values that occur, where it was not the same for all."""
    keys = dict.fromkeys(key for run in runs for key in run.environment)
    found = {}
    for key in keys:
        texts = (str(run.environment[key]) for run in runs if key in run.environment)
        values = list(dict.fromkeys(texts))
        more = f" / and {len(values) - _VALUES} more" if len(values) > _VALUES else ""
        found[key] = " / ".join(values[:_VALUES]) + more
    return found
