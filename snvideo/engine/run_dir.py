"""Run directory: config, environment, metrics, checkpoints and results of a run."""

from __future__ import annotations

import errno
import json
import logging
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import ValidationError

from snvideo.atomic import atomic_path, remove_unfinished, write_atomic
from snvideo.base_config import flatten
from snvideo.engine.checkpoint import checkpoints, load_checkpoint
from snvideo.engine.config import (
    STORED,
    RunConfig,
    differences,
    free_differences,
    read_stored,
)
from snvideo.engine.content import INDEX, content_hashes, index_content
from snvideo.engine.metrics_log import MetricsFile, TensorBoardLog
from snvideo.engine.results import read_results
from snvideo.engine.tracker_process import TrackerProcess, end_trackers, start_trackers
from snvideo.engine.tracking import forget_sent
from snvideo.errors import SnvideoError
from snvideo.lock import locked
from snvideo.models.pretrained import WEIGHTS_FILE
from snvideo.norm.kernels import describe_kernels

log = logging.getLogger(__name__)

ENVIRONMENT = "environment.json"
INPUTS = "inputs.json"
"""Hashes of the files, but for the index, that a run was begun with (`content_hashes`)."""
LOCK = ".lock"
PREEMPTED = "preempted"
"""Name of a file with the time at which a run was asked to stop, until it goes on."""


def environment(device: torch.device) -> dict[str, Any]:
    """Versions, hardware, number of threads and norm kernels of this process."""
    decoders = ("av", "decord", "torchcodec")
    packages = ("snvideo", "torch", "torchvision", "pytorchvideo", *decoders, "numpy")
    versions: dict[str, str | None] = dict.fromkeys(packages)
    for package in packages:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": versions,
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "norm_kernels": describe_kernels(device),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "processes": int(os.environ.get("WORLD_SIZE", 1)),
        "command": sys.argv,
    }


def sessions(folder: Path) -> list[dict[str, Any]]:
    """The starts of a run so far, the first one first: step, time, threads, processes, host, torch.

    Empty if the folder has no list of them that can be read.
    """
    try:
        return json.loads((folder / ENVIRONMENT).read_text(encoding="utf-8"))["sessions"]
    except (OSError, ValueError, KeyError):
        return []


