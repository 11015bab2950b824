"""Run a study: every cell of its grid that is not finished, one after the other."""

import logging
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path

import yaml

from snvideo.atomic import write_atomic
from snvideo.engine.batch_plan import depends_on_split
from snvideo.engine.config import RunConfig
from snvideo.engine.preemption import preemption
from snvideo.engine.results import read_results
from snvideo.engine.run_dir import PREEMPTED, RunDir, explained_writes
from snvideo.errors import TEMPORARY_FAILURE, PreemptedError, SnvideoError
from snvideo.lock import InUseError, locked
from snvideo.study.config import Cell, StudyConfig, cells
from snvideo.study.runs import (
    CELL_FILE,
    FAILURE_FILE,
    RUN_NAME,
    STUDY_FILE,
    StudyRun,
    computed,
    read_runs,
)
from snvideo.study.summary import Row, comparison_rows

log = logging.getLogger(__name__)

TERMINATE_TIMEOUT = 60.0
"""Seconds from SIGTERM to SIGKILL: torchrun gives its workers 30, who outlive it if it is killed
first."""

POLL = 2.0
"""Seconds from one look at a run of another process to the next."""

STUDY_LOCK = ".study.lock"

Launch = Callable[[list[str]], int]  # runs a command line to its end and returns its exit status


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
            except (subprocess.TimeoutExpired, KeyboardInterrupt, PreemptedError):
                child.kill()  # a second interrupt cuts its time short
                child.wait()


def run_study(
    config: RunConfig,
    study: StudyConfig,
    report: Callable[[Path], Path],
    launch: Launch = launch,
    others: AbstractContextManager[None] | None = None,
) -> list[Row]:
    """Run all that is missing of a study, and return a row of its table for every cell.

    Finished runs are not repeated and begun ones go on from their checkpoint, so the same call
    continues a study that was interrupted. A run that fails is noted in the table, and the others
    go on; the next call tries it again. Several calls at once share the runs: each leaves those
    that another one has begun, and waits for them last. Cells that are the same computation are run
    once.

    Args:
        config: common to all runs; its `output` is the folder of the study.
        study: the grid.
        report: writes the report of that folder and returns its path; called after every run.
        launch: starts a run and waits for it.
        others: further calls, which are begun once the folder is checked and ended with this one;
            see `snvideo.study.parallel`.

    Raises:
        SnvideoError: before anything is run, if a run in the folder has another config.
        PreemptedError: if a run or the study was asked to stop.
    """
    grid = cells(config, study)
    _check_folder(config.output, bool(study.rates))
    for cell in grid:
        RunDir(cell.folder).check(cell.config)
    with explained_writes(config.output):
        config.output.mkdir(parents=True, exist_ok=True)
        # The config's own rate first: the report's main table is of that.
        rates = sorted(study.rates, key=lambda rate: rate != config.optim.lr)
        kept = study.model_copy(update={"rates": tuple(rates)})
        text = yaml.safe_dump(kept.model_dump(mode="json"), sort_keys=False)
        write_atomic(config.output / STUDY_FILE, text)
    same = same_computations(grid)
    for cell in grid:
        if cell.name in same:
            log.info("%s: the same computation as %s, which is run once", cell, same[cell.name])
    runs = [cell for cell in grid if cell.name not in same]
    with preemption() as stop, stop.interruptible(), others or nullcontext():
        _run_all(runs, study.processes, lambda: report(config.output), launch)
    rows = _rows(grid, same, read_runs(config.output))
    done = len({row["run"] for row in rows if row["status"] == "finished"})
    # Once more, as another call may have finished runs since, or written over it what it knew.
    path = report(config.output)
    log.info("%d of %d runs finished; report: %s", done, len(runs), path)
    return rows


def _check_folder(folder: Path, rates: bool) -> None:
    """Raise SnvideoError if a folder holds runs of a study with rates, and this has none, or the
    other way: runs of both would count twice."""
    runs = (path for path in folder.glob("*_seed*") if (path / "config.yaml").exists())
    for run in runs:
        name = RUN_NAME.fullmatch(run.name)
        if rates != (name is not None and name["lr"] is not None):
            raise SnvideoError(
                f"{run} is of a study with{'out' * rates} study.rates: choose another output"
            )


def _rows(grid: list[Cell], same: dict[str, Cell], runs: list[StudyRun]) -> list[Row]:
    """The row of each cell: of the run in its folder, or in that of the same computation."""
    rows = {row["run"]: row for row in comparison_rows(computed(runs))}
    found = []
    for cell in grid:
        place: Row = {"norm": cell.norm, "gpus": cell.gpus, "clips_per_gpu": cell.clips_per_gpu}
        found.append(rows[same.get(cell.name, cell).name] | place)
    return found


