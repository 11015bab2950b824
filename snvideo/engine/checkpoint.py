"""Atomic checkpoints with SHA-256 checksums."""

import hashlib
import io
import logging
from pathlib import Path
from typing import Any

import torch

from snvideo.atomic import atomic_path, write_atomic
from snvideo.errors import SnvideoError

log = logging.getLogger(__name__)

BEST = "best.pt"  # the best weights so far, beside the newest ones


class DamagedError(SnvideoError):
    """A file that is not what was once written."""


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint and its checksum, or raise OSError and leave what was there."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    with atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())
        # A checkpoint never has the checksum of another: for a moment it has none.
        _checksum(path).unlink(missing_ok=True)
    digest = hashlib.sha256(buffer.getbuffer()).hexdigest()
    write_atomic(_checksum(path), f"{digest}  {path.name}\n")


def save_checkpoint(folder: Path, step: int, state: dict[str, Any], keep: int) -> Path:
    """Write `folder/step_<step>.pt` as `write_checkpoint`, and remove all but the newest ones."""
    path = folder / f"step_{step:08d}.pt"
    write_checkpoint(path, state)
    others = [other for other in checkpoints(folder) if other != path]
    stale = others[: max(0, len(others) - (keep - 1))]
    # A run that was killed while writing leaves a checksum without a file.
    sums = folder.glob("*.pt.sha256")
    stale += [file for file in sums if not file.with_suffix("").exists()]
    for old in stale:
        try:
            old.unlink(missing_ok=True)
            _checksum(old).unlink(missing_ok=True)
        except OSError as error:
            log.warning("cannot remove %s: %s", old, error.strerror or error)
    return path


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
            bad.replace(bad.with_name(f"{bad.name}.damaged"))
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
    sums = _checksum(path)
    try:
        with path.open("rb") as file:
            known = sums.read_text(encoding="utf-8", errors="replace") if sums.exists() else None
            if known is not None and hashlib.file_digest(file, "sha256").hexdigest() not in known:
                raise DamagedError(f"{path} is damaged: its checksum differs from {sums.name}")
    except OSError as error:
        raise SnvideoError(f"cannot read checkpoint {path}: {error.strerror or error}") from error
    # A file that is what was written fails for another reason, such as memory.
    kind = DamagedError if known is None else SnvideoError
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever the damage makes its unpickler raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise kind(f"cannot read checkpoint {path}: {reason}") from error
    if not isinstance(state, dict) or not isinstance(state.get("model"), dict):
        raise kind(f"{path} is not a checkpoint of snvideo: it has no 'model'")
    return state


def load_weights(model: torch.nn.Module, weights: dict[str, Any], path: Path) -> None:
    """Put weights and statistics, of the checkpoint at `path`, into a model, strictly.

    Raises:
        SnvideoError: if class count, architecture or norm differ, saying which.
    """
    own = model.state_dict()
    shapes = {n for n in own.keys() & weights.keys() if own[n].shape != weights[n].shape}
    kinds = {"missing": own.keys() - weights.keys(), "unexpected": weights.keys() - own.keys()}
    kinds["of other shape"] = shapes
    other = own.keys() ^ weights.keys() or {n for n in shapes if ".proj." not in n}
    if shapes and not other:
        head = min(shapes)
        raise SnvideoError(
            f"{path} was trained for {len(weights[head])} classes, the index has "
            f"{len(own[head])}: use the index that it was trained with"
        )
    parts = [f"{len(names)} {k} (such as {min(names)})" for k, names in kinds.items() if names]
    if parts:
        raise SnvideoError(f"{path} holds another model or norm: tensors {', '.join(parts)}")
    model.load_state_dict(weights)


def _checksum(path: Path) -> Path:
    """Path of a checkpoint's checksum, in the format of the program sha256sum."""
    return path.with_name(f"{path.name}.sha256")
