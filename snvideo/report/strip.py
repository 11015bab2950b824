"""A strip of frames of a video, and beneath it what a network says about them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from snvideo.report.picture import CHARACTER, font, png, tile
from snvideo.report.style import BLUE, MUTED, PALE
from snvideo.text import shorten

FRAMES = 8
"""Most frames of a strip."""

_SIZE = 14
"""Of the font."""
_CHARACTER = CHARACTER * _SIZE
"""Width of a character in pixels."""
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
    tiles = [tile(frames[i].permute(1, 2, 0).cpu().numpy(), _TILE) for i in shown]
    pitch = max(tiles[0].width, round(8 * _CHARACTER)) + _GAP
    width = max(2 * _MARGIN + len(tiles) * pitch - _GAP, _LEAST)
    below = _MARGIN + 2 * _LINE + tiles[0].height + _MARGIN
    sheet = Image.new("RGB", (width, below + len(classes) * _LINE + _MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    letters = int((width - 2 * _MARGIN) / _CHARACTER)
    draw.text((_MARGIN, _MARGIN), shorten(name, letters), "black", font(_SIZE, bold=True))
    for column, (picture, i) in enumerate(zip(tiles, shown, strict=True)):
        x, y = _MARGIN + column * pitch, _MARGIN + _LINE
        draw.text((x, y), f"{seconds[i]:.2f} s", MUTED, font(_SIZE))
        sheet.paste(picture, (x, y + _LINE))
    _draw_answers(draw, below, width, classes, probabilities)
    return png(sheet)


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
        draw.text((text, y), line, MUTED if rank else "black", font(_SIZE, bold=not rank))
