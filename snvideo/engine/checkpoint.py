"""Atomic checkpoints with SHA-256 checksums."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch

from snvideo.atomic import sync_folder, write_atomic
from snvideo.errors import SnvideoError

log = logging.getLogger(__name__)

BEST = "best.pt"
"""The best weights so far, beside the newest ones."""

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
"""Errors of a write for which there is no room: on the disk, or in the user's quota."""


class DamagedError(SnvideoError):
    """A file that is not what was once written."""


class _HashedFile:
    """A file that is hashed while it is written, and that keeps the error of a failed write."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._hash = file, hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: bytes | memoryview) -> int:
        """Write and hash."""
        try:
            written = self._file.write(data)
        except OSError as error:
            self.error = error
            raise
        self._hash.update(data)
        return written

    def flush(self) -> None:
        """Flush the file."""
        self._file.flush()

    def digest(self) -> str:
        """SHA-256 of all that was written, in hexadecimal."""
        return self._hash.hexdigest()


def save_checkpoint(folder: Path, step: int, state: dict[str, Any], keep: int) -> Path:
    """Write `folder/step_<step>.pt` and its checksum, and remove all but the newest `keep`.

    On a full disk, older checkpoints make room, all but the newest sound one, and the write is
    tried once more.

    Args:
        folder: made if missing.
        step: optimizer steps done.
        state: tensors and plain values.
        keep: number of checkpoints to leave.

    Raises:
        OSError: if it cannot be written; the folder then holds nothing half-written.
    """
    path = folder / f"step_{step:08d}.pt"
    _save(path, state)
    others = [other for other in checkpoints(folder) if other != path]
    for old in others[: max(0, len(others) - (keep - 1))]:
        _remove(old)
    _remove_leftovers(folder)
    return path


def save_best(folder: Path, state: dict[str, Any]) -> Path:
    """Write `folder/best.pt` as `save_checkpoint` writes; it is never removed.

    Raises:
        OSError: if it cannot be written; the one before is then still there.
    """
    _save(folder / BEST, state)
    return folder / BEST


def make_room(folder: Path) -> int:
    """Remove damaged files and all checkpoints by step but the newest sound one.

    Without a sound one all checkpoints stay. Returns the number of those removed.
    """
    found = checkpoints(folder)
    sound = next((path for path in reversed(found) if _is_sound(path)), None)
    spared = [path for path in found if path != sound] if sound else []
    for path in (*spared, *folder.glob("step_*.damaged")):
        _remove(path)
    _remove_leftovers(folder)
    return len(spared)


def checkpoints(folder: Path) -> list[Path]:
    """Checkpoints of a folder by step, the oldest first; those known to be damaged are not."""
    return sorted(folder.glob("step_*.pt"))


def newest_checkpoint(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint that is whole, and what it holds; None if there is no checkpoint.

    Damaged ones that are newer get the suffix `.damaged` and a warning each.

    Raises:
        SnvideoError: if there are checkpoints and all are damaged (none is renamed then), or if one
            cannot be read for another reason.
    """
    damaged: list[tuple[Path, DamagedError]] = []
    for path in reversed(checkpoints(folder)):
        try:
            state = load_checkpoint(path)
        except DamagedError as error:
            damaged.append((path, error))
            continue
        for bad, why in damaged:
            _set_aside(bad)
            log.warning("%s; going on from %s instead", why, path)
        return path, state
    if damaged:
        raise SnvideoError(
            f"all {len(damaged)} checkpoints in {folder} are damaged (the newest: "
            f"{damaged[0][1]}): put back a copy, or delete them to begin anew"
        )
    return None


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint, tensors and plain values only: no code in the file is ever run.

    A file without a checksum beside it, as when it was copied alone, is taken if it can be read.

    Raises:
        DamagedError: if the file is not what was written, or no checkpoint of snvideo.
        SnvideoError: if it is not there or cannot be read for another reason.
    """
    try:
        verified = _verify(path)
    except FileNotFoundError:
        raise SnvideoError(f"no checkpoint at {path}") from None
    except OSError as error:
        # An unreadable sector is damage; a missing permission or too many open files are not.
        kind = DamagedError if error.errno == errno.EIO else SnvideoError
        raise kind(f"cannot read checkpoint {path}: {error.strerror or error}") from error
    # A verified file that cannot be read fails for another reason, such as memory.
    kind = SnvideoError if verified else DamagedError
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever the damage makes its unpickler raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise kind(f"cannot read checkpoint {path}: {reason}") from error
    if not isinstance(state, dict) or not isinstance(state.get("model"), dict):
        raise kind(f"{path} is not a checkpoint of snvideo: it has no 'model'")
    return state


def evaluated_weights(state: dict[str, Any]) -> dict[str, Any]:
    """The weights of a checkpoint that are tested: the EMA, where the run has one."""
    averaged = state.get("ema")
    return state["model"] if averaged is None else averaged


def load_weights(
    model: torch.nn.Module, state: dict[str, Any], path: Path, averaged: bool = False
) -> None:
    """Put a checkpoint's weights and statistics into a model, strictly.

    Args:
        model: takes them.
        state: of the checkpoint.
        path: of the checkpoint, for messages.
        averaged: take `evaluated_weights` instead of those that are trained on.

    Raises:
        SnvideoError: if class count, architecture or norm differ, saying which.
    """
    weights = evaluated_weights(state) if averaged else state["model"]
    own = model.state_dict()
    missing, extra = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    shapes = [n for n in own.keys() & weights.keys() if own[n].shape != weights[n].shape]
    head = [name for name in shapes if name.endswith(("proj.weight", "proj.bias"))]
    if head and len(head) == len(shapes) and not missing and not extra:
        raise SnvideoError(
            f"{path} was trained for {len(weights[head[0]])} classes, the index has "
            f"{len(own[head[0]])}: use the index that it was trained with"
        )
    kinds = {"missing": missing, "unexpected": extra, "of other shape": shapes}
    parts = [f"{len(names)} {k} (such as {min(names)})" for k, names in kinds.items() if names]
    if parts:
        raise SnvideoError(f"{path} holds another model or norm: tensors {', '.join(parts)}")
    model.load_state_dict(weights)


# Checksums -----------------------------------------------------------------------------------


def _checksum(path: Path) -> Path:
    """Path of a checkpoint's checksum, in the format of the program sha256sum."""
    return path.with_name(f"{path.name}.sha256")


