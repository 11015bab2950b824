"""Preemption: requests to stop, by SIGTERM of a scheduler or Ctrl-C."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from snvideo.errors import PreemptedError


class Preemption:
    """State of the request to stop.

    A training step is never torn apart: between two of them the run looks at `asked`. What changes
    nothing and takes minutes, a validation, is broken off instead, see `breakable`.
    """

    def __init__(self) -> None:
        self.asked = False
        self._breakable = False

    def _ask(self, signum: int, frame: FrameType | None) -> None:
        if self.asked and signum == signal.SIGINT:  # twice: whoever is at the keyboard means now
            raise KeyboardInterrupt
        self.asked = True
        if self._breakable:
            raise PreemptedError

    @contextmanager
    def breakable(self) -> Iterator[None]:
        """Within, being asked to stop raises PreemptedError on the spot."""
        if self.asked:
            raise PreemptedError
        self._breakable = True
        try:
            yield
        finally:
            self._breakable = False


@contextmanager
def preemption() -> Iterator[Preemption]:
    """Within, SIGTERM and a first Ctrl-C ask for a stop instead of ending the process."""
    found = Preemption()
    if threading.current_thread() is not threading.main_thread():  # only it may set handlers
        yield found
        return
    signals = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, found._ask) for number in signals}
    try:
        yield found
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
