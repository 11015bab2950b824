"""Runs of a study as they are read from their directories."""

import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snvideo.engine.config import flatten, read_stored
from snvideo.engine.results import Results, read_results
from snvideo.engine.run_dir import ENVIRONMENT, INPUTS
from snvideo.errors import SnvideoError
from snvideo.norm import NORMS

CELL_FILE = "cell.yaml"
"""The config that a study hands to a run; the run's own copy is config.yaml."""
FAILURE_FILE = "failure.txt"  # the status of a run that failed, as in the table's status column

Geometry = tuple[int, int]  # (gpus, clips per GPU)


@dataclass(frozen=True)
class StudyRun:
    """One run directory."""

    folder: Path
    norm: str
    gpus: int
    clips_per_gpu: int
    seed: int
    config: dict[str, Any]  # the resolved config by dotted key, as in `optim.epochs`
    environment: dict[str, Any]
    """environment.json by dotted key, without its sessions; empty if there is none."""
    inputs: dict[str, str]
    """Config key -> hash of the content of the file that it names; empty of older versions."""
    results: Results | None  # None until the run is finished
    status: str  # `finished`, `unfinished`, or the failure, as in `failed (exit 1)`

    @property
    def name(self) -> str:
        """The name of the folder."""
        return self.folder.name

    @property
    def geometry(self) -> Geometry:
        """(gpus, clips per GPU)."""
        return self.gpus, self.clips_per_gpu


def finished(runs: list[StudyRun]) -> list[tuple[StudyRun, Results]]:
    """The runs that have results, with them."""
    return [(run, run.results) for run in runs if run.results is not None]


def norms_of(runs: Iterable[StudyRun]) -> list[str]:
    """The norms of some runs, in the order of `NORMS`; any others follow."""
    names = {run.norm for run in runs}
    return [n for n in NORMS if n in names] + sorted(names - set(NORMS))


def geometries_of(runs: Iterable[StudyRun]) -> list[Geometry]:
    """The batch geometries of some runs, fewest clips per GPU first."""
    return sorted({run.geometry for run in runs}, key=lambda geometry: geometry[::-1])


def by_cell(runs: Iterable[StudyRun]) -> Iterator[tuple[Geometry, str, list[StudyRun]]]:
    """Geometry, norm and the runs of both, which differ in nothing but their seed."""
    runs = list(runs)
    for geometry in geometries_of(runs):
        for norm in norms_of(runs):
            if group := [run for run in runs if (run.geometry, run.norm) == (geometry, norm)]:
                yield geometry, norm, group


def read_runs(folder: Path) -> list[StudyRun]:
    """Read the runs in a study's folder (or the one run that the folder is), smallest groups first.

    Raises SnvideoError if a file of a run cannot be read as what it should be.
    """
    folders = [folder, *sorted(path for path in folder.glob("*") if path.is_dir())]
    runs = [run for path in folders if (run := _read_run(path)) is not None]
    return sorted(runs, key=lambda run: (run.clips_per_gpu, run.gpus, run.norm, run.seed))


def _read_run(folder: Path) -> StudyRun | None:
    """The run in a folder; None if there is none."""
    file = next((f for f in (folder / "config.yaml", folder / CELL_FILE) if f.exists()), None)
    if file is None:
        return None
    try:
        config = flatten(read_stored(file))
        norm, seed = str(config["model.norm.name"]), int(config["seed"])
        gpus, clips = int(config["batch.gpus"]), int(config["batch.clips_per_gpu"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise SnvideoError(f"{file}: not the config of a run; move this folder away") from error
    results, failure = read_results(folder), folder / FAILURE_FILE
    status = "finished" if results else "unfinished"
    if results is None and failure.exists():
        status = failure.read_text(encoding="utf-8").strip()
    environment, inputs = (_read_json(folder / name) for name in (ENVIRONMENT, INPUTS))
    environment.pop("sessions", None)
    environment = flatten(environment)
    return StudyRun(folder, norm, gpus, clips, seed, config, environment, inputs, results, status)


def _read_json(file: Path) -> dict[str, Any]:
    """A file that a run writes when it begins; empty if it did not get so far."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def read_metrics(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The lines of metrics.jsonl by kind (`train`, `validate`), in the order of their steps.

    A run that was resumed repeats the steps after its checkpoint: the later line counts.
    """
    file = folder / "metrics.jsonl"
    by_step: dict[tuple[str, int], dict[str, Any]] = {}
    for text in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        with suppress(ValueError):  # the last line of a run that was killed while writing
            line = json.loads(text)
            by_step[line["kind"], line["step"]] = line
    lines: dict[str, list[dict[str, Any]]] = {"train": [], "validate": []}
    for kind, step in sorted(by_step):
        lines.setdefault(kind, []).append(by_step[kind, step])
    return lines
