"""Metrics of a run as lines of a file and in TensorBoard, safe from kills and full disks."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snvideo.engine.trackers import figures
from snvideo.extras import MissingExtraError, require

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

log = logging.getLogger(__name__)


class MetricsFile:
    """Lines added to a file; on a full disk they wait, and none is lost, doubled or torn.

    Of a file that is there, at most `mark` bytes of whole lines are kept.
    """

    def __init__(self, path: Path, mark: int) -> None:
        with path.open("a+b") as file:
            file.seek(0)
            self._size = file.read(mark).rfind(b"\n") + 1
        self._path = path
        self._waiting: list[str] = []
        self._write()

    def add(self, line: str) -> None:
        """Add a line, which may have to wait."""
        self._waiting.append(f"{line}\n")
        try:
            self._write()
        except OSError as error:
            if len(self._waiting) == 1:
                why = error.strerror or error
                message = "cannot write to %s: %s; the run goes on, and lines wait in memory"
                log.warning(message, self._path, why)

    def sync(self) -> int:
        """Put everything on the disk, or raise OSError; returns the size of the file in bytes."""
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
        data = "".join(self._waiting).encode()
        # Opened anew each time, as network file systems report a full disk at closing.
        with self._path.open("r+b") as file:
            file.truncate(self._size)  # the rest of a write that broke off
            file.seek(self._size)
            file.write(data)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        self._size += len(data)
        self._waiting.clear()


class TensorBoardLog:
    """TensorBoard's files, as of SummaryWriter; an error ends them, not the run."""

    def __init__(self, path: Path, purge_step: int | None) -> None:
        self._path = path
        self._writer: SummaryWriter | None = None
        try:
            require("tensorboard", "TensorBoard's files")
        except MissingExtraError as error:
            log.info("%s", error)
            return
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(path), purge_step=purge_step)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add values by name."""
        for name, value in values.items():
            self._call("add_scalar", name, value, step)

    def config(self, text: str) -> None:
        """Add the config of a run, which is shown as it is."""
        self._call("add_text", "config", f"```yaml\n{text}\n```")

    def flush(self) -> None:
        """Write everything added so far."""
        self._call("flush")

    def finish(self, results: Mapping[str, Any] | None) -> None:
        """Add the content of results.json, if there is one, and close the file."""
        if results is not None:
            self.log(int(results.get("steps", 0)), figures(results))
        self._call("close")

    def _call(self, method: str, *arguments: object) -> None:
        try:
            if self._writer is not None:
                getattr(self._writer, method)(*arguments)
        except OSError as error:
            self._writer = None
            message = "cannot write to %s: %s; the run goes on without TensorBoard"
            log.warning(message, self._path, error.strerror or error)
