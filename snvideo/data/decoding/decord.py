"""Decoding of frames by number with decord, where it is installed."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from snvideo.data.watchdog import watched

if TYPE_CHECKING:
    from snvideo.data.index import Video


@cache
def missing_decord() -> str:
    """Reason why decord cannot be used, in a line with what to install; nothing if it can."""
    try:
        import decord  # noqa: F401
    except (ImportError, OSError):
        return "decord is not installed: pip install decord (Linux and Windows, x86-64)"
    return ""


def decode_decord(
    video: Video, wanted: np.ndarray, transform: Callable[[np.ndarray], np.ndarray]
) -> tuple[list[np.ndarray], int]:
    """Decode shown frames of a video; arguments and result as those of `decode_pyav`, but that
    nothing is decoded beyond the end, and that all frames are counted."""
    import decord

    # One reader per clip (memory grows with readers that are kept) and one thread.
    reader = decord.VideoReader(video.source.address(), ctx=decord.cpu(0), num_threads=1)
    numbers = wanted + video.first_frame
    inside = numbers[: np.searchsorted(numbers, len(reader))]  # beyond, it may never return
    frames = (reader[number].asnumpy() for number in watched(inside.tolist()))
    return [transform(frame) for frame in frames], len(reader) - video.first_frame
