"""TensorBoard's files, which a run writes as long as it can."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from snvideo.extras import MissingExtraError, require

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

log = logging.getLogger(__name__)


class Board:
    """TensorBoard's files, without which a run can do.

    Its writer has a thread, which ends at the first error and hands it to the next caller.

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

        with self._dispensable():
            self._writer = SummaryWriter(str(path), purge_step=purge_step)

    def add(self, step: int, values: dict[str, float]) -> None:
        """Add values by name."""
        with self._dispensable():
            for name, value in values.items():
                if self._writer is not None:
                    self._writer.add_scalar(name, value, step)

    def flush(self) -> None:
        """Write everything added so far."""
        with self._dispensable():
            if self._writer is not None:
                self._writer.flush()

    def close(self) -> None:
        """Flush and close the file."""
        with self._dispensable():
            if self._writer is not None:
                self._writer.close()
        self._writer = None

    @contextmanager
    def _dispensable(self) -> Iterator[None]:
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
