"""Record golden values: losses, weights and predictions of tiny runs, for later code to reproduce.

`python -m tests.golden.record` writes `recorded/expected.json`; do so only where a change of
numbers is meant, and say why in the commit.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from typer.testing import CliRunner

from snvideo.cli import app

RECORDED = Path(__file__).parent / "recorded"
NORMS = ("sn", "bn", "gn")

_CONFIG: dict[str, Any] = {
    "seed": 5,
    "model": {"name": "i3d_tiny", "dropout": 0.3},
    "data": {
        "index": "videos/index.csv",
        "workers": 0,
        "clip": {"frames": 4, "stride": 4},
        "train": {"short_side": [32, 36], "crop": 32},
        "test": {"short_side": 32, "crop": 32, "clips": 2, "crops": 1},
    },
    "batch": {"gpus": 2, "clips_per_gpu": 2, "gpus_per_pass": 2},
    "optim": {"lr": 0.8, "epochs": 2, "warmup_epochs": 0},
    "statistics": {"batches": 2},
    "log": {"every_steps": 1, "validate_epochs": 0},
}


def machine() -> dict[str, str]:
    """Everything beyond the code that decides the last bit of a sum."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    keys = ("cpu family", "model", "model name", "stepping")
    found = dict(line.split("\t", 1) for line in lines if line.split("\t", 1)[0] in keys)
    return {
        "torch": torch.__version__,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "machine": platform.machine(),
        **{key: found[key].strip("\t: ") for key in keys if key in found},
    }


@contextmanager
def working_copy() -> Iterator[None]:
    """Work, with one thread, in a copy of what was recorded."""
    before, threads = Path.cwd(), torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(RECORDED, folder, dirs_exist_ok=True)
        os.chdir(folder)
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            os.chdir(before)


def run_from_scratch(norm: str) -> dict[str, Any]:
    """Train a network with a norm for two epochs."""
    config = {**_CONFIG, "output": norm}
    config["model"] = {**config["model"], "norm": {"name": norm}}
    Path("config.yaml").write_text(yaml.safe_dump(config))
    snvideo("train", "config.yaml")
    return _outcome(Path(norm))


def resumed_run() -> dict[str, Any]:
    """Go on, from its checkpoint in the middle, with the recorded run, whose config is old."""
    snvideo("train", "run")
    return _outcome(Path("run"))


def evaluated_run() -> list[list[float]]:
    """Test the recorded run's checkpoint: probabilities (videos, classes)."""
    snvideo("evaluate", "run")
    return _predictions(Path("run/evaluation.npz"))


def snvideo(*arguments: str) -> None:
    """Run the command line in this process."""
    result = CliRunner().invoke(app, arguments)
    if result.exit_code:
        raise result.exception or RuntimeError(result.output)


def _outcome(run: Path) -> dict[str, Any]:
    checkpoint = sorted((run / "checkpoints").glob("step_*.pt"))[-1]
    weights = torch.load(checkpoint, weights_only=True)["model"]
    digest = hashlib.sha256()
    for name, tensor in weights.items():
        digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {
        "weights": digest.hexdigest(),
        "losses": [line["loss"] for line in lines if line["kind"] == "train"],
        "gradient_norms": [line["gradient_norm"] for line in lines if line["kind"] == "train"],
        "probabilities": _predictions(run / "predictions.npz"),
    }


def _predictions(path: Path) -> list[list[float]]:
    return np.load(path)["probabilities"].tolist()


def record() -> None:
    """Write what this code comes to."""
    with working_copy():
        found: dict[str, Any] = {norm: run_from_scratch(norm) for norm in NORMS}
        found["evaluated"] = evaluated_run()
        found["resumed"] = resumed_run()
    values = {"machine": machine(), **found}
    (RECORDED / "expected.json").write_text(json.dumps(values, indent=1) + "\n")


if __name__ == "__main__":
    record()
