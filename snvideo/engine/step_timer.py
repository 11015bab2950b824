"""Times of the phases of training steps, and a watchdog over them."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from math import ceil
from statistics import median
from typing import cast

import torch

log = logging.getLogger(__name__)

PHASES = ("data", "forward", "backward", "communication", "update")

SLOW = 3.0
"""A step is slow if it takes so many times the usual, and a second more."""

STUCK = 60.0
"""Seconds in one phase, and at least ten usual steps, before the watchdog warns."""

FIRST = 600.0
"""The same in the first steps, which compile and try algorithms."""

LOOK = 5.0
"""Seconds between two checks of the watchdog."""

STARVED = 0.1
"""Part of the time that steps may wait for data before the loader is too slow."""

MIN_SECONDS = 2.0
"""Seconds of steps from which on a slow loader is reported."""

USUAL = 50
"""Steps whose median is the usual time."""

Step = dict[str, float]
"""Seconds by phase."""

_Lap = tuple[str, float | torch.cuda.Event]
"""A phase, and its end."""


class StepTimer:
    """Times the phases of steps, on a GPU by its own events, which are read later.

    There a phase includes the time that the GPU waits for the host.
    """

    def __init__(self, device: torch.device) -> None:
        self._gpu = device.type == "cuda"
        self._laps: list[_Lap] = []
        self._steps: list[list[_Lap]] = []
        self._usual: deque[float] = deque(maxlen=USUAL)
        self.phase, self.since = "between steps", time.monotonic()
        """The phase that the host is in, and the time of its begin."""

    def begin(self) -> None:
        """Begin a step with its data."""
        self._laps = [("", self._now())]
        self._host("data")

    def lap(self, phase: str, following: str) -> None:
        """End a phase, or a part of it, and begin another."""
        self._laps.append((phase, self._now()))
        self._host(following)

    def end(self, phase: str) -> None:
        """End the step with a phase."""
        self.lap(phase, "between steps")
        self._steps.append(self._laps)

    def take(self) -> list[Step]:
        """The steps since the last call; waits for a GPU to have done them."""
        steps = [_spent(laps) for laps in self._steps]
        self._steps = []
        self._usual += [sum(step.values()) for step in steps]
        return steps

    @property
    def usual(self) -> float | None:
        """Seconds of a usual step; None before any was taken."""
        return median(self._usual) if self._usual else None

    def _now(self) -> float | torch.cuda.Event:
        if not self._gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _host(self, phase: str) -> None:
        self.phase, self.since = phase, time.monotonic()


def _spent(laps: list[_Lap]) -> Step:
    spent = dict.fromkeys(PHASES, 0.0)
    for (_, begin), (phase, end) in pairwise(laps):
        if isinstance(begin, torch.cuda.Event) and isinstance(end, torch.cuda.Event):
            end.synchronize()
            spent[phase] += begin.elapsed_time(end) / 1e3
        else:
            spent[phase] += cast(float, end) - cast(float, begin)
    return spent


def slowest(steps: list[Step], usual: float | None) -> int | None:
    """The number of the slowest of some steps, if it is far slower than usual."""
    if not steps or usual is None:
        return None
    seconds = [sum(step.values()) for step in steps]
    worst = max(range(len(steps)), key=seconds.__getitem__)
    return worst if seconds[worst] > max(SLOW * usual, usual + 1) else None


def shares(step: Step) -> str:
    """Times of the phases, the longest first, as in `data 12.0 s, backward 0.8 s`."""
    parts = sorted(step.items(), key=lambda part: -part[1])
    return ", ".join(f"{phase} {seconds:.2f} s" for phase, seconds in parts if seconds >= 0.005)


def workers_needed(steps: list[Step], workers: int) -> int | None:
    """Number of loader workers that would keep up, if the present number does not.

    W workers that make steps wait for a share s of their time need to be W / (1 - s).

    Args:
        steps: without the first, which waits for workers to start.
        workers: loader processes.
    """
    total, waiting = sum(sum(step.values()) for step in steps), sum(step["data"] for step in steps)
    if total <= MIN_SECONDS or waiting / total < STARVED:
        return None
    rest = max(total - waiting, 1e-3 * total)
    return ceil(workers * total / rest) if workers else ceil(waiting / rest)


ADVICE = {
    "data": "no batch has come from the loader: is the file system slow?",
    "forward": "a synchronised norm waits for all processes, or a kernel hangs",
    "backward": "gradients wait for all processes: one of them may be slow or gone",
    "communication": "another process is slow or gone",
    "update": "statistics wait for all processes: one of them may be slow or gone",
}


@contextmanager
def step_watchdog(clock: StepTimer, rank: int) -> Iterator[None]:
    """Report steps that are stuck within the block, and their phase."""
    done = threading.Event()

    def watch() -> None:
        reported = 0.0
        while not done.wait(LOOK):
            phase, spent = clock.phase, time.monotonic() - clock.since
            limit = max(STUCK, 10 * clock.usual) if clock.usual else FIRST
            if phase not in ADVICE or spent < limit:
                reported = 0.0
            elif spent >= 2 * reported:
                reported = spent
                log.warning(
                    "process %d: the step has been in '%s' for %.0f s: %s",
                    rank,
                    phase,
                    spent,
                    ADVICE[phase],
                )

    thread = threading.Thread(target=watch, daemon=True, name="step-watchdog")
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
