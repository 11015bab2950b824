"""Running a study: every cell of its grid that is not finished, one after the other."""

import logging
from collections.abc import Callable

import yaml

from snvideo.atomic import write_atomic
from snvideo.engine.config import RunConfig
from snvideo.engine.results import read_results
from snvideo.engine.run_dir import PREEMPTED, differences, flatten
from snvideo.errors import TEMPORARY_FAILURE, PreemptedError, SnvideoError
from snvideo.report.study import write_report
from snvideo.report.study_table import Row, rows
from snvideo.study.comparability import shown
from snvideo.study.config import StudyConfig
from snvideo.study.grid import Cell, cells
from snvideo.study.launch import command, launch, sigterm_exits
from snvideo.study.runs import CELL_FILE, FAILURE_FILE, read_runs

log = logging.getLogger(__name__)

Launch = Callable[[list[str]], int]
"""Runs a command line to its end and returns its exit status."""


def compare(config: RunConfig, study: StudyConfig, launch: Launch = launch) -> list[Row]:
    """Run what is missing of a study and put it all side by side.

    Finished runs are not repeated and begun ones go on from their checkpoint, so the same call
    continues a study that was interrupted. A run that fails is noted in the table, and the others
    go on; the next call tries it again. Tables, figures and report are rewritten after every run.

    Args:
        config: what all runs have in common; its `output` is the folder of the study.
        study: the grid.
        launch: starts a run and waits for it.

    Returns:
        one row of the table for every cell, in the order of the grid.

    Raises:
        SnvideoError: before anything is run, if a run in the folder has another config.
        PreemptedError: if a run was asked to stop.
    """
    grid = cells(config, study)
    for cell in grid:
        _check(cell)
    report = None
    with sigterm_exits():
        for number, cell in enumerate(grid, 1):
            if _run(cell, f"[{number}/{len(grid)}] {cell}", study.processes, launch):
                report = write_report(config.output)
    report = report or write_report(config.output)
    table = {row["run"]: row for row in rows(read_runs(config.output))}
    result = [table[cell.name] for cell in grid]
    done = sum(row["status"] == "finished" for row in result)
    failed = len(grid) - done
    log.info("%d of %d runs finished, %d failed; report: %s", done, len(grid), failed, report)
    return result


def _check(cell: Cell) -> None:
    """See that a cell's folder holds nothing, or a run of the same config."""
    file = cell.folder / "config.yaml"
    if not file.exists():
        return
    try:
        old = flatten(yaml.safe_load(file.read_text(encoding="utf-8")))
    except (yaml.YAMLError, AttributeError) as error:
        raise SnvideoError(f"{file} is not a config: delete {cell.folder}") from error
    new = flatten(cell.config.model_dump(mode="json"))
    changed = differences(old, new)
    if changed:
        keys = ", ".join(f"{k}: {shown(old, k)} there, {shown(new, k)} now" for k in changed)
        raise SnvideoError(
            f"{cell.folder} holds a run of another config ({keys}): "
            "take the change back, delete that folder, or choose another output"
        )


def _run(cell: Cell, label: str, processes: int, launch: Launch) -> bool:
    """Run a cell, and note it if it fails; False if it is finished already."""
    results = read_results(cell.folder)
    if results is not None:
        log.info("%s: already finished, video top-1 %.2f", label, results.video_top1)
        return False
    failure = cell.folder / FAILURE_FILE
    for old in (failure, cell.folder / PREEMPTED):
        old.unlink(missing_ok=True)
    config_file = cell.folder / CELL_FILE
    write_atomic(config_file, yaml.safe_dump(cell.config.model_dump(mode="json")))
    log.info("%s: running in %s", label, cell.folder)
    try:
        code = launch(command(config_file, processes))
    except (KeyboardInterrupt, SystemExit):
        log.warning("%s: stopped; the same command goes on from here", label)
        raise
    results = read_results(cell.folder)  # they are the mark of a finished run, not the exit code
    if results is not None:
        log.info("%s: finished, video top-1 %.2f", label, results.video_top1)
    elif code == TEMPORARY_FAILURE or (code and (cell.folder / PREEMPTED).exists()):
        # The machine is being taken back, from this process too; torchrun hides the run's code.
        log.warning("%s: stopped as asked; the same command goes on from here", label)
        raise PreemptedError
    else:
        status = f"failed (exit {code})" if code else "failed (no results)"
        write_atomic(failure, status + "\n")
        log.error("%s: %s", label, status)
    return True