def same_computations(grid: list[Cell]) -> dict[str, Cell]:
    """The run that a cell is the same computation as, by the cell's name, where there is one.

    A norm that looks at each clip by itself, or at the whole batch, does not see how the total
    batch is split. What was begun at several splits is left as it is.
    """
    groups: dict[tuple[str, int, float, int], list[Cell]] = defaultdict(list)
    for cell in grid:
        if not depends_on_split(cell.config.model.norm, cell.config.data.train.mixes):
            groups[cell.norm, cell.gpus * cell.clips_per_gpu, cell.lr, cell.seed].append(cell)
    same: dict[str, Cell] = {}
    for group in groups.values():
        begun = [
            cell
            for cell in group
            if any((cell.folder / name).exists() for name in (CELL_FILE, "config.yaml"))
        ]
        # The one that `read_runs` will show: finished ones first, then the fewest clips per GPU.
        begun.sort(key=lambda cell: (cell.clips_per_gpu, cell.gpus))
        begun.sort(key=lambda cell: read_results(cell.folder) is None)
        kept = begun or group[:1]
        same |= {cell.name: kept[0] for cell in group if cell not in kept}
    return same


def _run_all(grid: list[Cell], processes: int, report: Callable[[], Path], launch: Launch) -> None:
    """Run what is missing, at last what other processes have begun and not finished."""
    labels = [f"[{number}/{len(grid)}] {cell}" for number, cell in enumerate(grid, 1)]
    waiting: list[tuple[str, Cell]] = []
    for label, cell in zip(labels, grid, strict=True):
        try:
            if _run(cell, label, processes, launch):
                report()
        except InUseError as error:
            log.info("%s: left to another process: %s", label, error)
            waiting.append((label, cell))
    for label, cell in waiting:
        log.info("%s: waiting for the process that runs it", label)
        if _run_after_others(cell, label, processes, launch):
            report()


def _run_after_others(cell: Cell, label: str, processes: int, launch: Launch) -> bool:
    """Wait for the process that runs a cell, and run it if that one has not come to its end."""
    while True:
        try:
            with _claimed(cell):
                if (cell.folder / FAILURE_FILE).exists():  # there, and the next call tries again
                    return False
            return _run(cell, label, processes, launch)
        except InUseError:
            time.sleep(POLL)


@contextmanager
def _claimed(cell: Cell) -> Iterator[None]:
    """Keep other studies from a cell; InUseError if one has it, or a training process alone."""
    with ExitStack() as held:
        with explained_writes(cell.folder):
            cell.folder.mkdir(parents=True, exist_ok=True)
            held.enter_context(locked(cell.folder / STUDY_LOCK, f"run {cell.folder}"))
        with RunDir(cell.folder).locked():  # an orphan of a study that was killed may train on
            pass
        yield


def _run(cell: Cell, label: str, processes: int, launch: Launch) -> bool:
    """Run a cell, and note it if it fails; False if it is finished already."""
    results = read_results(cell.folder)
    if results is not None:
        log.info("%s: already finished, video top-1 %.2f", label, results.accuracy)
        return False
    with _claimed(cell):
        return _train(cell, label, processes, launch)


def _train(cell: Cell, label: str, processes: int, launch: Launch) -> bool:
    results = read_results(cell.folder)
    if results is not None:  # since it was looked for
        return False
    failure = cell.folder / FAILURE_FILE
    for old in (failure, cell.folder / PREEMPTED):
        old.unlink(missing_ok=True)
    file = cell.folder / CELL_FILE
    write_atomic(file, yaml.safe_dump(cell.config.model_dump(mode="json")))
    log.info("%s: running in %s", label, cell.folder)
    command = ["-m", "snvideo", "train", str(file)]
    if processes > 1:
        torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        command = ["-m", *torchrun, *command]
    code = launch([sys.executable, *command])
    results = read_results(cell.folder)  # which, not the exit code, make a finished run
    if results is not None:
        log.info("%s: finished, video top-1 %.2f", label, results.accuracy)
    elif code == TEMPORARY_FAILURE or (code and (cell.folder / PREEMPTED).exists()):
        # The machine is being taken back, from this process too; torchrun hides the run's code.
        raise PreemptedError
    else:
        status = f"failed (exit {code})" if code else "failed (no results)"
        write_atomic(failure, status + "\n")
        log.error("%s: %s", label, status)
    return True
