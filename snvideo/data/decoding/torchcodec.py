"""Decoding of frames by number with torchcodec, where it and FFmpeg's libraries are installed."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from snvideo.data.watchdog import watched

if TYPE_CHECKING:
    from snvideo.data.index import Video


@cache
def missing_torchcodec() -> str:
    """Reason why torchcodec cannot be used, in a line with what to install; nothing if it can."""
    try:
        import torchcodec
        from torchcodec.decoders import VideoDecoder  # noqa: F401
    except ModuleNotFoundError:
        return "torchcodec is not installed: pip install 'snvideo[torchcodec]'"
    except (ImportError, OSError, RuntimeError):  # of older versions; later ones say so when used
        loaded = None
    else:
        loaded = torchcodec.ffmpeg_major_version
    if loaded:
        return ""
    return (
        "torchcodec cannot load FFmpeg: install its shared libraries, of a version from 4 to 9 "
        "('apt-get install ffmpeg' or 'conda install ffmpeg'), and the torchcodec of this torch "
        "('pip install --upgrade torchcodec')"
    )


def decode_torchcodec(
    video: Video, wanted: np.ndarray, transform: Callable[[np.ndarray], np.ndarray]
) -> tuple[list[np.ndarray], int]:
    """Decode shown frames of a video; arguments and result as those of `decode_pyav`, but that
    all frames are counted."""
    from torchcodec.decoders import VideoDecoder

    # One reader per clip and one thread, whatever device is torch's default. `exact` reads all
    # packets first: numbers that are reckoned from the frame rate may be wrong.
    reader = VideoDecoder(
        video.source.address(),
        dimension_order="NHWC",
        num_ffmpeg_threads=1,
        device="cpu",
        seek_mode="exact",
    )
    inside = wanted[: np.searchsorted(wanted, len(reader))]
    # Going on to a later frame costs no seek, so one by one is as quick as all together.
    frames = (reader.get_frame_at(number).data.numpy() for number in watched(inside.tolist()))
    return [transform(frame) for frame in frames], len(reader)
