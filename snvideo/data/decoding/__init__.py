"""Frames of videos by number, from PyAV, or from decord or torchcodec for files they show right.

All show the same frame for the same number. Of sound 8-bit 4:2:0 video of even size their pixels
are equal to the bit; of other video they may differ, but in the mean by a level of 256 at most.
"""

import logging
import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import av
import numpy as np

import snvideo
from snvideo.data.decoding.decord import decode_decord, missing_decord
from snvideo.data.decoding.images import decode_images
from snvideo.data.decoding.pyav import decode_pyav
from snvideo.data.decoding.torchcodec import decode_torchcodec, missing_torchcodec
from snvideo.data.index import Video
from snvideo.data.remote import Place, as_place
from snvideo.data.source import Source
from snvideo.data.unusable import Unusable
from snvideo.errors import SnvideoError

log = logging.getLogger(__name__)

Transform = Callable[[np.ndarray], np.ndarray]
Decode = Callable[[Video, np.ndarray, Transform], tuple[list[np.ndarray], int]]
DECODE: dict[str, Decode] = {
    "pyav": decode_pyav,
    "decord": decode_decord,
    "torchcodec": decode_torchcodec,
}
_MISSING = {"decord": missing_decord, "torchcodec": missing_torchcodec}


class DecodeError(Exception):
    """A video that does not give the frames asked for; the message is the reason."""


def missing(decoder: str) -> str:
    """Reason why a decoder cannot be used, in a line with what to install; nothing if it can."""
    return _MISSING[decoder]() if decoder in _MISSING else ""


def software() -> dict[str, Any]:
    """Versions and decoders that the rows of an index depend on, where several machines make it."""
    decoders = [decoder for decoder in DECODE if not missing(decoder)]
    return {"snvideo": snvideo.__version__, "av": av.__version__, "decoders": decoders}


@cache
def warn_of_pyav(decoder: str, trusted: int, videos: int) -> None:
    """Say, once, of how many videos PyAV takes the place of the decoder that was asked for."""
    if reason := missing(decoder):
        log.warning("data.decoder %s: %s; PyAV decodes every video", decoder, reason)
    elif trusted < videos:
        log.warning(
            "data.decoder %s: the index trusts it with %d of %d videos, after trials by 'snvideo "
            "index build --check decode'; PyAV decodes the others",
            *(decoder, trusted, videos),
        )


def decode_frames(
    video: Video | Place | str,
    numbers: Sequence[int] | np.ndarray,
    decoder: str = "pyav",
    transform: Callable[[np.ndarray], np.ndarray] | None = None,
) -> np.ndarray:
    """Decode frames of a video as they are shown.

    Args:
        video: a row of an index; or a file, member of a tar file (`clips.tar/a.mp4`) or image
            sequence (`v/img_*.jpg`), here or behind a URL, which is probed first to number frames.
            Frame 0 is the first *shown* frame, whatever hidden frames the file begins with.
        numbers: of the frames, from 0, in any order; repeats are decoded once.
        decoder: `pyav`; or `decord` or `torchcodec`, used where it is installed and the index
            trusts it with this file, as it may trust torchcodec after the check `decode` alone.
        transform: of every frame as it comes, uint8 RGB (H, W, 3) and upright, by ascending number.
            So large frames that are made smaller are never held together.

    Returns:
        uint8 RGB of shape (len(numbers), H, W, 3), upright; or what `transform` makes of each.

    Raises:
        DecodeError: if the file cannot be opened or does not hold these frames.
        SnvideoError: if a remote file cannot be kept.

    Example:
        >>> from snvideo.data import ClipIndex, decode_frames
        >>> video = ClipIndex.load("toy/index.csv", "train")[0]
        >>> decode_frames(video, [0, 8, 16]).shape == (3, video.height, video.width, 3)
        True
    """
    if not isinstance(video, Video):
        from snvideo.data.indexing.probe import probe  # which reads packets as `pyav` does

        # torchcodec is tried by the check that decodes alone.
        found = probe(Source.of(video), "decode" if decoder == "torchcodec" else "packets")
        if found.status != "ok":
            raise DecodeError(found.reason)
        video = Video.of(found._replace(path=str(video)), as_place(video))
    wanted, inverse = np.unique(np.asarray(numbers, dtype=np.int64), return_inverse=True)
    if not len(wanted) or wanted[0] < 0:
        raise ValueError(f"numbers of frames are one or more from 0 on (got {list(numbers)[:5]})")
    trusted = decoder in video.decoders.split() and not missing(decoder)
    decode = DECODE[decoder if trusted else "pyav"]
    if video.source.is_sequence:
        decode = decode_images
    try:
        decoded, counted = decode(video, wanted, transform or (lambda frame: frame))
    except (DecodeError, SnvideoError):
        raise
    except Unusable as error:
        raise DecodeError(str(error)) from error
    except Exception as error:  # all raise kinds of their own, and others besides
        # Without time and place in decord's or torchcodec's source, and decord's stack trace.
        place = r"^(\[[0-9:]+\] \S+: |\w+, \S+\.cpp:\d+, )"
        line = re.sub(place, "", str(error).strip()).partition("\n")[0]
        raise DecodeError(f"{type(error).__name__}: {line[:200]}".rstrip(": ")) from error
    if len(decoded) < len(wanted):
        raise DecodeError(f"frame {wanted[len(decoded)]} asked for, the file has {counted}")
    frames = np.stack(decoded)
    in_order = len(wanted) == len(inverse) and bool((inverse[1:] > inverse[:-1]).all())
    return frames if in_order else frames[inverse]
