"""Metrics of a run as lines of a file and in TensorBoard, safe from kills and full disks."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

from snvideo.extras import MissingExtraError, require

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

log = logging.getLogger(__name__)


class MetricsFile:
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
                why = error.strerror or error
                message = "cannot write to %s: %s; the run goes on, and lines wait in memory"
                log.warning(message, self._path, why)
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
            missing, why = len(self._waiting), error.strerror or error
            log.warning("%d lines are missing in %s: %s", missing, self._path, why)

    def _write(self, sync: bool = False) -> None:
        data = b"".join(self._waiting)
        if not data and not sync:
            return
        # Opened anew each time, as network file systems report a full disk at closing.
        with self._path.open("ab", buffering=0) as file:
            size = min(self._size, file.seek(0, os.SEEK_END))
            file.truncate(size)  # the rest of a write that broke off
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

    A shorter file keeps its whole lines.
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


class TensorBoardLog:
    """TensorBoard's files; an error ends them, not the run.

    Args:
        path: their folder.
        purge_step: see SummaryWriter.
    """

    def __init__(self, path: Path, purge_step: int | None) -> None:
        self._path = path
        self._writer: SummaryWriter | None = None
        try:
            require("tensorboard", "TensorBoard's files")
        except MissingExtraError as error:
            log.info("%s", error)
            return
        from torch.utils.tensorboard import SummaryWriter

        with self._tolerated():
            self._writer = SummaryWriter(str(path), purge_step=purge_step)

    def add(self, step: int, values: dict[str, float]) -> None:
        """Add values by name."""
        with self._tolerated():
            for name, value in values.items():
                if self._writer is not None:
                    self._writer.add_scalar(name, value, step)

    def flush(self) -> None:
        """Write everything added so far."""
        with self._tolerated():
            if self._writer is not None:
                self._writer.flush()

    def close(self) -> None:
        """Flush and close the file."""
        with self._tolerated():
            if self._writer is not None:
                self._writer.close()
        self._writer = None

    @contextmanager
    def _tolerated(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._writer = None
            log.warning(
                "cannot write to %s: %s; the run goes on without TensorBoard, metrics.jsonl has "
                "the figures",
                self._path,
                error.strerror or error,
            )
