"""Small runs on the toy data set, in this process, in others, and under torchrun."""

from __future__ import annotations

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from snvideo.config import load_config
from snvideo.data.dataset import Batch
from snvideo.engine.checkpoint import checkpoints, load_checkpoint
from snvideo.engine.config import RunConfig
from snvideo.engine.distributed import World
from snvideo.engine.trainer import Trainer

ROOT = Path(__file__).parents[2]
CPU = World(0, 1, torch.device("cpu"))


def write_index(folder: Path, toy: Path, rows: list[dict[str, Any]]) -> Path:
    """An index of rows of the toy data set, and the files that it leads to; returns its path."""
    folder.mkdir(exist_ok=True)
    with (folder / "index.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0]])
        writer.writeheader()
        writer.writerows(rows)
    meta = json.loads((toy / "index.json").read_text())
    root = (toy / meta["root"]).absolute()
    (folder / "index.json").write_text(json.dumps({**meta, "root": str(root)}))
    return folder / "index.csv"


def run_config(toy: Path, output: Path, *overrides: str) -> RunConfig:
    """A run of a few seconds: 48 videos, tiny clips, no workers."""
    values: dict[str, Any] = {
        "output": str(output),
        "model": {"name": "i3d_tiny", "norm": {"name": "sn"}, "dropout": 0.0},
        "data": {
            "index": str(toy / "index.csv"),
            "workers": 0,
            "clip": {"frames": 4, "stride": 4},
            "train": {"short_side": [32, 36], "crop": 32, "flip": False},
            "test": {"short_side": 32, "crop": 32, "clips": 2, "crops": 1},
        },
        "batch": {"gpus": 4, "clips_per_gpu": 2},
        "optim": {"lr": 0.1, "epochs": 1, "warmup_epochs": 0},
        "statistics": {"batches": 3},
        "log": {"every_steps": 2},
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    path = output.parent / f"{output.name}.yaml"
    path.write_text(yaml.safe_dump(values))
    config = load_config(path, overrides)
    if overrides:
        path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return config


def last_state(folder: Path) -> dict[str, Any]:
    """The newest checkpoint of a run."""
    return load_checkpoint(checkpoints(folder / "checkpoints")[-1])


def last_weights(folder: Path) -> dict[str, torch.Tensor]:
    """The weights of a run's newest checkpoint."""
    return last_state(folder)["model"]


def assert_close(
    one: dict[str, torch.Tensor], two: dict[str, torch.Tensor], initial: dict[str, torch.Tensor]
) -> None:
    """Weights and statistics are equal up to rounding, which training amplifies with every step:
    within a thousandth of how far it has moved the farthest value of the same tensor."""
    assert one.keys() == two.keys() == initial.keys()
    for name in one:
        if not one[name].is_floating_point():
            assert torch.equal(one[name], two[name]), name
            continue
        moved = (one[name] - initial[name]).abs().max()
        assert (one[name] - two[name]).abs().max() <= 1e-5 + 1e-3 * moved, name


def values(trainer: Trainer) -> dict[str, torch.Tensor]:
    """A trainer's weights and statistics, and those of their average over steps; not copies."""
    return {
        f"{name}.{key}": value
        for name, network in (("model", trainer.model), ("average", trainer.evaluated))
        for key, value in network.state_dict().items()
    }


def metrics(folder: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """The lines of a run's metrics, or those of a kind."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
    return [line for line in lines if kind in (None, line["kind"])]


def results(folder: Path) -> dict[str, Any]:
    """The results of a finished run."""
    return json.loads((folder / "results.json").read_text())


def take_steps(
    trainer: Trainer, count: int, batches: Iterator[Batch] | None = None
) -> Iterator[Batch]:
    """Train for some steps, of these batches or from here on; returns the batches that follow."""
    batches = batches or trainer.batches()
    for _ in range(count):
        trainer.step(batches)
    return batches


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of a size, as in `64k`."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path) -> Path:
    """Write a file until nothing fits any more."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass
    return ballast


# Other processes ------------------------------------------------------------------------------


class Job:
    """Processes that the nursery has forked, one of each rank, and the log that all write to."""

    def __init__(self, pids: list[int], log: Path) -> None:
        self.pids, self.log = pids, log
        self._codes: dict[int, int] = {}

    def over(self) -> bool:
        """Whether all have ended."""
        for pid in self.pids:
            if pid not in self._codes and (code := _ask(poll=pid)) is not None:
                self._codes[pid] = code
        return len(self._codes) == len(self.pids)

    def wait(self, timeout: float = 200) -> list[int]:
        """Their exit codes, in the order of ranks; a signal counts negative."""
        until = time.monotonic() + timeout
        while not self.over():
            if time.monotonic() > until:
                self.kill()
                raise TimeoutError(f"no end after {timeout} s: {self.log.read_text()}")
            time.sleep(0.01)
        return [self._codes[pid] for pid in self.pids]

    def done(self, timeout: float = 200) -> None:
        """Wait for an end without errors."""
        codes = self.wait(timeout)
        assert codes == [0] * len(codes), f"exit codes {codes}:\n{self.log.read_text()}"

    def kill(self) -> None:
        """SIGKILL all and all of their children, at one moment as far as they can see."""
        found: list[int] = []
        for pid in self._running():
            found += _stopped(pid)
        for pid in found:
            _signal(pid, signal.SIGKILL)

    def signal(self, number: int) -> None:
        """Send each a signal, but not their children."""
        for pid in self._running():
            _signal(pid, number)

    def _running(self) -> list[int]:
        return [pid for pid in self.pids if pid not in self._codes]


def start(function: str, *arguments: Any, log: Path, processes: int = 1) -> Job:
    """Fork processes of a group, each with one thread and a session of its own, to call a function
    of the nursery at once; what they print is added to the log."""
    environment: dict[str, str] = {}
    if processes > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        environment = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        environment["WORLD_SIZE"] = str(processes)
    request = {"function": function, "arguments": arguments, "log": str(log)}
    pids = []
    for rank in range(processes):
        mine = {**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)} if environment else {}
        pids.append(_ask(**request, environment=mine))
    return Job(pids, log)


def children(pid: int) -> list[int]:
    """The processes that a process has started and that have not been waited for."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            # After the name, which may hold anything and is in brackets: state and parent.
            if int(path.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(path.parent.name))
        except OSError:  # it has ended
            continue
    return found


@cache
def _nursery() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.engine.fork_server"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        text=True,
        start_new_session=True,
    )


def _ask(**request: Any) -> Any:
    nursery = _nursery()
    print(json.dumps(request), file=nursery.stdin, flush=True)
    return json.loads(nursery.stdout.readline())


def _stopped(pid: int) -> list[int]:
    """A process and its descendants, after none of them can start another."""
    _signal(pid, signal.SIGSTOP)
    return [pid, *(one for child in children(pid) for one in _stopped(child))]


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
