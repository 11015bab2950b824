"""A run is a folder: config, environment, metrics, checkpoints, results. Nothing else is needed."""

import json
import os
import platform
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import yaml
from torch.utils.tensorboard import SummaryWriter

from snvideo.atomic import write_atomic
from snvideo.engine.config import RunConfig
from snvideo.errors import SnvideoError

# Keys that say where and how a run is done, not what comes out of it.
_FREE = (
    "output",
    "log",
    "data.workers",
    "data.start_method",
    "data.limit",
    "data.root",
    "test_batch",
)


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested sections as one level of dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Dotted keys in which two configs would give different results."""
    one, two = flatten(old), flatten(new)
    return sorted(
        key
        for key in one.keys() | two.keys()
        if one.get(key) != two.get(key)
        and not any(key == free or key.startswith(f"{free}.") for free in _FREE)
    )


def environment() -> dict[str, Any]:
    """What the run was done with: versions, hardware, number of threads."""
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
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        if cuda
        else [],
        "processes": int(os.environ.get("WORLD_SIZE", 1)),
        "command": sys.argv,
    }


class RunFolder:
    """Writes what a run leaves behind. Only the main process holds one open for writing.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self._metrics: Any = None
        self._board: SummaryWriter | None = None

    def check(self, config: RunConfig, resume: bool) -> None:
        """See whether a run may go on here.

        Raises:
            SnvideoError: if the folder holds a run and `resume` was not asked for, or if it holds
                one of another config.
        """
        stored = self.path / "config.yaml"
        if not stored.exists():
            return
        if not resume:
            raise SnvideoError(
                f"{self.path} already holds a run: add --resume to continue it, "
                "or choose another output"
            )
        # What a config of an older version does not say is what the defaults say.
        old = RunConfig.model_validate(yaml.safe_load(stored.read_text()))
        changed = differences(old.model_dump(mode="json"), config.model_dump(mode="json"))
        if changed:
            raise SnvideoError(
                f"{self.path} holds a run of another config (differs in {', '.join(changed)}): "
                "choose another output"
            )

    def open(self, config: RunConfig, step: int) -> None:
        """Begin or continue at an optimizer step; metrics logged beyond it are cut off."""
        self.path.mkdir(parents=True, exist_ok=True)
        text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
        write_atomic(self.path / "config.yaml", text)
        write_atomic(self.path / "environment.json", json.dumps(environment(), indent=2))
        metrics = self.path / "metrics.jsonl"
        kept = []
        if metrics.exists() and step:
            kept = [line for line in _whole_lines(metrics) if json.loads(line)["step"] <= step]
        elif (self.path / "tensorboard").exists():
            shutil.rmtree(self.path / "tensorboard")
        write_atomic(metrics, "".join(kept))
        self._metrics = metrics.open("a", buffering=1)
        self._board = SummaryWriter(str(self.path / "tensorboard"), purge_step=step or None)

    def log(self, kind: str, step: int, **values: float) -> None:
        """Add one line of metrics, and the same to TensorBoard."""
        self._metrics.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
        for name, value in values.items():
            self._board.add_scalar(f"{kind}/{name}", value, step)

    def results(self) -> dict[str, Any] | None:
        """Results of a finished run, None before that."""
        path = self.path / "results.json"
        return json.loads(path.read_text()) if path.exists() else None

    def write_results(self, results: dict[str, Any], name: str = "results") -> None:
        """Write results as JSON; `results.json` is the mark of a finished run."""
        write_atomic(self.path / f"{name}.json", json.dumps(results, indent=2))

    def close(self) -> None:
        """Flush and close logs."""
        if self._metrics is not None:
            self._metrics.close()
        if self._board is not None:
            self._board.close()


def _whole_lines(path: Path) -> list[str]:
    """Lines of a file that may have been cut off while being written."""
    return [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
