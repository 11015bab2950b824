"""A file of lines that grows while a run goes on, and outlives kills and full disks."""

import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import IO

log = logging.getLogger(__name__)


class Lines:
    """Lines added to a file; on a full disk they wait, and none is lost, doubled or torn.

    Args:
        path: the file, which exists.
        size: bytes of it that are whole lines.
    """

    def __init__(self, path: Path, size: int) -> None:
        self._path, self._size = path, size
        self._waiting: list[bytes] = []
        self._failing = False

    def add(self, line: str) -> None:
        """Add a line, which may have to wait."""
        self._waiting.append(f"{line}\n".encode())
        try:
            self._write()
        except OSError as error:
            if not self._failing:
                log.warning(
                    "cannot write to %s: %s; the run goes on, and lines wait in memory",
                    self._path,
                    error.strerror or error,
                )
            self._failing = True

    def sync(self) -> int:
        """Put everything on the disk; returns the size of the file in bytes."""
        self._write(sync=True)
        return self._size

    def close(self) -> None:
        """Try once more to write what is waiting."""
        try:
            self._write()
        except OSError as error:
            log.warning(
                "%d lines are missing in %s: %s",
                len(self._waiting),
                self._path,
                error.strerror or error,
            )

    def _write(self, sync: bool = False) -> None:
        data = b"".join(self._waiting)
        if not data and not sync:
            return
        # Opened anew each time, as closing is when network file systems say that they are full.
        with self._path.open("ab", buffering=0) as file:
            size = min(self._size, file.seek(0, os.SEEK_END))
            file.truncate(size)  # what a write that broke off left behind
            try:
                _write_all(file, data)
                if sync:
                    os.fsync(file.fileno())
            except OSError:
                with suppress(OSError):
                    file.truncate(size)
                raise
        self._size = size + len(data)
        self._waiting.clear()
        if self._failing:
            log.warning("%s can be written to again: no line is lost", self._path)
        self._failing = False


def cut_lines(path: Path, mark: int) -> int:
    """Cut a file of lines back to `mark` bytes, or make an empty one; returns its size in bytes.

    A file that is shorter, or whose lines have changed, keeps the whole lines before that.
    """
    with path.open("a+b") as file:
        file.seek(0)
        size = file.read(mark).rfind(b"\n") + 1
        file.truncate(size)
    if size < mark:
        log.warning(
            "%s was %d bytes long when the last checkpoint was written, and %d of them are left: "
            "some metrics are missing",
            path,
            mark,
            size,
        )
    return size


def _write_all(file: IO[bytes], data: bytes) -> None:
    """Write to an unbuffered file, which takes what there is room for."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
