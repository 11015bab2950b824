"""Decoding of frames by number with decord, where it is installed."""

from __future__ import annotations

import logging
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

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


def decode_decord(video: Video, wanted: np.ndarray) -> tuple[np.ndarray, int]:
    """Decode shown frames of a video; arguments and result as those of `decode_pyav`, but that
    there are no pixels if the last frame is beyond the end."""
    import decord

    # One reader per clip (memory grows with readers that are kept) and one thread.
    reader = decord.VideoReader(str(video.path), ctx=decord.cpu(0), num_threads=1)
    numbers = wanted + video.first_frame
    if numbers[-1] >= len(reader):  # asking beyond the end may never return
        found = np.searchsorted(numbers, len(reader))
        return np.empty((found, 0, 0, 3), np.uint8), len(reader) - video.first_frame
    return reader.get_batch(numbers).asnumpy(), len(reader)