class RunDir:
    """Files of a run. Only the main process opens it for writing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self._metrics: MetricsFile | None = None
        self._tensorboard: TensorBoardLog | None = None
        self._trackers: list[TrackerProcess] = []

    def check(self, config: RunConfig) -> list[str]:
        """Changes from the stored config that decide no result, as in `data.workers: 4 -> 2`.

        Raises SnvideoError if the folder holds another run, or a config that cannot be read.
        """
        stored = self.stored_config()
        if stored is None:
            return []
        old, new = (flatten(one.model_dump(mode="json")) for one in (stored, config))
        keys, free = differences(old, new), free_differences(old, new)
        there, here = self._contents(stored, INDEX in keys), content_hashes(config)
        if INDEX in there:
            here |= index_content(config)
        alike = [key for key in keys if there.get(key, "none") == here.get(key)]
        keys = [key for key in keys if key not in alike]
        free = [*alike, *free]
        changed = [
            f"{key}: {old.get(key, 'absent')} there, {new.get(key, 'absent')} now" for key in keys
        ]
        changed += [
            f"{key}: the content of {new[key]} has changed since"
            for key in here
            if key not in (*keys, *alike) and there.get(key, here[key]) != here[key]
        ]
        if changed:
            raise SnvideoError(
                f"{self.path} holds a run of another config ({', '.join(changed)}): take the "
                f"change back, delete that folder, or choose another output{self._go_on(keys)}"
            )
        return [f"{key}: {old.get(key, 'absent')} -> {new.get(key, 'absent')}" for key in free]

    def _go_on(self, keys: list[str]) -> str:
        """The way to train longer or otherwise from what a run has come to."""
        weights = self.path / WEIGHTS_FILE
        if not weights.exists() or not any(key.startswith("optim.") for key in keys):
            return ""
        return (
            ". A finished run has no schedule left to go on with; a new one from its weights: "
            f"output=ANOTHER model.weights.source={weights}"
        )

    def _contents(self, stored: RunConfig, moved: bool) -> dict[str, str]:
        """Hashes of the contents that a run was begun with, as far as they are known.

        That of its index is known if it is finished; else it is looked for if the index has `moved`
        to another path (at the same one, its checkpoint is compared with it when it is loaded).
        """
        try:
            known = json.loads((self.path / INPUTS).read_text(encoding="utf-8"))
        except (OSError, ValueError):  # of an older version: what is there now
            known = content_hashes(stored)
        with suppress(SnvideoError, KeyError):
            if (results := read_results(self.path)) is not None:
                return {**known, INDEX: results.index_hash}
            if moved and (found := checkpoints(self.checkpoints)):
                return {**known, INDEX: load_checkpoint(found[-1])["index_hash"]}
            if moved:
                return known | index_content(stored)
        return known

    def stored_config(self) -> RunConfig | None:
        """The config of the run that the directory holds, with defaults for keys of newer versions;
        None if there is none, SnvideoError if it cannot be read."""
        path = self.path / "config.yaml"
        try:
            return RunConfig.model_validate(read_stored(path), context=STORED)
        except FileNotFoundError:
            return None
        except ValidationError as error:
            keys = (".".join(map(str, one["loc"])) for one in error.errors())
            why = f"this version does not take: {', '.join(dict.fromkeys(keys))}"
        except (OSError, ValueError) as error:
            why = str(error)
        raise SnvideoError(f"cannot read {path}: {why}; choose another output")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from writing the same run, during the block.

        Raises SnvideoError if one does, on whatever host, or the folder cannot be written to. What
        a process that was killed had begun to write is removed.
        """
        with ExitStack() as stack:
            with explained_writes(self.path):
                self.path.mkdir(parents=True, exist_ok=True)
                stack.callback(_remove_if_empty, self.path)
                stack.enter_context(locked(self.path / LOCK, f"run {self.path}"))
                for folder in (self.path, self.checkpoints):
                    remove_unfinished(folder)
            yield

    def check_output(self, run: RunDir | None) -> None:
        """Raise SnvideoError if an evaluation of a run cannot be written here, or here is another
        run."""
        another = run is None or self.path.resolve() != run.path.resolve()
        if another and (self.path / "config.yaml").exists():
            raise SnvideoError(f"{self.path} holds a run: choose another output")
        check_writable(self.path)

    def open(self, config: RunConfig, mark: int, step: int) -> None:
        """Begin a run, at mark and step 0, or continue it where a checkpoint was written.

        Metrics beyond the `mark` of that checkpoint are cut off. Raises SnvideoError if the folder
        cannot be written to.
        """
        now = environment(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        session = {"step": step, "time": _now(), "host": platform.node()}
        session |= {key: now[key] for key in ("threads", "processes")}
        session["torch"] = now["packages"]["torch"]
        now["sessions"] = [*sessions(self.path), session]
        config_text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
        self.write("config.yaml", config_text)
        self.write(ENVIRONMENT, json.dumps(now, indent=2))
        if not step:
            self.write(INPUTS, json.dumps(content_hashes(config), indent=2))
        tensorboard, trackers = self.path / "tensorboard", config.log.trackers
        if not step:
            shutil.rmtree(tensorboard, ignore_errors=True)
        with explained_writes(self.path):
            if not step:
                forget_sent(self.path)
            self._metrics = MetricsFile(self.path / "metrics.jsonl", mark)
            if "tensorboard" in trackers:
                # TensorBoard hides older files' values of `purge_step` and later. Those of this
                # step, from before the checkpoint, stay; a validation may be repeated and is shown
                # twice.
                self._tensorboard = TensorBoardLog(tensorboard, step + 1 if step else None)
        if self._tensorboard is not None and not step:
            self._tensorboard.config(config_text)
        self._trackers = start_trackers(trackers, self.path)

    def log(self, kind: str, step: int, **values: float) -> None:
        """Add one line of metrics, which trackers get, too; a full disk is no error."""
        assert self._metrics is not None, "the run directory is not open for writing"
        self._metrics.add(json.dumps({"kind": kind, "step": step, **values}))
        self.scalars(step, {f"{kind}/{name}": value for name, value in values.items()})
        for tracker in self._trackers:
            tracker.check()

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Add values to TensorBoard alone, each under its own name."""
        if self._tensorboard is not None:
            self._tensorboard.log(step, values)

    def mark(self) -> int:
        """Put all metrics on the disk, or raise OSError; returns their size in bytes."""
        assert self._metrics is not None, "the run directory is not open for writing"
        if self._tensorboard is not None:
            self._tensorboard.flush()
        return self._metrics.sync()

    def clear_preempted(self) -> None:
        """Remove the file of `mark_preempted`."""
        with suppress(OSError):
            (self.path / PREEMPTED).unlink(missing_ok=True)

    def mark_preempted(self, step: int) -> None:
        """Write a file that tells a preempted run from a broken one."""
        try:
            write_atomic(self.path / PREEMPTED, f"step {step}, {_now()}\n")
        except OSError as error:
            log.warning("cannot write %s: %s", self.path / PREEMPTED, error.strerror or error)

    def write_results(self, results: dict[str, Any], name: str = "results") -> None:
        """Write results as JSON, as `written` does; a run with `results.json` is finished."""
        self.write(f"{name}.json", json.dumps(results, indent=2))

    def write(self, name: str, text: str) -> None:
        """Write the text file `name`, as `written` does."""
        with self.written(name) as path:
            path.write_text(text, encoding="utf-8")

    @contextmanager
    def written(self, name: str) -> Iterator[Path]:
        """Temporary path that becomes the file `name`, or SnvideoError; see `atomic_path`."""
        with explained_writes(self.path / name), atomic_path(self.path / name) as path:
            yield path

    def close(self) -> None:
        """Flush and close logs, and let trackers send the rest."""
        if self._metrics is not None:
            self._metrics.close()
        if self._tensorboard is not None:
            results = read_results(self.path)
            self._tensorboard.finish(None if results is None else results.stored())
        end_trackers(self._trackers)


@contextmanager
def explained_writes(path: Path) -> Iterator[None]:
    """Turn failures to write a file or folder into one line for the user."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise SnvideoError(
            f"cannot write {path}: {error.strerror or error}; "
            f"{'free some space' if full else 'make that possible'} and run the same command again"
        ) from error


def check_writable(folder: Path) -> None:
    """Raise SnvideoError if nothing can be written to a folder, which is made if it is missing."""
    # Only a write tells: root may do anything by the mode bits, and a full disk has none.
    trial = folder / "trial"
    with explained_writes(folder):
        write_atomic(trial, "trial")
        trial.unlink(missing_ok=True)  # another process may have tried, too


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")
