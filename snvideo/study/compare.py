"""Run a study: every cell of its grid that is not finished, one after the other."""

import logging
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import yaml

from snvideo.atomic import write_atomic
from snvideo.engine.config import RunConfig
from snvideo.engine.results import read_results
from snvideo.engine.run_dir import PREEMPTED, RunDir
from snvideo.errors import TEMPORARY_FAILURE, PreemptedError
from snvideo.study.config import Cell, StudyConfig, cells
from snvideo.study.runs import CELL_FILE, FAILURE_FILE, read_runs
from snvideo.study.summary import Row, comparison_rows

log = logging.getLogger(__name__)

TERMINATE_TIMEOUT = 60.0
"""Seconds from SIGTERM to SIGKILL: torchrun gives its workers 30, who outlive it if it is killed
first."""

Launch = Callable[[list[str]], int]
"""Runs a command line to its end and returns its exit status."""


def launch(arguments: list[str]) -> int:
    """Run a command to its end and return its exit status; an interrupt stops the command first."""
    child = subprocess.Popen(arguments)
    try:
        return child.wait()
    finally:
        if child.poll() is None:
            child.terminate()
            try:
                child.wait(TERMINATE_TIMEOUT)
            except (subprocess.TimeoutExpired, KeyboardInterrupt, SystemExit):
                child.kill()  # a second interrupt cuts its time short
                child.wait()


def run_study(
    config: RunConfig,
    study: StudyConfig,
    report: Callable[[Path], Path],
    launch: Launch = launch,
) -> list[Row]:
    """Run all that is missing of a study, and return a row of its table for every cell.

    Finished runs are not repeated and begun ones go on from their checkpoint, so the same call
    continues a study that was interrupted. A run that fails is noted in the table, and the others
    go on; the next call tries it again.

    Args:
        config: common to all runs; its `output` is the folder of the study.
        study: the grid.
        report: writes the report of that folder and returns its path; called after every run.
        launch: starts a run and waits for it.

    Raises:
        SnvideoError: before anything is run, if a run in the folder has another config.
        PreemptedError: if a run was asked to stop.
    """
    grid = cells(config, study)
    for cell in grid:
        RunDir(cell.folder).check(cell.config)
    path = None
    with sigterm_exits():
        for number, cell in enumerate(grid, 1):
            if _run(cell, f"[{number}/{len(grid)}] {cell}", study.processes, launch):
                path = report(config.output)
    path = path or report(config.output)
    table = {row["run"]: row for row in comparison_rows(read_runs(config.output))}
    rows = [table[cell.name] for cell in grid]
    done = sum(row["status"] == "finished" for row in rows)
    failed = len(grid) - done
    log.info("%d of %d runs finished, %d failed; report: %s", done, len(grid), failed, path)
    return rows


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
    command = ["-m", "snvideo", "train", str(config_file)]
    if processes > 1:
        torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        command = ["-m", *torchrun, *command]
    try:
        code = launch([sys.executable, *command])
    except (KeyboardInterrupt, SystemExit):
        log.warning("%s: stopped; the same command goes on from here", label)
        raise
    results = read_results(cell.folder)  # which, not the exit code, make a finished run
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


@contextmanager
def sigterm_exits() -> Iterator[None]:
    """Within, SIGTERM raises SystemExit(75), so that `finally` blocks are run."""
    if threading.current_thread() is not threading.main_thread():  # only it may set handlers
        yield
        return

    def leave(signum: int, frame: FrameType | None) -> None:
        sys.exit(TEMPORARY_FAILURE)

    previous = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
