"""Small videos whose frames can be told apart, for tests."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

STEP, DISTINCT = 4, 60
"""Grey levels from one frame to the next, and how many frames until the levels come again."""


def write_video(
    path: Path,
    frames: int = 24,
    fps: int = 25,
    size: tuple[int, int] = (64, 48),
    codec: str = "libx264",
    *,
    gop: int = 12,
    b_frames: int = 0,
    pix_fmt: str = "yuv420p",
    rotation: int = 0,
    hidden: int = 0,
    corner: bool = False,
    options: dict[str, str] | None = None,
    mux: dict[str, str] | None = None,
) -> Path:
    """Writes a video whose frame k is a plain grey of level 10 + 4 * (k % 60).

    Args:
        path: its extension chooses the container; folders are made.
        frames: number of frames, hidden ones included.
        fps: frames a second.
        size: width and height in pixels, before rotation.
        codec: FFmpeg's name of an encoder.
        gop: frames from one key frame to the next.
        b_frames: most pictures in a row that refer to later ones.
        pix_fmt: FFmpeg's name of a pixel format.
        rotation: degrees to turn the picture counter-clockwise when it is shown.
        hidden: frames before time 0, which an edit list hides (mp4).
        corner: paint the stored picture's top left quarter black, so that its sides can be told.
        options: more of the encoder's options.
        mux: more of the container's options.

    Returns:
        The path.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    encoder = {"bf": str(b_frames), "sc_threshold": "0", **(options or {})}
    if codec == "libx264":
        encoder = {"crf": "10", "preset": "ultrafast", **encoder}
    if codec == "mpeg4":
        encoder = {"qmin": "1", "qmax": "2", **encoder}
    with av.open(
        str(path), "w", options={"avoid_negative_ts": "disabled", **(mux or {})}
    ) as container:
        stream = container.add_stream(codec, rate=fps, options=encoder)
        stream.width, stream.height = size
        stream.pix_fmt = pix_fmt
        stream.gop_size = gop
        if rotation:
            stream.set_display_rotation(rotation)
        for number in range(frames):
            picture = np.full((size[1], size[0], 3), _level(number), np.uint8)
            if corner:
                picture[: size[1] // 2, : size[0] // 2] = 0
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number - hidden, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def frame_number(picture: np.ndarray) -> int:
    """Which frame a picture (..., 3) is, modulo 60; any crop or size of it will do.

    Not for videos with a painted corner.
    """
    return round((float(picture.mean()) - _level(0)) / STEP)


def _level(number: int) -> int:
    return 10 + STEP * (number % DISTINCT)
