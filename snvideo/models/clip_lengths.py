"""Numbers of frames that an exported program takes, found by trying."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

Run = Callable[[Tensor], Tensor]
"""From clips, float32 (N, 3, T, H, W), to logits, (N, classes)."""


class ClipLengths(NamedTuple):
    """The multiples of a number of frames from `least` to `most`; None: there is no end."""

    least: int
    most: int | None
    multiple: int = 1

    def __str__(self) -> str:
        """Such as "multiples of 4 frames from 8"."""
        if self.least == self.most:
            return f"{self.least} frames alone"
        kind = "any number of" if self.multiple == 1 else f"multiples of {self.multiple}"
        return f"{kind} frames from {self.least}" + (f" to {self.most}" if self.most else "")


class DifferentLogitsError(Exception):
    """A program that takes a clip and gives other logits than the network."""


def find_clip_lengths(network: Run, program: Run, clip: Tensor, tolerance: float) -> ClipLengths:
    """Try clips of other lengths than the one that a program was made with.

    Lengths are multiples of the smallest number of frames that the network takes more than the
    given one. The least is the first that program and network take; a program that takes one more
    multiple and twice the given length is taken to have no end.

    Args:
        network: what the program was made of; like the program, it raises some error for what it
            does not take.
        program: the function of a file.
        clip: one of the given length, (1, 3, T, H, W).
        tolerance: largest difference of a logit, see `logit_difference`.

    Raises:
        DifferentLogitsError: if the program takes a length and gives other logits than the network.
    """
    given = clip.shape[2]

    def takes(frames: int) -> bool:
        resized = _with_length(clip, frames)
        found = _try(program, resized)
        expected = None if found is None else _try(network, resized)
        if found is None or expected is None:
            return False
        difference = logit_difference(found, expected)
        if not difference <= tolerance:  # it may be NaN
            raise DifferentLogitsError(
                f"logits of {frames} frames differ by {difference:.1e} of the largest"
            )
        return True

    more = (
        n for n in range(1, given + 1) if _try(network, _with_length(clip, given + n)) is not None
    )
    multiple = next(more, given)
    if given % multiple:  # lengths with an offset: none is known
        return ClipLengths(given, given)
    least = next((n for n in range(multiple, given, multiple) if takes(n)), given)
    endless = takes(given + multiple) and takes(2 * given)
    return ClipLengths(least, None if endless else given, multiple)


def logit_difference(found: Tensor, expected: Tensor) -> float:
    """Largest difference of a logit, relative to the largest of those that are expected."""
    return float((found - expected).abs().max() / expected.abs().max())


def _with_length(clip: Tensor, frames: int) -> Tensor:
    """A clip shortened, or repeated with every frame dimmed, so that no two are the same."""
    repeats = -(-frames // clip.shape[2])
    dimmed = [clip * 0.9**number for number in range(repeats)]
    return torch.cat(dimmed, 2)[:, :, :frames]


def _try(run: Run, clip: Tensor) -> Tensor | None:
    try:
        with torch.inference_mode():
            return run(clip)
    except Exception:  # torch and onnxruntime have many, and no class in common
        return None
