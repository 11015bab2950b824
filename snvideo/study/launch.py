"""Starting one run as a process of its own, and ending it when the study is stopped."""

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from snvideo.errors import TEMPORARY_FAILURE

PATIENCE = 60.0
"""Seconds that a run is given to end by itself before it is killed: torchrun gives its workers 30,
and they outlive it if it is killed first."""


def command(config_file: Path, processes: int) -> list[str]:
    """The command line that trains a config, or goes on with it where it stopped."""
    train = ["-m", "snvideo", "train", str(config_file)]
    if processes == 1:
        return [sys.executable, *train]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return [sys.executable, *torchrun, *train]


def launch(arguments: list[str]) -> int:
    """Run a command to its end, with its output on our terminal, and return its exit status.

    Whatever stops us (KeyboardInterrupt, SystemExit) stops the command first.
    """
    child = subprocess.Popen(arguments)
    try:
        return child.wait()
    finally:
        _end(child)


def _end(child: subprocess.Popen[bytes]) -> None:
    """End a process if it still runs; a second interrupt cuts its time short."""
    if child.poll() is not None:
        return
    child.terminate()
    try:
        child.wait(PATIENCE)
    except (subprocess.TimeoutExpired, KeyboardInterrupt, SystemExit):
        child.kill()
        child.wait()


@contextmanager
def sigterm_exits() -> Iterator[None]:
    """Within, SIGTERM raises SystemExit(75), so that `finally` blocks get to do their work: the
    study goes on with the same command."""
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
