"""Atomic checkpoints with SHA-256 checksums."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
from pathlib import Path
from typing import Any, BinaryIO

import torch

from snvideo.atomic import sync_folder
from snvideo.errors import SnvideoError

log = logging.getLogger(__name__)

BEST = "best.pt"
"""The best weights so far, beside the newest ones."""

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
"""What a write fails with when there is no room left: on the disk, or for this user."""


class DamagedError(SnvideoError):
    """A file that is not what was once written."""


class _HashedFile:
    """A file that is hashed while it is written, and that remembers why it could not be."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._hash = file, hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: bytes | memoryview) -> int:
        try:
            written = self._file.write(data)
        except OSError as error:
            self.error = error
            raise
        self._hash.update(data)
        return written

    def flush(self) -> None:
        self._file.flush()

    def digest(self) -> str:
        """SHA-256 of all that was written, in hexadecimal."""
        return self._hash.hexdigest()


def save_checkpoint(folder: Path, step: int, state: dict[str, Any], keep: int) -> Path:
    """Write `folder/step_<step>.pt` and its checksum, and remove all but the newest `keep`.

    On a full disk, what can be spared of older checkpoints makes room and the write is tried once
    more. A sound checkpoint is always left, if there was one.

    Args:
        folder: made if missing.
        step: optimizer steps done.
        state: tensors and plain values.
        keep: number of checkpoints to leave.

    Returns:
        the path written.

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
    """Write `folder/best.pt` as `save_checkpoint` writes; no number of newer ones displaces it.

    Raises:
        OSError: if it cannot be written; the one before is then still there.
    """
    _save(folder / BEST, state)
    return folder / BEST


def make_room(folder: Path) -> int:
    """Remove all checkpoints by step but the newest sound one, and what is known to be damaged.

    Without a sound one all stay: what can be saved of them is not ours to throw away.

    Returns:
        how many checkpoints were removed.
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
        SnvideoError: if there are checkpoints and all are damaged (nothing is renamed then, and
            nothing begun anew that took days), or if one cannot be read for another reason.
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
        DamagedError: if the file is not what was written, or no checkpoint of ours.
        SnvideoError: if it is not there or cannot be read for another reason.
    """
    try:
        verified = _verify(path)
    except FileNotFoundError:
        raise SnvideoError(f"no checkpoint at {path}") from None
    except OSError as error:
        # An unreadable sector is damage. A missing permission or too many open files are not: they
        # must not cost a run its newest checkpoint.
        kind = DamagedError if error.errno == errno.EIO else SnvideoError
        raise kind(f"cannot read checkpoint {path}: {error.strerror or error}") from error
    # What can't be read though it is as it was written is for another reason, such as memory.
    kind = SnvideoError if verified else DamagedError
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever the damage makes its unpickler raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise kind(f"cannot read checkpoint {path}: {reason}") from error
    if not isinstance(state, dict) or not isinstance(state.get("model"), dict):
        raise kind(f"{path} is not a checkpoint of snvideo: it has no 'model'")
    return state


def evaluated_weights(state: dict[str, Any]) -> dict[str, Any]:
    """The weights of a checkpoint that are tested: averaged over steps, where the run did so."""
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
        averaged: take those that are to be tested, see `evaluated_weights`, not those trained on.

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
    if missing or extra or shapes:
        parts = [
            f"{len(names)} {what} (such as {min(names)})"
            for what, names in (
                ("missing", missing),
                ("unexpected", extra),
                ("of other shape", shapes),
            )
            if names
        ]
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

    A file that is in place thus always has its checksum. One that is replaced has, until the move
    is done, a checksum file with both lines, and either makes it whole.
    """
    partial = _partial(path)
    try:
        digest = _write_partial(partial, state)
        line = f"{digest}  {path.name}"
        replaced = _checksum_lines(path) if path.exists() else []
        _place_text(_checksum(path), [line, *replaced])
        partial.replace(path)
        sync_folder(path.parent)
        if replaced:
            _place_text(_checksum(path), [line])
    except BaseException:
        partial.unlink(missing_ok=True)
        if not path.exists():
            _checksum(path).unlink(missing_ok=True)
        raise


def _write_partial(partial: Path, state: dict[str, Any]) -> str:
    """Write a file that survives a loss of power; returns its SHA-256."""
    with partial.open("wb") as file:
        hashed = _HashedFile(file)
        try:
            torch.save(state, hashed)
        except RuntimeError:
            # torch goes on to write the end of its archive and then complains of that instead.
            if hashed.error is not None:
                raise hashed.error from None
            raise
        file.flush()
        os.fsync(file.fileno())
    return hashed.digest()


def _place_text(path: Path, lines: list[str]) -> None:
    partial = _partial(path)
    try:
        with partial.open("w", encoding="utf-8", newline="") as file:
            file.write("".join(f"{line}\n" for line in lines))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        sync_folder(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def _partial(path: Path) -> Path:
    return path.with_name(f"{path.name}.partial")


# Removing ------------------------------------------------------------------------------------


def _is_sound(path: Path) -> bool:
    try:
        load_checkpoint(path)
    except SnvideoError:
        return False
    return True


def _remove(path: Path) -> None:
    """Remove a checkpoint and its checksum; one that stays costs room, not the run."""
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
    for pattern in ("step_*.pt.sha256", f"{BEST}.sha256"):
        for path in folder.glob(pattern):
            if not path.with_suffix("").exists():
                _remove(path)


def _set_aside(path: Path) -> None:
    """Give a damaged file and its checksum another name; if that fails, it is found again."""
    try:
        path.replace(path.with_name(f"{path.name}.damaged"))
        checksum = _checksum(path)
        if checksum.exists():
            checksum.replace(checksum.with_name(f"{checksum.name}.damaged"))
    except OSError as error:
        log.warning("cannot rename %s: %s", path, error.strerror or error)
