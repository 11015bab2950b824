"""Frames of a video by number: decord where it is right, PyAV where it is not."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np
from av.container import InputContainer

if TYPE_CHECKING:
    from snvideo.data.index import Video

log = logging.getLogger(__name__)


class DecodeError(Exception):
    """A video that does not give the frames asked for; the message is the reason."""


def decode(video: Video, frames: Sequence[int] | np.ndarray) -> np.ndarray:
    """Frames of a video as they are shown.

    Args:
        video: a row of the index; its `decoder` names the backend, and frame 0 is its first *shown*
            frame, whatever hidden frames the file begins with.
        frames: frame numbers from 0, in any order; repeats are decoded once.

    Returns:
        uint8 RGB of shape (len(frames), H, W, 3), upright.

    Raises:
        DecodeError: if the file cannot be opened or does not hold these frames.
    """
    wanted, inverse = np.unique(np.asarray(frames, dtype=np.int64), return_inverse=True)
    backend = _BACKENDS[video.decoder if _has_decord() else "pyav"]
    try:
        pictures = backend(video, wanted)
    except DecodeError:
        raise
    except Exception as error:  # decord and PyAV raise kinds of their own, and others besides
        raise DecodeError(_first_line(error)) from error
    return pictures[inverse]


def open_video(path: Path) -> InputContainer:
    """Open a file with PyAV, even if its titles are in another encoding than UTF-8."""
    try:
        return av.open(str(path))
    except UnicodeDecodeError:
        return av.open(str(path), metadata_errors="ignore")


def _first_line(error: Exception) -> str:
    """What an error says, without the native stack trace that decord appends."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


@cache
def _has_decord() -> bool:
    try:
        import decord  # noqa: F401
    except ImportError:
        log.info("decord is not installed: PyAV decodes every video")
        return False
    return True


def _decode_decord(video: Video, wanted: np.ndarray) -> np.ndarray:
    import decord

    # One reader per clip and one thread: memory grows with readers that are kept, and the loader's
    # workers are the parallelism.
    reader = decord.VideoReader(str(video.path), ctx=decord.cpu(0), num_threads=1)
    numbers = wanted + video.first_frame
    if numbers[-1] >= len(reader):  # asking beyond the end may never return
        raise DecodeError(f"frame {numbers[-1]} asked for, the file has {len(reader)}")
    return reader.get_batch(numbers).asnumpy()


def _decode_pyav(video: Video, wanted: np.ndarray) -> np.ndarray:
    """Counts output frames from the start: time stamps cannot be trusted in every file."""
    pictures: list[np.ndarray] = []
    with open_video(video.path) as container:
        stream = container.streams.best("video")
        if stream is None:
            raise DecodeError("no video stream")
        stream.thread_count = 1
        number = -1
        for frame in container.decode(stream):
            if frame.pts is not None and frame.pts < 0:  # hidden by an edit list
                continue
            number += 1
            if number == wanted[len(pictures)]:
                pictures.append(frame.to_ndarray(format="rgb24"))
                if len(pictures) == len(wanted):
                    break
    if len(pictures) < len(wanted):
        raise DecodeError(f"frame {wanted[len(pictures)]} asked for, the file has {number + 1}")
    return np.rot90(np.stack(pictures), k=video.rotation // 90, axes=(1, 2))


_BACKENDS: dict[str, Callable[[Video, np.ndarray], np.ndarray]] = {
    "decord": _decode_decord,
    "pyav": _decode_pyav,
}
