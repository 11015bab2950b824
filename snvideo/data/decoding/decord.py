"""Decoding of frames by number with decord, where it is installed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from snvideo.data.watchdog import watched

if TYPE_CHECKING:
    from snvideo.data.index import Video

log = logging.getLogger(__name__)


@cache
def has_decord() -> bool:
    """True if decord is installed; logs once if not."""
    try:
        import decord  # noqa: F401
    except (ImportError, OSError):
        log.info("decord is not installed: PyAV decodes every video")
        return False
    return True


def decode_decord(
    video: Video, wanted: np.ndarray, transform: Callable[[np.ndarray], np.ndarray]
) -> tuple[list[np.ndarray], int]:
    """Decode shown frames of a video; arguments and result as those of `decode_pyav`, but that
    nothing is decoded beyond the end."""
    import decord

    # One reader per clip (memory grows with readers that are kept) and one thread.
    reader = decord.VideoReader(str(video.path), ctx=decord.cpu(0), num_threads=1)
    numbers = wanted + video.first_frame
    inside = numbers[: np.searchsorted(numbers, len(reader))]  # beyond, it may never return
    frames = (reader[number].asnumpy() for number in watched(inside.tolist()))
    return [transform(frame) for frame in frames], len(reader) - video.first_frame