def _checksum_lines(path: Path) -> list[str]:
    try:
        return _checksum(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []


def _verify(path: Path) -> bool:
    """Verify a file by its checksum; False if it has none.

    Raises:
        DamagedError: if it does not agree.
        OSError: if either file cannot be read.
    """
    with path.open("rb") as file:
        if not _checksum(path).exists():
            return False
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if all(line.split()[:1] != [digest] for line in _checksum_lines(path)):
        raise DamagedError(f"{path} is damaged: its checksum differs from {_checksum(path).name}")
    return True


# Writing -------------------------------------------------------------------------------------


def _save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint, if need be at the cost of older ones."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        _write(path, state)
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        removed = make_room(path.parent)
        log.warning(
            "no room to write %s (%s): removed %d older checkpoints, trying once more",
            path,
            error.strerror,
            removed,
        )
        _write(path, state)


def _write(path: Path, state: dict[str, Any]) -> None:
    """Write a file beside its place, then its checksum, and move it there.

    A file in place thus always has its checksum. While one is replaced, its checksum file has the
    lines of both.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        line = f"{_write_partial(partial, state)}  {path.name}\n"
        replaced = [f"{old}\n" for old in _checksum_lines(path)] if path.exists() else []
        write_atomic(_checksum(path), "".join([line, *replaced]))
        partial.replace(path)
        sync_folder(path.parent)
        if replaced:
            write_atomic(_checksum(path), line)
    except BaseException:
        partial.unlink(missing_ok=True)
        if not path.exists():
            _checksum(path).unlink(missing_ok=True)
        raise


def _write_partial(partial: Path, state: dict[str, Any]) -> str:
    """Write a file and sync it to the disk; returns its SHA-256."""
    with partial.open("wb") as file:
        hashed = _HashedFile(file)
        try:
            torch.save(state, cast(BinaryIO, hashed))
        except RuntimeError:  # of the end of torch's archive, which it still tries to write
            if hashed.error is not None:
                raise hashed.error from None
            raise
        file.flush()
        os.fsync(file.fileno())
    return hashed.digest()


# Removing ------------------------------------------------------------------------------------


def _is_sound(path: Path) -> bool:
    try:
        load_checkpoint(path)
    except SnvideoError:
        return False
    return True


def _remove(path: Path) -> None:
    """Remove a checkpoint and its checksum; if that fails, the run goes on."""
    try:
        path.unlink(missing_ok=True)
        _checksum(path).unlink(missing_ok=True)
    except OSError as error:
        log.warning("cannot remove %s: %s", path, error.strerror or error)


def _remove_leftovers(folder: Path) -> None:
    """Remove partial files and orphaned checksums of a run that was killed while writing."""
    for pattern in ("step_*.partial", f"{BEST}*.partial"):
        for path in folder.glob(pattern):
            _remove(path)
    for pattern in ("step_*.pt.sha256", f"{BEST}.sha256", ".step_*.sha256", f".{BEST}.*.sha256"):
        for path in folder.glob(pattern):
            if not path.with_suffix("").exists():
                _remove(path)


def _set_aside(path: Path) -> None:
    """Rename a damaged file and its checksum."""
    try:
        path.replace(path.with_name(f"{path.name}.damaged"))
        checksum = _checksum(path)
        if checksum.exists():
            checksum.replace(checksum.with_name(f"{checksum.name}.damaged"))
    except OSError as error:
        log.warning("cannot rename %s: %s", path, error.strerror or error)
