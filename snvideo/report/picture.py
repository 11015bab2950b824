"""What sheets and strips of frames are drawn with."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageFont

CHARACTER = 0.603
"""Width of a character of `font`, all equally wide, as part of its size."""


@cache
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """The font that comes with matplotlib, in which what fits is known before it is drawn."""
    name = "DejaVuSansMono-Bold.ttf" if bold else "DejaVuSansMono.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", name), size)


def tile(picture: np.ndarray, most: int) -> Image.Image:
    """A picture whose long side is at most so many pixels, and more than half as many.

    Small ones are enlarged by whole factors, so that their pixels can be seen.

    Args:
        picture: uint8 (H, W, 3).
        most: pixels along the long side.
    """
    image = Image.fromarray(picture)
    factor = most / max(image.size)
    if factor >= 1:
        return image.resize([side * int(factor) for side in image.size], Image.Resampling.NEAREST)
    return image.resize([max(1, round(side * factor)) for side in image.size])


def png(sheet: Image.Image) -> bytes:
    """A sheet as the content of a PNG file."""
    buffer = io.BytesIO()
    sheet.save(buffer, format="png")
    return buffer.getvalue()
