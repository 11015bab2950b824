"""A strip of frames of a video, and beneath it what a network says about them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from snvideo.figures import BLUE, MUTED, PALE, shorten

FRAMES = 8
"""Most frames of a strip."""

_FONT_SIZE = 14
_CHARACTER = 0.603 * _FONT_SIZE
"""Width of a character in pixels: all are equally wide."""
_LINE = 20
"""Height of a line of text."""
_MARGIN, _GAP = 12, 6
_TILE = 160
"""Most pixels along the long side of a frame."""
_BAR = 240
"""Pixels of a probability of 1."""
_LEAST = 640
"""Least width of a strip."""


def strip(
    frames: Tensor,
    seconds: Sequence[float],
    name: str,
    classes: Sequence[str],
    probabilities: Sequence[float],
) -> bytes:
    """A PNG of at most 8 frames, spread over the time of those given, and of the best classes.

    Args:
        frames: uint8 (F, 3, H, W).
        seconds: when each of the F is shown, ascending.
        name: of the video.
        classes: the best first.
        probabilities: of these classes.
    """
    shown = _spread(np.asarray(seconds))
    tiles = [_tile(frames[i].permute(1, 2, 0).cpu().numpy()) for i in shown]
    pitch = max(tiles[0].width, round(8 * _CHARACTER)) + _GAP
    width = max(2 * _MARGIN + len(tiles) * pitch - _GAP, _LEAST)
    below = _MARGIN + 2 * _LINE + tiles[0].height + _MARGIN
    sheet = Image.new("RGB", (width, below + len(classes) * _LINE + _MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    letters = int((width - 2 * _MARGIN) / _CHARACTER)
    draw.text((_MARGIN, _MARGIN), shorten(name, letters), "black", _font(bold=True))
    for column, (tile, i) in enumerate(zip(tiles, shown, strict=True)):
        x, y = _MARGIN + column * pitch, _MARGIN + _LINE
        draw.text((x, y), f"{seconds[i]:.2f} s", MUTED, _font())
        sheet.paste(tile, (x, y + _LINE))
    _draw_answers(draw, below, width, classes, probabilities)
    buffer = io.BytesIO()
    sheet.save(buffer, format="png")
    return buffer.getvalue()


def _spread(seconds: np.ndarray) -> list[int]:
    """Which of the frames are nearest to even times, the first and the last among them."""
    times = np.linspace(seconds[0], seconds[-1], FRAMES)
    return np.unique(np.abs(seconds[:, None] - times).argmin(0)).tolist()


def _draw_answers(
    draw: ImageDraw.ImageDraw,
    top: int,
    width: int,
    classes: Sequence[str],
    probabilities: Sequence[float],
) -> None:
    """A line each: a bar, the probability, the class."""
    text = _MARGIN + _BAR + _GAP
    letters = int((width - text - _MARGIN) / _CHARACTER) - len("100.0 %  ")
    for rank, (label, probability) in enumerate(zip(classes, probabilities, strict=True)):
        y = top + rank * _LINE
        left, bottom = _MARGIN, y + _LINE - 5
        draw.rectangle((left, y + 3, left + _BAR - 1, bottom), "#EEEEEE")
        filled = round(_BAR * probability)
        if filled:
            draw.rectangle((left, y + 3, left + filled - 1, bottom), PALE if rank else BLUE)
        line = f"{100 * probability:5.1f} %  {shorten(label, letters)}"
        draw.text((text, y), line, MUTED if rank else "black", _font(bold=not rank))


def _tile(picture: np.ndarray) -> Image.Image:
    """A picture (H, W, 3) made smaller to fit; or larger by a whole factor, to show its pixels."""
    image = Image.fromarray(picture)
    factor = _TILE / max(image.size)
    if factor >= 1:
        return image.resize([side * int(factor) for side in image.size], Image.Resampling.NEAREST)
    return image.resize([max(1, round(side * factor)) for side in image.size])


@cache
def _font(bold: bool = False) -> ImageFont.FreeTypeFont:
    """The font that comes with matplotlib."""
    name = "DejaVuSansMono-Bold.ttf" if bold else "DejaVuSansMono.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", name), _FONT_SIZE)
