"""Checkpoints of a run in progress: their schedule, and full disks."""

from __future__ import annotations

import logging
import os
import shutil
import time
from pathlib import Path
from typing import Any

from snvideo.engine.checkpoint import (
    BEST,
    DISK_FULL,
    checkpoints,
    make_room,
    save_best,
    save_checkpoint,
)
from snvideo.engine.config import LogConfig
from snvideo.engine.distributed import World
from snvideo.engine.run_dir import RunDir
from snvideo.errors import SnvideoError

log = logging.getLogger(__name__)


class Checkpointer:
    """Writes the checkpoints of a run. A full disk ends the run only at the last one.

    Args:
        run_dir: open for writing on the main process.
        config: how often, and how many are kept.
        world: all processes call `save` together; the main one writes.
        step: that the run is resumed at.
    """

    def __init__(self, run_dir: RunDir, config: LogConfig, world: World, step: int) -> None:
        self._run_dir, self._config, self._world = run_dir, config, world
        self._saved = time.monotonic()
        self.saved_step = step
        """The step at which the run would be resumed."""

    def due_by_time(self) -> bool:
        """True on the main process once `log.checkpoint_minutes` have passed since the last one."""
        minutes = self._config.checkpoint_minutes
        spent = time.monotonic() - self._saved
        return self._world.is_main and minutes is not None and spent >= 60 * minutes

    def save(
        self, step: int, state: dict[str, Any], last_chance: bool = False, needed: bool = False
    ) -> None:
        """Write a checkpoint of a step.

        Args:
            step: optimizer steps done.
            state: of the trainer.
            last_chance: the run stops now.
            needed: training is finished.

        Raises:
            SnvideoError: if it cannot be written and is needed.
        """
        self._saved = time.monotonic()
        if self._world.is_main:
            self._save(step, state, last_chance, needed)
        else:
            self.saved_step = step  # unless the main process has failed to write
        self._world.barrier()

    def _save(self, step: int, state: dict[str, Any], last_chance: bool, needed: bool) -> None:
        folder = self._run_dir.checkpoints
        try:
            state["metrics"] = self._sync_metrics()
            save_checkpoint(folder, step, state, self._config.keep_checkpoints)
            self.saved_step = step
        except OSError as error:
            what = f"cannot write a checkpoint to {folder}: {error.strerror or error}"
            if needed:
                raise SnvideoError(
                    f"{what}; free some space and run the same command again: it goes on from the "
                    "last checkpoint"
                ) from error
            if last_chance:
                log.error("%s; the run will go on from step %d", what, self.saved_step)
            else:
                log.error("%s; training goes on, the next checkpoint is tried in time", what)

    def save_best(self, state: dict[str, Any]) -> None:
        """Write the best weights so far; on the main process alone."""
        try:
            save_best(self._run_dir.checkpoints, state)
        except OSError as error:
            log.error(
                "cannot write the best weights: %s; training goes on", error.strerror or error
            )

    def _sync_metrics(self) -> int:
        """Size of the metrics on the disk; older checkpoints make room for lines that wait."""
        try:
            return self._run_dir.mark()
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise
            make_room(self._run_dir.checkpoints)
            return self._run_dir.mark()


def check_disk_space(folder: Path, checkpoint_bytes: int, keep: int) -> None:
    """Check that a run's checkpoints can be written and will fit.

    Args:
        folder: of the checkpoints; made if missing.
        checkpoint_bytes: size of one.
        keep: number of checkpoints that stay. There is one more while it is written, and the best.

    Raises:
        SnvideoError: if the folder cannot be made or written to, or has too little room.
    """
    _check_writable(folder)
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


def _check_writable(folder: Path) -> None:
    # Only a write tells: root may do anything by the mode bits, and a full disk has none.
    trial = folder / f".trial.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            trial.write_bytes(b"trial")
        finally:
            trial.unlink(missing_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        there = next(path for path in (folder, *folder.parents) if path.exists())
        raise SnvideoError(
            f"cannot make the folder {folder}: {there} is a file; move it away, or choose another "
            "output"
        ) from error
    except OSError as error:
        what = "free some space" if error.errno in DISK_FULL else "make that possible"
        raise SnvideoError(
            f"cannot write to {folder}: {error.strerror or error}; {what}, or choose another output"
        ) from error
