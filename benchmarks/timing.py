"""Times of rivals that take turns, so that a machine whose speed drifts slows all of them alike."""

import atexit
import gc
import random
import time
from collections.abc import Callable
from statistics import median
from typing import NamedTuple, TypeVar

import numpy as np
import torch

Rival = TypeVar("Rival")

WARM_UP = 2
"""Turns before those that count: the first compile, and fill what is kept for later."""

AHEAD = 10_000_000
"""Cycles that a GPU is kept busy for, some milliseconds: time to hand it a layer's kernels."""

COPIED = 2**30
"""Bytes of the copy that bandwidth is measured by: far more than any cache holds."""


class Quartiles(NamedTuple):
    """Of ratios of one rival's times to another's."""

    low: float
    median: float
    high: float


def ratio(times: list[float], base: list[float]) -> Quartiles:
    """Quartiles of the ratios of times from the same repeats."""
    return quartiles([a / b for a, b in zip(times, base, strict=True)])


def quartiles(ratios: list[float]) -> Quartiles:
    """Quartiles of one or more ratios."""
    return Quartiles(*np.quantile(ratios, (0.25, 0.5, 0.75)).tolist())


def take_turns(
    turns: dict[Rival, Callable[[], float]], repeats: int, warm_up: int = WARM_UP
) -> dict[Rival, list[float]]:
    """The times of all rivals.

    Args:
        turns: by rival, what takes a turn and returns its seconds.
        repeats: turns of each that count. The order changes with every repeat, so that none always
            follows the same other and finds the caches as that one leaves them.
        warm_up: turns of each before those.
    """
    shuffle = random.Random(0).shuffle
    order = list(turns)
    times: dict[Rival, list[float]] = {rival: [] for rival in turns}
    for repeat in range(warm_up + repeats):
        shuffle(order)
        for rival in order:
            spent = turns[rival]()
            if repeat >= warm_up:
                times[rival].append(spent)
    return times


def seconds(work: Callable[[], object], device: torch.device, *, ahead: bool = False) -> float:
    """How long work takes on a device.

    Args:
        work: what to do once.
        device: on CUDA time is taken by events, from an idle device to the end of the work.
        ahead: let the host run ahead of a CUDA device, as it does in a large network: the device
            is busy with something else until it has been handed the work.
    """
    if device.type != "cuda":
        begun = time.perf_counter()
        work()
        return time.perf_counter() - begun
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    if ahead:
        torch.cuda._sleep(AHEAD)
    begin.record()
    work()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3


def keep_freed_blocks() -> None:
    """Let the C library keep freed memory, as it does in any network that has run for a while.

    glibc's malloc maps a large block afresh until the first of its size is freed; from then on it
    keeps what is no larger, up to 32 MiB. Otherwise every turn returns its blocks to the system,
    and page faults of fresh memory, alike for all rivals, drown the small shapes.
    """
    block = torch.empty(32 * 2**20 - 2**16, dtype=torch.uint8)
    del block


def set_libraries_aside() -> None:
    """Keep what was imported from the garbage collector, which takes longer for it than a turn."""
    gc.freeze()
    atexit.register(gc.unfreeze)  # libraries that are never freed complain of leaks


def bandwidth(device: torch.device) -> float:
    """Bytes a second that a CUDA device reads and writes when it copies a large tensor."""
    source = torch.empty(COPIED, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    spent = [seconds(lambda: target.copy_(source), device, ahead=True) for _ in range(10)]
    return 2 * COPIED / median(spent[WARM_UP:])
