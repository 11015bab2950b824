"""A run is a folder: config, environment, metrics, checkpoints, results. Nothing else is needed."""

from __future__ import annotations

import json
import logging
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import ValidationError

from snvideo.atomic import atomic_path, write_atomic
from snvideo.engine.checkpoint import DISK_FULL
from snvideo.engine.config import RunConfig, differences, read_stored
from snvideo.engine.metrics_log import MetricsFile, TensorBoardLog, cut_lines
from snvideo.errors import SnvideoError
from snvideo.norm.kernels import describe_kernels

log = logging.getLogger(__name__)

ENVIRONMENT = "environment.json"
"""In the run's folder."""

PREEMPTED = "preempted"
"""In the run's folder: a file that says when the run was asked to stop, until it goes on."""


def environment(device: torch.device) -> dict[str, Any]:
    """Versions, hardware, number of threads and norm kernels of this process."""
    versions = {}
    for package in ("snvideo", "torch", "torchvision", "pytorchvideo", "decord", "av", "numpy"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    cuda = torch.cuda.is_available()
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": versions,
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "norm_kernels": describe_kernels(device),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        if cuda
        else [],
        "processes": int(os.environ.get("WORLD_SIZE", 1)),
        "command": sys.argv,
    }


def sessions(folder: Path) -> list[dict[str, Any]]:
    """The starts of a run so far, the first one first: step, time, threads, processes, host, torch.

    A folder that says nothing of them, or nothing that can be read, has none.
    """
    try:
        found = json.loads((folder / ENVIRONMENT).read_text(encoding="utf-8"))["sessions"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def threads_before(folder: Path) -> int | None:
    """Threads per process when the run was last started; None if that is not known.

    With another number, sums are taken in another order: results are equal up to rounding only.
    """
    before = sessions(folder)
    threads = before[-1].get("threads") if before else None
    return threads if isinstance(threads, int) else None


class RunDir:
    """Writes what a run leaves behind. Only the main process holds one open for writing.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self._metrics: MetricsFile | None = None
        self._tensorboard: TensorBoardLog | None = None

    def check(self, config: RunConfig) -> None:
        """Check that a run may begin or go on here.

        Raises:
            SnvideoError: if the folder holds a run of another config, or of one that cannot be
                read.
        """
        stored = self.stored_config()
        if stored is None:
            return
        changed = differences(stored.model_dump(mode="json"), config.model_dump(mode="json"))
        if changed:
            raise SnvideoError(
                f"{self.path} holds a run of another config (differs in {', '.join(changed)}): "
                "choose another output"
            )

    def stored_config(self) -> RunConfig | None:
        """The config of the run that the directory holds, None if there is none.

        Keys that an older version did not have get their defaults.

        Raises:
            SnvideoError: if it cannot be read.
        """
        path = self.path / "config.yaml"
        try:
            return RunConfig.model_validate(read_stored(path))
        except FileNotFoundError:
            return None
        except ValidationError as error:
            keys = (".".join(map(str, one["loc"])) or "the whole" for one in error.errors())
            why = f"this version does not take: {', '.join(dict.fromkeys(keys))}"
        except OSError as error:
            why = error.strerror or str(error)
        except ValueError:
            why = "it does not hold keys and values in YAML"
        raise SnvideoError(
            f"cannot read {path}, the config of the run in this folder: {why}; choose another "
            "output"
        )

    def open(self, config: RunConfig, mark: int, step: int) -> None:
        """Begin a run, or continue it where a checkpoint was written.

        Args:
            config: stored in the folder.
            mark: what `mark` said at that checkpoint; metrics beyond it are cut off. 0 to begin.
            step: optimizer steps done. 0 to begin.

        Raises:
            SnvideoError: if the folder cannot be written to.
        """
        with self.written("config.yaml") as path:
            path.write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
        with self.written(ENVIRONMENT) as path:
            path.write_text(json.dumps(self._environment(step), indent=2))
        metrics, tensorboard = self.path / "metrics.jsonl", self.path / "tensorboard"
        with _explained(metrics):
            self._metrics = MetricsFile(metrics, cut_lines(metrics, mark))
        if not step:
            shutil.rmtree(tensorboard, ignore_errors=True)
        # TensorBoard hides what older files say of `purge_step` and later. Up to this step they
        # hold nothing but what was measured before the checkpoint, which is not measured again,
        # and perhaps this step's validation, which may be: it would then be shown twice, both
        # times the same up to rounding. To hide this step too would lose its other values for good.
        self._tensorboard = TensorBoardLog(tensorboard, purge_step=step + 1 if step else None)

    def log(self, kind: str, step: int, **values: float) -> None:
        """Add one line of metrics, and the same to TensorBoard; a full disk stops neither."""
        self._metrics.add(json.dumps({"kind": kind, "step": step, **values}))
        self.scalars(step, {f"{kind}/{name}": value for name, value in values.items()})

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Add values to TensorBoard alone, each under its own name."""
        self._tensorboard.add(step, values)

    def mark(self) -> int:
        """Put all metrics on the disk, and return their size in bytes.

        Raises:
            OSError: if lines are waiting for room, or the disk does not take them.
        """
        self._tensorboard.flush()
        return self._metrics.sync()

    def clear_preempted(self) -> None:
        """Forget that the run was asked to stop: it goes on, or fails for a reason of its own."""
        with suppress(OSError):
            (self.path / PREEMPTED).unlink(missing_ok=True)

    def mark_preempted(self, step: int) -> None:
        """Leave word that the run was asked to stop after a step, and is not broken."""
        try:
            write_atomic(self.path / PREEMPTED, f"step {step}, {_now()}\n")
        except OSError as error:  # the run has its checkpoint, which is what counts
            log.warning("cannot write %s: %s", self.path / PREEMPTED, error.strerror or error)

    def write_results(self, results: dict[str, Any], name: str = "results") -> None:
        """Write results as JSON; `results.json` is the mark of a finished run.

        Raises:
            SnvideoError: if the disk does not take them.
        """
        with self.written(f"{name}.json") as path:
            path.write_text(json.dumps(results, indent=2))

    @contextmanager
    def written(self, name: str) -> Iterator[Path]:
        """Temporary path, of the same suffix, which becomes the file `name` of the directory.

        Raises:
            SnvideoError: if the disk does not take it; a file of this name is then as it was.
        """
        with _explained(self.path / name), atomic_path(self.path / name) as path:
            yield path

    def close(self) -> None:
        """Flush and close logs."""
        if self._metrics is not None:
            self._metrics.close()
        if self._tensorboard is not None:
            self._tensorboard.close()

    def _environment(self, step: int) -> dict[str, Any]:
        """The environment of this session, and the list of all sessions."""
        present = environment(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        session = {
            "step": step,
            "time": _now(),
            "threads": present["threads"],
            "processes": present["processes"],
            "host": platform.node(),
            "torch": present["packages"]["torch"],
        }
        return {**present, "sessions": [*sessions(self.path), session]}


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Failures to write a file, in one line."""
    try:
        yield
    except OSError as error:
        what = "free some space" if error.errno in DISK_FULL else "make that possible"
        raise SnvideoError(
            f"cannot write {path}: {error.strerror or error}; {what} and run the same command "
            "again: it goes on from the last checkpoint"
        ) from error


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")
