"""Watchdog of a worker process: a timer that ends it after some time without progress.

The timer is a thread in C, so it ends the process even where native code never returns or holds the
interpreter's lock. Whoever works through packets or frames says so with `report_progress` or
`watched`.
"""

import faulthandler
import os
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

Item = TypeVar("Item")

_OFTEN = 1.0
"""Seconds between two settings of the timer, which starts a thread, at least."""


class Watchdog:
    """The timer of this process.

    Args:
        timeout: seconds without progress.
        trace: file that holds a traceback once the timer has ended the process. Its access time is
            the last progress, by the monotonic clock.
    """

    def __init__(self, timeout: float, trace: Any) -> None:
        global _current
        self._timeout, self._trace = timeout, trace
        self._often = min(_OFTEN, timeout / 4)
        self._due = float("inf")
        _current = self

    def arm(self) -> None:
        """Start the timer anew."""
        now = time.monotonic_ns()
        os.utime(self._trace.fileno(), ns=(now, now))
        faulthandler.dump_traceback_later(self._timeout, exit=True, file=self._trace)
        self._due = now / 1e9 + self._often

    def disarm(self) -> None:
        """Stop the timer."""
        faulthandler.cancel_dump_traceback_later()
        self._due = float("inf")

    def progress(self) -> None:
        """Start the timer anew if it runs and was not started just now."""
        if time.monotonic() > self._due:
            self.arm()


_current: Watchdog | None = None


def report_progress() -> None:
    """Tell the watchdog, where there is one, that work goes on; may be called for every packet."""
    if _current is not None:
        _current.progress()


def watched(items: Iterable[Item]) -> Iterator[Item]:
    """Items as they come, each of which is progress."""
    for item in items:
        report_progress()
        yield item
