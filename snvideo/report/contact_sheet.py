"""Contact sheets: the clips of a training batch, a video's test views, and a prediction.

Text is set in a monospaced font, so that its width is known before it is drawn.
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

# Pixels
_FONT, _LINE, _CHARACTER = 12, 16, 7.236  # height of letters and of a line, width of a character
_MARGIN, _GAP = 12, 6
_TILE, _VIEW, _WHOLE = 160, 120, 320  # long sides of a clip's frame, a test view, a whole frame
_LANE = 14  # height of a clip's bar on the time axis
_BAR = 240  # length of a probability of 1

_TEXT = 32  # characters of a line beside a clip
_COLUMNS = 10  # clips of a video beside each other; more begin a new block of rows


def clip_sheet(
    inputs: Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    names: Sequence[str],
    notes: Sequence[str],
    labels: Sequence[str],
    numbers: Sequence[Sequence[int]],
) -> bytes:
    """A PNG of training clips, a row each: label, file and note, and frames spread over the clip.

    Shows the first 12 clips and at most 8 frames of each, the first and the last among them. Small
    frames are enlarged by whole factors, so that their pixels can be seen.

    Args:
        inputs: float (N, 3, T, H, W), of the network.
        mean, std: of their normalization.
        names: of the N files.
        notes: remarks on each, as `mirrored`; empty for none.
        labels: names of the N labels.
        numbers: frame numbers in the video, N of T each.

    Raises:
        ValueError: if there are not N of each.
    """
    count, _, length, height, width = inputs.shape
    scale, shift = (torch.tensor(v, device=inputs.device)[:, None, None] for v in (std, mean))
    clips = (inputs[:CLIPS].transpose(1, 2).float() * scale + shift) * 255
    clips = clips.round().clamp(0, 255).to(torch.uint8)
    shown = np.linspace(0, length - 1, min(length, FRAMES)).round().astype(int).tolist()
    tiles = [[_tile(frame, _TILE) for frame in clip[shown]] for clip in clips]
    texts = [_beside(*row) for row in zip(labels, names, notes, strict=True)][:CLIPS]

    tile = tiles[0][0]
    left = _MARGIN + round(_TEXT * _CHARACTER) + _MARGIN
    pitch = tile.width + _GAP
    heights = [_LINE + max(tile.height, _LINE * (len(text) - 1)) + _MARGIN for text in texts]
    sheet = _Sheet(left + len(shown) * pitch + _MARGIN, 2 * _MARGIN + _LINE + sum(heights))
    title = f"{len(clips)} of {count} clips, {len(shown)} of {length} frames each"
    sheet.write(_MARGIN, _MARGIN, f"{title}, {width} x {height}", MUTED)
    y = _MARGIN + _LINE + _MARGIN
    for row, text in enumerate(texts):
        for line, (words, colour, bold) in enumerate(text):
            sheet.write(_MARGIN, y + line * _LINE, words, colour, bold)
        for column, frame in enumerate(shown):
            x = left + column * pitch
            sheet.write(x, y, str(int(numbers[row][frame])), MUTED)
            sheet.image.paste(tiles[row][column], (x, y + _LINE))
        y += heights[row]
    return sheet.png()


def view_sheet(
    views: Tensor,
    numbers: np.ndarray,
    video: Video,
    label: str,
    crops: Sequence[Crop],
    frame: np.ndarray,
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
    """
    clips, length = numbers.shape
    middle = length // 2
    tiles = [_tile(view, _VIEW) for view in views[:, middle]]
    whole = _with_crops(frame, crops)

    titles = [f"{k + 1}: {n / video.fps:.2f} s" for k, n in enumerate(numbers[:, middle])]
    pitch = max(tiles[0].width + _GAP, round((max(map(len, titles)) + 1) * _CHARACTER))
    row = tiles[0].height + _GAP
    top = _MARGIN + 3 * _LINE + _MARGIN
    grid = top + max(clips * _LANE + 2 * _LINE, whole.height) + _MARGIN
    block = _LINE + _GAP + len(crops) * row + _MARGIN
    width = max(_MARGIN + min(clips, _COLUMNS) * pitch + _MARGIN, 840)
    sheet = _Sheet(width, grid + -(-clips // _COLUMNS) * block)

    conditions = (
        f"{video.frames} frames at {video.fps:.5g} fps; clips {clips} x {length} frames, "
        f"crops {len(crops)}, each {views.shape[-1]} x {views.shape[-2]}; orange: frame shown"
    )
    for line, text in enumerate((label, video.name, conditions)):
        sheet.write(_MARGIN, _MARGIN + line * _LINE, text, MUTED if line else "black", not line)
    sheet.image.paste(whole, (_MARGIN, top))
    _draw_times(sheet, numbers, video, 2 * _MARGIN + whole.width, top, width - _MARGIN)
    for view, tile in enumerate(tiles):
        clip, crop = divmod(view, len(crops))
        x, y = _MARGIN + clip % _COLUMNS * pitch, grid + clip // _COLUMNS * block
        if crop == 0:
            sheet.write(x, y, titles[clip])
        y += _LINE + _GAP + crop * row
        sheet.image.paste(tile, (x, y))
        _outline(sheet.draw, (x - 2, y - 2, x + tile.width + 2, y + tile.height + 2), crop)
    return sheet.png()


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
    below = _MARGIN + 2 * _LINE + tiles[0].height + _MARGIN
    width = max(2 * _MARGIN + len(tiles) * pitch - _GAP, 640)
    sheet = _Sheet(width, below + len(classes) * _LINE + _MARGIN)
    sheet.write(_MARGIN, _MARGIN, name, bold=True)
    for column, (tile, i) in enumerate(zip(tiles, shown, strict=True)):
        x, y = _MARGIN + column * pitch, _MARGIN + _LINE
        sheet.write(x, y, f"{seconds[i]:.2f} s", MUTED)
        sheet.image.paste(tile, (x, y + _LINE))
    for rank, (label, probability) in enumerate(zip(classes, probabilities, strict=True)):
        y = below + rank * _LINE
        if length := round(_BAR * probability):
            bar = (_MARGIN, y + 2, _MARGIN + length - 1, y + _LINE - 4)
            sheet.draw.rectangle(bar, PALE if rank else BLUE)
        text, colour = f"{100 * probability:5.1f} %  {label}", MUTED if rank else "black"
        sheet.write(_MARGIN + _BAR + _GAP, y, text, colour, not rank)
    return sheet.png()


class _Sheet:
    """A white image to draw on."""

    def __init__(self, width: int, height: int) -> None:
        self.image = Image.new("RGB", (max(width, 480), height), "white")
        self.draw = ImageDraw.Draw(self.image)

    def write(
        self, x: float, y: float, text: str, colour: str = "black", bold: bool = False
    ) -> None:
        """One line of text, from x to the right margin at most."""
        text = shorten(text, int((self.image.width - x - _MARGIN) / _CHARACTER))
        self.draw.text((x, y), text, colour, _font(bold))

    def png(self) -> bytes:
        """The content of a PNG file."""
        buffer = io.BytesIO()
        self.image.save(buffer, format="png")
        return buffer.getvalue()


@cache
def _font(bold: bool) -> ImageFont.FreeTypeFont:
    """The font that comes with matplotlib."""
    name = "DejaVuSansMono-Bold.ttf" if bold else "DejaVuSansMono.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", name), _FONT)


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


