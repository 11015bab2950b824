"""Runs of a study as they are read from their directories."""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from snvideo.base_config import flatten
from snvideo.engine.batch_plan import depends_on_split
from snvideo.engine.config import STORED, OptimConfig, RunConfig, read_stored
from snvideo.engine.results import Results, read_results
from snvideo.engine.run_dir import ENVIRONMENT, INPUTS
from snvideo.errors import SnvideoError
from snvideo.models.config import NormConfig
from snvideo.norm import NORMS
from snvideo.study.config import StudyConfig

CELL_FILE = "cell.yaml"
"""The config that a study hands to a run; the run's own copy is config.yaml."""
STUDY_FILE = "study.yaml"  # the `study` section that a study's folder was last run with
FAILURE_FILE = "failure.txt"  # the status of a run that failed, as in the table's status column

Geometry = tuple[int, int]  # (gpus, clips per GPU)

RUN_NAME = re.compile(
    r"(?P<norm>.+)_(?P<gpus>\d+)x(?P<clips>\d+)(?:_lr(?P<lr>[\d.e+-]+))?_seed(?P<seed>\d+)"
)
"""Name of the folder of a study's run, as in `sn_2x8_seed0`; with the rate in a study of rates."""


@dataclass(frozen=True)
class StudyRun:
    """One run directory."""

    folder: Path
    norm: str
    """Name of the norm or variant; runs have the same exactly if their norms have the same
    settings."""
    gpus: int
    clips_per_gpu: int
    seed: int
    norm_config: NormConfig
    config: dict[str, Any]  # the resolved config by dotted key, as in `optim.epochs`
    environment: dict[str, Any]
    """environment.json by dotted key, without its sessions; empty if there is none."""
    inputs: dict[str, str]
    """Config key -> hash of the content of the file that it names; empty of older versions."""
    results: Results | None  # None until the run is finished
    status: str  # `finished`, `unfinished`, or the failure, as in `failed (exit 1)`
    computed_at: Geometry | None = None
    """Geometry of the run if this is another split of its total batch, where it comes to the same;
    None of the run itself."""

    @property
    def name(self) -> str:
        """The name of the folder."""
        return self.folder.name

    @property
    def lr(self) -> float:
        """`optim.lr`."""
        return float(self.config.get("optim.lr", OptimConfig().lr))

    @property
    def geometry(self) -> Geometry:
        """(gpus, clips per GPU)."""
        return self.gpus, self.clips_per_gpu


def computed(runs: Iterable[StudyRun]) -> list[StudyRun]:
    """The runs themselves, each once."""
    return [run for run in runs if run.computed_at is None]


def mixes_clips(run: StudyRun) -> bool:
    """True of a run with mixup or CutMix."""
    return any(run.config.get(f"data.train.{key}") for key in ("mixup", "cutmix"))


def finished(runs: list[StudyRun]) -> list[tuple[StudyRun, Results]]:
    """The runs that have results, with them."""
    return [(run, run.results) for run in runs if run.results is not None]


def display_name(norm: str) -> str:
    """Name of a norm or variant as tables and figures show it: GN, but gn8."""
    return norm.upper() if norm in NORMS else norm


