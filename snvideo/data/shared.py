"""Read-only memory that worker processes share, however they start."""

import mmap
import os
import tempfile
from multiprocessing import reduction
from typing import Any

import numpy as np


class SharedBytes:
    """Bytes that are appended to and then read, in a file without a name.

    Processes map the same pages of it: neither a fork nor a pickle to a spawned worker copies them.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 (in use as long as the object)
        self.size = 0

    def append(self, data: bytes) -> None:
        """Add bytes at the end, before the first `array`."""
        self._file.write(data)
        self.size += len(data)

    def array(self, dtype: Any) -> np.ndarray:
        """All of it as a read-only array (size / itemsize,)."""
        if not self.size:
            return np.empty(0, dtype)
        self._file.flush()
        pages = mmap.mmap(self._file.fileno(), self.size, access=mmap.ACCESS_READ)
        return np.frombuffer(pages, dtype)

    def __reduce__(self) -> tuple[Any, ...]:
        self._file.flush()
        return _attach, (reduction.DupFd(self._file.fileno()), self.size)


def _attach(descriptor: Any, size: int) -> SharedBytes:
    """The same bytes in the process that unpickles them."""
    shared = SharedBytes.__new__(SharedBytes)
    shared._file, shared.size = os.fdopen(descriptor.detach(), "rb"), size
    return shared