def _beside(label: str, name: str, note: str) -> list[tuple[str, str, bool]]:
    """Lines beside a clip: text, colour, and True if it is bold."""
    parts = ((label, 2, "black", True), (name, 3, MUTED, False), (note, 4, VERMILLION, False))
    return [
        (line, colour, bold)
        for text, most, colour, bold in parts
        for line in textwrap.wrap(
            shorten(text, most * _TEXT), _TEXT, max_lines=most, placeholder="…"
        )
    ]


def _with_crops(frame: np.ndarray, crops: Sequence[Crop]) -> Image.Image:
    image = _tile(frame, _WHOLE)
    draw, scale = ImageDraw.Draw(image), image.width / frame.shape[1]
    for crop, (top, left, side) in enumerate(crops):
        _outline(draw, [scale * v for v in (left, top, left + side, top + side)], crop)
    return image


def _outline(draw: ImageDraw.ImageDraw, corners: Sequence[float], crop: int) -> None:
    """Two pixels in the crop's colour, just inside left, top, right and bottom."""
    left, top, right, bottom = corners
    draw.rectangle((left, top, right - 1, bottom - 1), outline=CROP_COLOURS[crop % 3], width=2)


def _draw_times(
    sheet: _Sheet, numbers: np.ndarray, video: Video, left: int, top: int, right: int
) -> None:
    """A time axis over the whole video, a bar for each clip, in it a line for each frame."""
    left, right = left + round(3 * _CHARACTER), right - round(8 * _CHARACTER)
    scale, bottom = (right - left) / video.frames, top + len(numbers) * _LANE
    for part in np.linspace(0, video.frames, 5):
        x = left + part * scale
        sheet.draw.line((x, top, x, bottom + 4), "#DDDDDD")
        sheet.write(x, bottom + 6, f"{part / video.fps:.4g} s", MUTED)
    for clip, frames in enumerate(numbers):
        y = top + clip * _LANE
        first, last = left + frames[0] * scale, left + (frames[-1] + 1) * scale
        sheet.write(left - 3 * _CHARACTER, y, str(clip + 1))
        sheet.draw.rectangle((first, y + 2, max(first + 1, last - 1), y + _LANE - 3), PALE)
        for x in left + frames * scale:
            sheet.draw.line((x, y + 2, x, y + _LANE - 3), BLUE)
        x = left + frames[len(frames) // 2] * scale
        sheet.draw.rectangle((x - 1, y, x + 1, y + _LANE - 1), VERMILLION)
    sheet.draw.line((left, bottom, right, bottom), MUTED)
