"""Frames of a video by number, whichever library decodes them: PyAV, or decord where it is right.

Both show the same frame for the same number. For sound 8-bit 4:2:0 video of even size their
pixels are equal to the bit; of other video they may differ in rounding (odd sizes) or in colour
(10-bit), so the index gives all that decord does not show within a level to PyAV.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from snvideo.data.decoding.pyav import decode_pyav

if TYPE_CHECKING:
    from snvideo.data.index import Video

log = logging.getLogger(__name__)


class DecodeError(Exception):
    """A video that does not give the frames asked for; the message is the reason."""


def decode(video: Video, frames: Sequence[int] | np.ndarray, decoder: str = "pyav") -> np.ndarray:
    """Frames of a video as they are shown.

    Args:
        video: a row of the index. Frame 0 is its first *shown* frame, whatever hidden frames the
            file begins with.
        frames: frame numbers from 0, in any order; repeats are decoded once.
        decoder: `pyav`, or `decord`, which is used where it is installed and the index trusts it
            with this file.

    Returns:
        uint8 RGB of shape (len(frames), H, W, 3), upright.

    Raises:
        DecodeError: if the file cannot be opened or does not hold these frames.
    """
    wanted, inverse = np.unique(np.asarray(frames, dtype=np.int64), return_inverse=True)
    trusted = decoder == "decord" and video.decoder == "decord" and _has_decord()
    try:
        pictures = _with_decord(video, wanted) if trusted else _with_pyav(video, wanted)
    except DecodeError:
        raise
    except Exception as error:  # decord and PyAV raise kinds of their own, and others besides
        raise DecodeError(_first_line(error)) from error
    return pictures if len(wanted) == len(inverse) and _ascend(inverse) else pictures[inverse]


def _ascend(places: np.ndarray) -> bool:
    return bool((places[1:] > places[:-1]).all())


def _first_line(error: Exception) -> str:
    """What an error says, without the native stack trace that decord appends."""
    lines = str(error).strip().splitlines()
    if not lines:
        return type(error).__name__
    line = re.sub(r"^\[[0-9:]+\] \S+: ", "", lines[0])  # decord's clock and place in its source
    return f"{type(error).__name__}: {line[:200]}"


@cache
def _has_decord() -> bool:
    try:
        import decord  # noqa: F401
    except (ImportError, OSError):
        log.info("decord is not installed: PyAV decodes every video")
        return False
    return True


def _with_decord(video: Video, wanted: np.ndarray) -> np.ndarray:
    import decord

    # One reader per clip and one thread: memory grows with readers that are kept, and the loader's
    # workers are the parallelism.
    reader = decord.VideoReader(str(video.path), ctx=decord.cpu(0), num_threads=1)
    numbers = wanted + video.first_frame
    if numbers[-1] >= len(reader):  # asking beyond the end may never return
        raise DecodeError(f"frame {numbers[-1]} asked for, the file has {len(reader)}")
    return reader.get_batch(numbers).asnumpy()


def _with_pyav(video: Video, wanted: np.ndarray) -> np.ndarray:
    pictures, counted = decode_pyav(video, wanted)
    if len(pictures) < len(wanted):
        raise DecodeError(f"frame {wanted[len(pictures)]} asked for, the file has {counted}")
    turned = np.rot90(np.stack(pictures), k=video.rotation // 90, axes=(1, 2))
    return np.ascontiguousarray(turned)  # torch takes no array that runs backwards
