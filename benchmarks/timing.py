"""Seconds of work on a device, the memory and the bandwidth that it has."""

import atexit
import gc
import time
from collections.abc import Callable
from statistics import median

import torch

from snvideo.engine.turns import WARM_UP

AHEAD = 10_000_000
"""Cycles that a GPU is kept busy for, some milliseconds: time to hand it a layer's kernels."""

COPIED = 2**30
"""Bytes of the copy that bandwidth is measured by: far more than any cache holds."""


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
