"""Times of the phases of training steps, and the loader workers that would keep up with them."""

import time
from itertools import pairwise
from math import ceil
from typing import cast

import torch

PHASES = ("data", "forward", "backward", "communication", "update")

STARVED = 0.1  # part of the time that steps may wait for data before the loader is too slow

MIN_SECONDS = 2.0  # seconds of steps from which on a slow loader is reported

Step = dict[str, float]  # seconds by phase

_Lap = tuple[str, float | torch.cuda.Event]  # a phase, and its end


class StepTimer:
    """Times the phases of steps, on a GPU by its own events, which are read later.

    There a phase includes the time that the GPU waits for the host.
    """

    def __init__(self, device: torch.device) -> None:
        self._gpu = device.type == "cuda"
        self._steps: list[list[_Lap]] = []

    def begin(self) -> None:
        """Begin a step."""
        self._steps.append([])
        self.lap("")

    def lap(self, phase: str) -> None:
        """End a phase of the step, or a part of it."""
        if not self._gpu:
            self._steps[-1].append((phase, time.perf_counter()))
            return
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        self._steps[-1].append((phase, event))

    def take(self) -> list[Step]:
        """The steps since the last call; waits for a GPU to have done them."""
        steps = [_spent(laps) for laps in self._steps]
        self._steps = []
        return steps


def _spent(laps: list[_Lap]) -> Step:
    spent = dict.fromkeys(PHASES, 0.0)
    for (_, begin), (phase, end) in pairwise(laps):
        if isinstance(begin, torch.cuda.Event) and isinstance(end, torch.cuda.Event):
            end.synchronize()
            spent[phase] += begin.elapsed_time(end) / 1e3
        else:
            spent[phase] += cast(float, end) - cast(float, begin)
    return spent


def waiting_share(steps: list[Step]) -> float:
    """Part of the time of some steps that was spent waiting for data."""
    return sum(step["data"] for step in steps) / sum(sum(step.values()) for step in steps)


def workers_needed(steps: list[Step], workers: int) -> int | None:
    """Number of loader workers that would keep up, if the present number does not.

    W workers that make steps wait for a share s of their time need to be W / (1 - s). The first
    step of a session, which waits for workers to start, does not count.
    """
    if sum(sum(step.values()) for step in steps) <= MIN_SECONDS:
        return None
    share = waiting_share(steps)
    if share < STARVED:
        return None
    rest = max(1 - share, 1e-3)
    return ceil((workers or share) / rest)
