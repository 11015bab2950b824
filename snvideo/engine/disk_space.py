"""Whether a folder has room for what a run will write, asked before days of work depend on it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from snvideo.engine.checkpoint import BEST, DISK_FULL, checkpoints
from snvideo.errors import SnvideoError


def check_room(folder: Path, checkpoint_bytes: int, keep: int) -> None:
    """See whether a run's checkpoints can be written and will fit.

    Args:
        folder: of the checkpoints; made if missing.
        checkpoint_bytes: size of one.
        keep: number of checkpoints that stay. There is one more while it is written, and the best.

    Raises:
        SnvideoError: if the folder cannot be made or written to, or has too little room.
    """
    _try_to_write(folder)
    present = [path for path in (*checkpoints(folder), folder / BEST) if path.exists()]
    needed = (keep + 2) * checkpoint_bytes - sum(path.stat().st_size for path in present)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise SnvideoError(
            f"{folder} has {in_words(free)} free and its checkpoints need {in_words(needed)} more "
            f"({keep} kept, the best and one being written, of {in_words(checkpoint_bytes)} each): "
            "free some space, lower log.keep_checkpoints, or choose another output"
        )


def in_words(size: int) -> str:
    """A number of bytes in MB, or in GB from one on, as on a disk's label: 1 GB = 10^9 bytes."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def _try_to_write(folder: Path) -> None:
    """Only a write tells: root may do anything by the mode bits, and a full disk has none."""
    trial = folder / f".room.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            trial.write_bytes(b"room?")
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
