"""Processes that send a run's metrics to trackers, as the run sees them."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from snvideo.engine.trackers import TRACKERS
from snvideo.engine.tracking import explain

log = logging.getLogger(__name__)

TIMEOUT = 30.0
"""Seconds that the end of a run waits for its trackers."""


class TrackerProcess:
    """One tracker of a run; whatever becomes of it is at most one warning."""

    def __init__(self, tracker: str, folder: Path) -> None:
        self._tracker, self._folder = tracker, folder
        self._process: subprocess.Popen[bytes] | None = None
        command = [sys.executable, "-m", "snvideo.engine.tracking", tracker, str(folder)]
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C in a terminal is not for it
            )
        except OSError as error:
            self._give_up(explain(error))

    def check(self) -> None:
        """Warn if it has ended before the run."""
        if self._process is not None and self._process.poll() is not None:
            self._end(self._process)

    def tell_end(self) -> None:
        """Let it send the rest and end."""
        # A line, since other children of this process may hold the pipe open.
        if self._process is not None and self._process.stdin is not None:
            with suppress(OSError):
                self._process.stdin.write(b"\n")
                self._process.stdin.flush()

    def wait(self, until: float) -> None:
        """Wait for its end, up to that time of `time.monotonic`, and then kill it."""
        if (process := self._process) is None:
            return
        try:
            process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            self._give_up(f"has not got everything {TIMEOUT:.0f} s after the end")
            return
        self._end(process)

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)  # a child of its own may hold the pipe open
        said = (process.stdout.read() or b"").decode().strip()
        if process.returncode:
            self._give_up(said or f"its process ended with status {process.returncode}")
        self._process = None

    def _give_up(self, why: str) -> None:
        self._process = None
        message = "%s: %s; the run goes on without it, and 'snvideo track %s' sends the rest"
        log.warning(message, self._tracker, why, self._folder)


def start_trackers(names: Iterable[str], folder: Path) -> list[TrackerProcess]:
    """Start the trackers of a run whose metrics are in a folder, but for TensorBoard."""
    return [TrackerProcess(name, folder) for name in names if name in TRACKERS]


def end_trackers(processes: Iterable[TrackerProcess]) -> None:
    """Let all end at the same time, for `TIMEOUT` seconds at most."""
    processes, until = list(processes), time.monotonic() + TIMEOUT
    for process in processes:
        process.tell_end()
    for process in processes:
        process.wait(until)
