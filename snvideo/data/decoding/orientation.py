"""Orientation of stored pictures: turned and mirrored as their display matrix says.

It is that of a video's first frame: H.264 and HEVC may tell it with each picture, and usually do so
with few. Eight are told apart, by the numbers of EXIF's orientation tag. Of other matrices, which
shear, scale or turn by other angles, the nearest of the eight is taken.
"""

from typing import Any

import numpy as np
from av.video.frame import VideoFrame

ORIENTATIONS = {
    1: "as stored",
    2: "mirrored",
    3: "turned by 180°",
    4: "flipped",
    5: "transposed",
    6: "turned by 90°",
    7: "transposed, turned by 180°",
    8: "turned by 270°",
}
"""EXIF's number -> what is done to a stored picture: mirrored left to right, flipped top to bottom,
turned clockwise."""
_EXACT = 0.01  # part of the matrix's largest number by which others may be off


def orientation(frame: VideoFrame) -> tuple[int, bool]:
    """EXIF's number of a frame's orientation; false if its display matrix asks for more."""
    data: Any = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return 1, True
    # A pixel at (x, y) is shown at (a x + c y, b x + d y), but for a shift.
    (a, b), (c, d) = np.frombuffer(data, np.int32)[:9].reshape(3, 3)[:2, :2].tolist()
    turned = abs(b) + abs(c) > abs(a) + abs(d)
    across, down = (c, b) if turned else (a, d)
    number = {(0, 0): 1, (1, 0): 2, (1, 1): 3, (0, 1): 4}[across < 0, down < 0]
    if turned:
        number = {1: 5, 2: 6, 3: 7, 4: 8}[number]
    largest = max(abs(across), abs(down))
    rest = (a, d) if turned else (b, c)
    off = max(*map(abs, rest), largest - min(abs(across), abs(down)))
    return number, largest > 0 and off <= _EXACT * largest


def stored_size(width: int, height: int, number: int) -> tuple[int, int]:
    """Width and height of stored pictures that are upright at this size; and the other way."""
    return (height, width) if number > 4 else (width, height)


def upright(picture: np.ndarray, number: int) -> np.ndarray:
    """View of a stored picture, (H, W, ...), in the orientation of EXIF's number."""
    if number > 4:
        picture, number = picture.swapaxes(0, 1), number - 4
    return picture[:: -1 if number in (3, 4) else 1, :: -1 if number in (2, 3) else 1]
