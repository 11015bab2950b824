"""Preemption: requests to stop, by SIGTERM of a scheduler or Ctrl-C."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from snvideo.errors import PreemptedError


class Preemption:
    """State of the request to stop: checked between steps, at once within `interruptible`."""

    def __init__(self) -> None:
        self.requested = False
        self._interruptible = False

    def _request(self, signum: int, frame: FrameType | None) -> None:
        if self.requested and signum == signal.SIGINT:  # a second Ctrl-C
            raise KeyboardInterrupt
        self.requested = True
        if self._interruptible:
            raise PreemptedError

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Raise PreemptedError as soon as a stop is requested within the block."""
        if self.requested:
            raise PreemptedError
        self._interruptible = True
        try:
            yield
        finally:
            self._interruptible = False


@contextmanager
def preemption() -> Iterator[Preemption]:
    """Let SIGTERM and a first Ctrl-C request a stop within the block, not end the process."""
    found = Preemption()
    signals = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, found._request) for number in signals}
    try:
        yield found
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