def norms_of(runs: Iterable[StudyRun]) -> list[str]:
    """The norms of some runs, in the order of `NORMS`, each before its variants."""
    kinds = {run.norm: NORMS.index(run.norm_config.name) for run in runs}
    return sorted(kinds, key=lambda norm: (kinds[norm], norm not in NORMS, norm))


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

    A run that comes to the same at every split of its total batch is there for each split of the
    study that has no run of its own, if the folder says what the study is. A run of the same norm,
    place, rate and seed as another one is no further seed: it has its folder's name in that of its
    norm.

    Raises SnvideoError if a file of a run cannot be read as what it should be.
    """
    folders = [folder, *sorted(path for path in folder.glob("*") if path.is_dir())]
    study = read_study(folder)
    runs = _distinct([run for path in folders if (run := _read_run(path)) is not None])
    runs = _apart(runs, rates=study is not None and bool(study.rates))
    if study is not None:
        asked = (
            (one.gpus, one.clips_per_gpu) for grid in study.all_grids() for one in grid.batches
        )
        runs = _at_every_split(runs, sorted({*asked, *geometries_of(runs)}))
    return sorted(runs, key=lambda run: (*run.geometry[::-1], run.norm, run.lr, run.seed))


def read_study(folder: Path) -> StudyConfig | None:
    """The `study` section that a study's folder was last run with; None of one that has none.

    Raises SnvideoError if it cannot be read.
    """
    file = folder / STUDY_FILE
    if not file.exists():
        return None
    try:
        return StudyConfig.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise SnvideoError(
            f"{file}: {reason}; delete it, and 'snvideo compare' writes it anew"
        ) from None


def single_frame_accuracy(folder: Path, runs: list[StudyRun]) -> float:
    """Video top-1 of a run of single frames.

    Raises SnvideoError if it is not finished, sees more than one frame or is of another index.
    """
    run = _read_run(folder)
    if run is None or run.results is None:
        raise SnvideoError(f"study.single_frame: {folder} is not a finished run")
    if (frames := run.config.get("data.clip.frames")) != 1:
        raise SnvideoError(f"study.single_frame: clips of {folder} have {frames} frames, not one")
    if any(results.index_hash != run.results.index_hash for _, results in finished(runs)):
        raise SnvideoError(f"study.single_frame: {folder} was tested on another index")
    return run.results.accuracy


def _at_every_split(runs: list[StudyRun], geometries: list[Geometry]) -> list[StudyRun]:
    """The runs, and those to which the split does not matter at each other split as well."""
    found = {(run.norm, run.geometry, run.lr, run.seed): run for run in runs}
    for run in sorted(runs, key=lambda run: run.results is None):
        if depends_on_split(run.norm_config, mixes_clips(run)):
            continue
        for gpus, clips in geometries:
            if gpus * clips == run.gpus * run.clips_per_gpu:
                place = (run.norm, (gpus, clips), run.lr, run.seed)
                same = replace(run, gpus=gpus, clips_per_gpu=clips, computed_at=run.geometry)
                found.setdefault(place, same)
    return list(found.values())


def _read_run(folder: Path) -> StudyRun | None:
    """The run in a folder; None if there is none."""
    file = next((f for f in (folder / "config.yaml", folder / CELL_FILE) if f.exists()), None)
    if file is None:
        return None
    try:
        stored = read_stored(file)
        norm, config = NormConfig.model_validate(stored["model"]["norm"]), _complete(stored)
        seed = int(config["seed"])
        gpus, clips = int(config["batch.gpus"]), int(config["batch.clips_per_gpu"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise SnvideoError(f"{file}: not the config of a run; move this folder away") from error
    results, failure = read_results(folder), folder / FAILURE_FILE
    status = "finished" if results else "unfinished"
    if results is None and failure.exists():
        status = failure.read_text(encoding="utf-8").strip()
    environment, inputs = (_read_json(folder / name) for name in (ENVIRONMENT, INPUTS))
    environment.pop("sessions", None)
    environment, place = flatten(environment), (gpus, clips, seed)
    name = _norm_name(folder.name, norm, place)
    return StudyRun(folder, name, *place, norm, config, environment, inputs, results, status)


def _complete(stored: dict[str, Any]) -> dict[str, Any]:
    """A stored config by dotted key; what was no setting yet when it was written has its default,
    which is what it did."""
    config = flatten(stored)
    with suppress(ValueError):  # a folder of another kind, or of a version with other settings
        complete = RunConfig.model_validate(stored, context=STORED).model_dump(mode="json")
        config = flatten(complete) | config
    return config


def _read_json(file: Path) -> dict[str, Any]:
    """A file that a run writes when it begins; empty if it did not get so far."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _norm_name(folder: str, norm: NormConfig, place: tuple[int, int, int]) -> str:
    """Name of a norm or variant, which the folder of a study's run begins with; in any other folder
    it is the norm's."""
    found = _study_name(folder, place)
    return norm.name if found is None or found in NORMS else found


def _study_name(folder: str, place: tuple[int, int, int]) -> str | None:
    """Name that the folder of a study's run at (gpus, clips, seed) begins with; None of another."""
    found = RUN_NAME.fullmatch(folder)
    if found is None or tuple(int(found[key]) for key in ("gpus", "clips", "seed")) != place:
        return None
    return found["norm"]


def _distinct(runs: list[StudyRun]) -> list[StudyRun]:
    """The same runs; where one name stands for several settings, with these in the name."""
    settings: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for run in runs:
        if (own := run.norm_config.effective()) not in settings[run.norm]:
            settings[run.norm].append(own)
    return [
        replace(run, norm=f"{run.norm} {_difference(run, settings[run.norm])}")
        if len(settings[run.norm]) > 1
        else run
        for run in runs
    ]


def _apart(runs: list[StudyRun], rates: bool) -> list[StudyRun]:
    """The same runs; of several that would be one seed of one cell, only a study's own keeps its
    name. Runs of several rates are cells of their own in a study with `rates` alone."""
    cells: dict[tuple[str, Geometry, float | None, int], list[StudyRun]] = defaultdict(list)
    for run in runs:
        cells[run.norm, run.geometry, run.lr if rates else None, run.seed].append(run)
    found = []
    for group in cells.values():
        own = [run for run in group if _study_name(run.name, (*run.geometry, run.seed))]
        for run in group:
            known = len(group) == 1 or own == [run]
            found.append(run if known else replace(run, norm=f"{run.norm} in {run.name}"))
    return found


def _difference(run: StudyRun, settings: list[dict[str, Any]]) -> str:
    """The settings of a run's norm in which several of one name differ, as in `groups=8`."""
    own = run.norm_config.effective()
    keys = [key for key in own if any(one.get(key) != own[key] for one in settings)]
    texts = (f"{key}={_text(own[key])}" for key in keys)
    return ", ".join(texts)


def _text(value: Any) -> str:
    return "+".join(map(str, value)) if isinstance(value, tuple) else str(value)


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
