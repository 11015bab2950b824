"""Contact sheets: the clips of a training batch, a video's test views, and a prediction.

Text is set in a font whose characters are equally wide, so what fits is known before it is drawn.
"""

import io
import textwrap
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from snvideo.data.index import Video
from snvideo.data.sampling import Crop
from snvideo.report.style import BLUE, GREEN, MUTED, PALE, VERMILLION
from snvideo.text import shorten

CLIPS, FRAMES = 12, 8
"""Most clips of a sheet, and most frames of a clip."""
CROP_COLOURS = (VERMILLION, BLUE, GREEN)

_SIZE, _LINE = 12, 16
"""Of the font, and height of a line of text."""
_CHARACTER = 0.603 * _SIZE
"""Width of a character in pixels."""
_MARGIN, _GAP = 12, 6
_TILE, _VIEW, _WHOLE = 160, 120, 320
"""Most pixels along the long side of a frame of a clip, a test view, and a whole frame."""
_TEXT = 32
"""Characters of a line beside a clip."""
_COLUMNS = 10
"""Clips of a video beside each other; more begin a new block of rows."""
_LANE = 14
"""Height of a clip's bar on the time axis."""
_BAR = 240
"""Pixels of a probability of 1."""


def clip_sheet(
    clips: Tensor,
    names: Sequence[str],
    notes: Sequence[str],
    labels: Sequence[str],
    frames: Sequence[Sequence[int]] | None = None,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> bytes:
    """A PNG of training clips, a row each: label, file and note, and frames spread over the clip.

    Shows the first 12 clips and at most 8 frames of each, the first and the last among them. Small
    frames are enlarged by whole factors, so that their pixels can be seen.

    Args:
        clips: uint8 (N, T, 3, H, W), or the network's float input (N, 3, T, H, W).
        names: of the N files.
        notes: remarks on each, as `mirrored`; empty for none.
        labels: names of the N labels.
        frames: frame numbers in the video, N of T each.
        mean, std: of the normalization of a float input.

    Raises:
        ValueError: if there are not N of each, or a float input comes without mean and std.
    """
    if clips.dtype != torch.uint8:
        if mean is None or std is None:
            raise ValueError("a float input needs mean and std to be shown")
        scale, shift = (torch.tensor(v, device=clips.device)[:, None, None] for v in (std, mean))
        clips = (clips.transpose(1, 2).float() * scale + shift) * 255
        clips = clips.round().clamp(0, 255).to(torch.uint8)
    count, length, _, height, width = clips.shape
    numbers = [()] * count if frames is None else frames
    rows = list(zip(clips, names, notes, labels, numbers, strict=True))[:CLIPS]
    shown = np.linspace(0, length - 1, min(length, FRAMES)).round().astype(int).tolist()
    tiles = [[_tile(frame, _TILE) for frame in clip[shown]] for clip, *_ in rows]

    left = _MARGIN + round(_TEXT * _CHARACTER) + _MARGIN
    above = 0 if frames is None else _LINE
    texts = [_beside(label, name, note) for _, name, note, label, _ in rows]
    heights = [max(above + tiles[0][0].height, _LINE * len(text)) + _MARGIN for text in texts]
    pitch = tiles[0][0].width + _GAP
    sheet, draw = _blank(left + len(shown) * pitch + _MARGIN, 2 * _MARGIN + _LINE + sum(heights))
    title = f"{len(rows)} of {count} clips, {len(shown)} of {length} frames each"
    _write(draw, (_MARGIN, _MARGIN), f"{title}, {width} x {height}", MUTED)
    y = _MARGIN + _LINE + _MARGIN
    for row, text, row_tiles, row_height in zip(rows, texts, tiles, heights, strict=True):
        for number, (line, colour, bold) in enumerate(text):
            _write(draw, (_MARGIN, y + number * _LINE), line, colour, bold)
        for column, tile in enumerate(row_tiles):
            x = left + column * pitch
            if frames is not None:
                _write(draw, (x, y), str(int(row[-1][shown[column]])), MUTED)
            sheet.paste(tile, (x, y + above))
        y += row_height
    return _png(sheet)


def view_sheet(
    views: Tensor,
    numbers: np.ndarray,
    video: Video,
    label: str,
    crops: Sequence[Crop],
    frame: np.ndarray | None = None,
) -> bytes:
    """A PNG of all test views of a video: their places in time and frame, and their content.

    A column is a clip and a row a crop; of each view it shows the middle frame.

    Args:
        views: uint8 (clips * crops, T, 3, H, W), all crops of the first clip first.
        numbers: int64 (clips, T), frame numbers in the video.
        video: its name, frames and rate.
        label: name of its label.
        crops: squares of the whole frame, in its pixels.
        frame: uint8 (height, width, 3), a whole frame to draw the crops on.

    Raises:
        ValueError: if there are not clips * crops views.
    """
    clips, length = numbers.shape
    if len(views) != clips * len(crops):
        raise ValueError(f"{len(views)} views are not {clips} clips x {len(crops)} crops")
    middle = length // 2
    tiles = [_tile(view, _VIEW) for view in views[:, middle]]
    whole = None if frame is None else _with_crops(frame, crops)

    titles = [f"{k + 1}: {n / video.fps:.2f} s" for k, n in enumerate(numbers[:, middle])]
    pitch = max(tiles[0].width + _GAP, round((max(map(len, titles)) + 1) * _CHARACTER))
    row = tiles[0].height + _GAP
    top = _MARGIN + 3 * _LINE + _MARGIN
    grid = top + max(clips * _LANE + 2 * _LINE, whole.height if whole else 0) + _MARGIN
    block = _LINE + _GAP + len(crops) * row + _MARGIN
    width = max(_MARGIN + min(clips, _COLUMNS) * pitch + _MARGIN, 840)
    sheet, draw = _blank(width, grid + -(-clips // _COLUMNS) * block)

    conditions = (
        f"{video.frames} frames at {video.fps:.5g} fps; clips {clips} x {length} frames, "
        f"crops {len(crops)}, each {views.shape[-1]} x {views.shape[-2]}; orange: frame shown"
    )
    for line, text in enumerate((label, video.name, conditions)):
        text = shorten(text, int((width - 2 * _MARGIN) / _CHARACTER))
        _write(draw, (_MARGIN, _MARGIN + line * _LINE), text, MUTED if line else "black", not line)
    left = _MARGIN
    if whole is not None:
        sheet.paste(whole, (left, top))
        left += whole.width + _MARGIN
    _draw_times(draw, numbers, video, left, top, width - _MARGIN)
    for view, tile in enumerate(tiles):
        clip, crop = divmod(view, len(crops))
        x, y = _MARGIN + clip % _COLUMNS * pitch, grid + clip // _COLUMNS * block
        if crop == 0:
            _write(draw, (x, y), titles[clip])
        y += _LINE + _GAP + crop * row
        sheet.paste(tile, (x, y))
        _outline(draw, (x - 2, y - 2, x + tile.width + 2, y + tile.height + 2), crop)
    return _png(sheet)


def prediction_sheet(
    frames: Tensor,
    seconds: Sequence[float],
    name: str,
    classes: Sequence[str],
    probabilities: Sequence[float],
) -> bytes:
    """A PNG of at most 8 frames, spread over the time of those given, and of the best classes.

    Args:
        frames: uint8 (F, 3, H, W).
        seconds: presentation times of the F frames, ascending.
        name: of the video.
        classes: the best first.
        probabilities: of these classes.
    """
    times = np.linspace(seconds[0], seconds[-1], FRAMES)
    shown = np.unique(np.abs(np.asarray(seconds)[:, None] - times).argmin(0)).tolist()
    tiles = [_tile(frames[i], _TILE) for i in shown]
    pitch = max(tiles[0].width, round(8 * _CHARACTER)) + _GAP
    width = max(2 * _MARGIN + len(tiles) * pitch - _GAP, 640)
    below = _MARGIN + 2 * _LINE + tiles[0].height + _MARGIN
    sheet, draw = _blank(width, below + len(classes) * _LINE + _MARGIN)
    title = shorten(name, int((width - 2 * _MARGIN) / _CHARACTER))
    _write(draw, (_MARGIN, _MARGIN), title, bold=True)
    for column, (tile, i) in enumerate(zip(tiles, shown, strict=True)):
        x, y = _MARGIN + column * pitch, _MARGIN + _LINE
        _write(draw, (x, y), f"{seconds[i]:.2f} s", MUTED)
        sheet.paste(tile, (x, y + _LINE))
    left = _MARGIN + _BAR + _GAP
    letters = int((width - left - _MARGIN) / _CHARACTER) - len("100.0 %  ")
    for rank, (label, probability) in enumerate(zip(classes, probabilities, strict=True)):
        y = below + rank * _LINE
        bar = (_MARGIN, y + 2, _MARGIN + _BAR - 1, y + _LINE - 4)
        draw.rectangle(bar, "#EEEEEE")
        if filled := round(_BAR * probability):
            draw.rectangle((*bar[:2], _MARGIN + filled - 1, bar[3]), PALE if rank else BLUE)
        line = f"{100 * probability:5.1f} %  {shorten(label, letters)}"
        _write(draw, (left, y), line, MUTED if rank else "black", not rank)
    return _png(sheet)


@cache
def _font(bold: bool) -> ImageFont.FreeTypeFont:
    """The font that comes with matplotlib."""
    name = "DejaVuSansMono-Bold.ttf" if bold else "DejaVuSansMono.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", name), _SIZE)


def _write(
    draw: ImageDraw.ImageDraw,
    place: tuple[float, float],
    text: str,
    colour: str = "black",
    bold: bool = False,
    anchor: str = "la",
) -> None:
    draw.text(place, text, colour, _font(bold), anchor)


def _tile(frame: Tensor | np.ndarray, most: int) -> Image.Image:
    """A frame whose long side is at most so many pixels, and more than half as many.

    Args:
        frame: uint8, tensor (3, H, W) or array (H, W, 3).
        most: pixels along the long side.
    """
    if isinstance(frame, Tensor):
        frame = frame.permute(1, 2, 0).cpu().numpy()
    image = Image.fromarray(frame)
    factor = most / max(image.size)
    if factor >= 1:
        return image.resize([side * int(factor) for side in image.size], Image.Resampling.NEAREST)
    return image.resize([max(1, round(side * factor)) for side in image.size])


def _blank(width: int, height: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    sheet = Image.new("RGB", (max(width, 480), height), "white")
    return sheet, ImageDraw.Draw(sheet)


def _png(sheet: Image.Image) -> bytes:
    buffer = io.BytesIO()
    sheet.save(buffer, format="png")
    return buffer.getvalue()


def _beside(label: str, name: str, note: str) -> list[tuple[str, str, bool]]:
    """Lines beside a clip: text, colour, and True if it is bold."""

    def wrap(text: str, most: int) -> list[str]:
        text = shorten(text, most * _TEXT)
        return textwrap.wrap(text, _TEXT, max_lines=most, placeholder="…")

    name = shorten(name, 3 * _TEXT)
    lines = [(line, "black", True) for line in wrap(label, 2)]
    lines += [(name[i : i + _TEXT], MUTED, False) for i in range(0, len(name), _TEXT)]
    return lines + [(line, VERMILLION, False) for line in wrap(note, 4)]


def _with_crops(frame: np.ndarray, crops: Sequence[Crop]) -> Image.Image:
    image = _tile(frame, _WHOLE)
    draw, scale = ImageDraw.Draw(image), image.width / frame.shape[1]
    for crop, (top, left, side) in enumerate(crops):
        _outline(draw, [scale * v for v in (left, top, left + side, top + side)], crop)
        # numbers beside each other, for crops of a square frame lie on each other
        place = (scale * left + 6 + 2 * _CHARACTER * crop, scale * top + 4)
        colour = CROP_COLOURS[crop % 3]
        draw.text(place, str(crop + 1), colour, _font(True), stroke_width=2, stroke_fill="white")
    return image


def _outline(draw: ImageDraw.ImageDraw, corners: Sequence[float], crop: int) -> None:
    """Two pixels in the crop's colour, just inside left, top, right and bottom."""
    left, top, right, bottom = corners
    draw.rectangle((left, top, right - 1, bottom - 1), outline=CROP_COLOURS[crop % 3], width=2)


def _draw_times(
    draw: ImageDraw.ImageDraw, numbers: np.ndarray, video: Video, left: int, top: int, right: int
) -> None:
    """A time axis over the whole video, a bar for each clip, in it a line for each frame."""
    left, right = left + round(5 * _CHARACTER), right - round(4 * _CHARACTER)
    scale, bottom = (right - left) / video.frames, top + len(numbers) * _LANE
    for part in np.linspace(0, video.frames, 5):
        x = left + part * scale
        draw.line((x, top, x, bottom + 4), "#DDDDDD")
        _write(draw, (x, bottom + 6), f"{part / video.fps:.4g} s", MUTED, anchor="ma")
    for clip, frames in enumerate(numbers):
        y = top + clip * _LANE
        first, last = left + frames[0] * scale, left + (frames[-1] + 1) * scale
        _write(draw, (left - _CHARACTER, y), str(clip + 1), anchor="ra")
        draw.rectangle((first, y + 2, max(first + 1, last - 1), y + _LANE - 3), PALE)
        for x in left + frames * scale:
            draw.line((x, y + 2, x, y + _LANE - 3), BLUE)
        x = left + frames[len(frames) // 2] * scale
        draw.rectangle((x - 1, y, x + 1, y + _LANE - 1), VERMILLION)
    draw.line((left, bottom, right, bottom), MUTED)
