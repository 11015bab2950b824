"""Who is reading what, and the timer that ends a worker whose video never comes.

A decoder can spin for ever in native code, where no signal is served and no call returns. Only
ending the process helps, so before it opens a file a worker says which in shared memory and arms a
timer: a thread in C that ends the process even where the interpreter's lock is held.
"""

import faulthandler
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import IO, NamedTuple

from torch.utils.data import get_worker_info

TIMED_OUT = 1
"""Exit code of a worker whose timer ran out."""


class Reading(NamedTuple):
    """What a worker is at."""

    process: int
    begun: int
    """Nanoseconds of the monotonic clock; 0 when no file is open."""
    epoch: int
    position: int
    attempt: int


class Watch:
    """The slots of a loader's workers, made by their parent before they start."""

    def __init__(self, workers: int, limit: float, context: BaseContext) -> None:
        self.limit = limit
        """Seconds that reading one video may take."""
        self._slots = context.RawArray("q", workers * len(Reading._fields))

    @contextmanager
    def reading(self, epoch: int, position: int, attempt: int) -> Iterator[None]:
        """In a worker, while a file is read; in the main process nothing is ever armed."""
        worker = get_worker_info()
        if worker is None:
            yield
            return
        self._set(worker.id, Reading(os.getpid(), time.monotonic_ns(), epoch, position, attempt))
        faulthandler.dump_traceback_later(self.limit, exit=True, file=_nowhere())
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
            self._set(worker.id, Reading(os.getpid(), 0, epoch, position, attempt))

    def readings(self) -> list[Reading]:
        """What every worker is at, or was when it died; those that have not begun are left out."""
        size = len(Reading._fields)
        slots = [self._slots[i : i + size] for i in range(0, len(self._slots), size)]
        return [Reading(*slot) for slot in slots if slot[0]]

    def _set(self, worker: int, reading: Reading) -> None:
        size = len(Reading._fields)
        self._slots[worker * size : (worker + 1) * size] = reading


@cache
def _nowhere() -> IO[str]:
    """The timer insists on a file to say where the process was."""
    return Path(os.devnull).open("w")
