"""A thread that looks after a loader's workers while the main thread waits for them.

The main thread cannot do so itself: where it fetches a batch from a worker that has been stopped,
no timeout applies. Once the worker is dead, the call fails, and all goes on.
"""

import os
import threading
import time
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

from snvideo.data.watch import Reading, Watch

TICK = 1.0
"""Seconds from one look to the next."""

PAUSE = 5.0
"""Seconds without a look, which tell that the whole job was stopped for a while."""

GRACE = 30.0
"""Seconds beyond the limit after which workers are killed whose timers did not end them."""

_SHARED = Path("/dev/shm")
_SHORT = 2**20
"""Bytes of shared memory left at which batches no longer come through."""


class Supervisor:
    """Kills workers that stand still while they are waited for, in a file or outside.

    Args:
        workers: to look after.
        watch: that they report to.
    """

    def __init__(self, workers: Sequence[BaseProcess], watch: Watch) -> None:
        self._workers, self._watch = workers, watch
        self.waiting = False
        """Set by the main thread while it waits for a batch."""
        self.stuck: list[Reading] | None = None
        """What workers were at when all were killed for standing still."""
        self.memory_short = False
        """Whether shared memory was full then."""
        self.resumed_ns = 0
        """When the job last went on after a pause, by the monotonic clock."""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look_after, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Look no longer."""
        self._over.set()

    def _look_after(self) -> None:
        seen, changed, last = None, time.monotonic(), time.monotonic()
        while not self._over.wait(TICK):
            now = time.monotonic()
            if now - last > PAUSE:
                self.resumed_ns = time.monotonic_ns()
                changed = now
            last = now
            readings = self._watch.readings()
            if not self.waiting or readings != seen:
                seen, changed = readings, now
            elif now - changed >= self._watch.limit + GRACE:
                self.stuck = [reading for reading in readings if reading.begun]
                self.memory_short = _memory_short()
                for worker in self._workers:
                    worker.kill()
                return


def _memory_short() -> bool:
    try:
        found = os.statvfs(_SHARED)
    except OSError:
        return False
    return found.f_bavail * found.f_frsize < _SHORT
