"""Frames of videos by number, from PyAV, or from decord for the files that it shows right.

Both show the same frame for the same number. Of sound 8-bit 4:2:0 video of even size their pixels
are equal to the bit; of other video they may differ, but in the mean by a level of 256 at most.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from snvideo.data.decoding.decord import decode_decord, has_decord
from snvideo.data.decoding.pyav import decode_pyav
from snvideo.data.index import Video


class DecodeError(Exception):
    """A video that does not give the frames asked for; the message is the reason."""


def decode_frames(
    video: Video | Path | str,
    numbers: Sequence[int] | np.ndarray,
    decoder: str = "pyav",
    transform: Callable[[np.ndarray], np.ndarray] | None = None,
) -> np.ndarray:
    """Decode frames of a video as they are shown.

    Args:
        video: a row of an index, or a file, whose packets are read first to number its frames.
            Frame 0 is the first *shown* frame, whatever hidden frames the file begins with.
        numbers: of the frames, from 0, in any order; repeats are decoded once.
        decoder: `pyav`, or `decord`, which is used where it is installed and the index trusts it
            with this file.
        transform: of every frame as it comes, uint8 RGB (H, W, 3) and upright, by ascending number.
            So large frames that are made smaller are never held together.

    Returns:
        uint8 RGB of shape (len(numbers), H, W, 3), upright; or what `transform` makes of each.

    Raises:
        DecodeError: if the file cannot be opened or does not hold these frames.

    Example:
        >>> from snvideo.data import ClipIndex, decode_frames
        >>> video = ClipIndex.load("toy/index.csv", "train")[0]
        >>> decode_frames(video, [0, 8, 16]).shape == (3, video.height, video.width, 3)
        True
    """
    if not isinstance(video, Video):
        from snvideo.data.indexing.probe import probe  # which reads packets as `pyav` does

        found = probe(Path(video), "packets")
        if found.status != "ok":
            raise DecodeError(found.reason)
        video = Video.of(found._replace(path=str(video)), Path(video))
    wanted, inverse = np.unique(np.asarray(numbers, dtype=np.int64), return_inverse=True)
    trusted = decoder == "decord" and video.decoder == "decord" and has_decord()
    decode = decode_decord if trusted else decode_pyav
    try:
        decoded, counted = decode(video, wanted, transform or (lambda frame: frame))
    except DecodeError:
        raise
    except Exception as error:  # decord and PyAV raise kinds of their own, and others besides
        # Without decord's time and place in its source, and the native stack trace that it appends.
        line = re.sub(r"^\[[0-9:]+\] \S+: ", "", str(error).strip()).partition("\n")[0]
        raise DecodeError(f"{type(error).__name__}: {line[:200]}".rstrip(": ")) from error
    if len(decoded) < len(wanted):
        raise DecodeError(f"frame {wanted[len(decoded)]} asked for, the file has {counted}")
    frames = np.stack(decoded)
    in_order = len(wanted) == len(inverse) and bool((inverse[1:] > inverse[:-1]).all())
    return frames if in_order else frames[inverse]
