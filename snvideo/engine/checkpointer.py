"""Checkpoints of a run in progress: their schedule, and full disks."""

import logging
import shutil
import time
from pathlib import Path
from typing import Any

from snvideo.engine.checkpoint import BEST, checkpoints, save_checkpoint, write_checkpoint
from snvideo.engine.config import LogConfig
from snvideo.engine.distributed import World
from snvideo.engine.run_dir import RunDir, check_writable
from snvideo.errors import SnvideoError

log = logging.getLogger(__name__)


class Checkpointer:
    """Writes the checkpoints of a run. A full disk ends the run only at the last one.

    All processes call `save` together, and the main one, whose run directory is open, writes.
    """

    def __init__(self, run_dir: RunDir, config: LogConfig, world: World, step: int) -> None:
        self._run_dir, self._config, self._world = run_dir, config, world
        self._saved = time.monotonic()
        self.saved_step = step  # the step at which the run would be resumed

    def due_by_time(self) -> bool:
        """True on the main process once `log.checkpoint_minutes` have passed since the last one."""
        minutes = self._config.checkpoint_minutes
        spent = time.monotonic() - self._saved
        return self._world.is_main and minutes is not None and spent >= 60 * minutes

    def save(self, step: int, state: dict[str, Any], needed: bool = False) -> None:
        """Write the state after a step; raises SnvideoError if that fails and is needed."""
        self._saved = time.monotonic()
        folder, before, self.saved_step = self._run_dir.checkpoints, self.saved_step, step
        if self._world.is_main:
            try:
                state["metrics"] = self._run_dir.mark()
                save_checkpoint(folder, step, state, self._config.keep_checkpoints)
            except OSError as error:
                what = f"cannot write a checkpoint to {folder}: {error.strerror or error}"
                if needed:
                    raise SnvideoError(f"{what}; free some space and resume the run") from error
                log.error("%s; until the next one, the run is resumed from step %d", what, before)
                self.saved_step = before
        self._world.barrier()

    def save_best(self, state: dict[str, Any]) -> None:
        """Write the best weights so far; on the main process alone."""
        path = self._run_dir.checkpoints / BEST
        try:
            write_checkpoint(path, state)
        except OSError as error:
            log.error("cannot write %s: %s; training goes on", path, error.strerror or error)


def check_disk_space(folder: Path, checkpoint_bytes: int, keep: int) -> None:
    """Raise SnvideoError if checkpoints cannot be written, or those kept, the best and the next one
    will not fit."""
    check_writable(folder)
    present = [path for path in (*checkpoints(folder), folder / BEST) if path.exists()]
    needed = (keep + 2) * checkpoint_bytes - sum(path.stat().st_size for path in present)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise SnvideoError(
            f"{folder} has {format_bytes(free)} free and its checkpoints need "
            f"{format_bytes(needed)} more ({keep} kept, the best and one being written, of "
            f"{format_bytes(checkpoint_bytes)} each): free some space, lower "
            "log.keep_checkpoints, or choose another output"
        )


def format_bytes(size: int) -> str:
    """A number of bytes in MB, or in GB from one on, as on a disk's label: 1 GB = 10^9 bytes."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
