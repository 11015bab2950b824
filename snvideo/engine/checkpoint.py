"""Checkpoints that are either whole or not there."""

import os
from pathlib import Path
from typing import Any

import torch

from snvideo.errors import SnvideoError


def save_checkpoint(folder: Path, step: int, state: dict[str, Any], keep: int) -> Path:
    """Write `folder/step_<step>.pt` in one atomic move and remove all but the newest `keep`.

    Args:
        folder: made if missing.
        step: optimizer steps done.
        state: tensors and plain values.
        keep: number of checkpoints to leave.

    Returns:
        the path written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step_{step:08d}.pt"
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    for old in checkpoints(folder)[:-keep]:
        old.unlink()
    return path


def checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints of a folder, the oldest first."""
    return sorted(folder.glob("step_*.pt"))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint, tensors and plain values only: no code in the file is ever run.

    Raises:
        SnvideoError: if the file is not a checkpoint of ours.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise SnvideoError(f"no checkpoint at {path}") from None
    except Exception as error:  # torch raises whatever the damage makes its unpickler raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise SnvideoError(f"cannot read checkpoint {path}: {reason}") from error
    if not isinstance(state, dict) or "model" not in state:
        raise SnvideoError(f"{path} is not a checkpoint of snvideo: it has no 'model'")
    return state


def load_weights(model: torch.nn.Module, state: dict[str, Any], path: Path) -> None:
    """Put a checkpoint's weights and statistics into a model, strictly.

    Raises:
        SnvideoError: if class count, architecture or norm differ, saying which.
    """
    weights, own = state["model"], model.state_dict()
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
