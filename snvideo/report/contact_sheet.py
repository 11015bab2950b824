"""Contact sheets: the clips of a training batch as the network gets them, and a video's test views.

Text is set in a font whose characters are equally wide, so what fits is known before it is drawn.
"""

import textwrap
from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.ticker import MaxNLocator
from PIL import Image, ImageDraw
from torch import Tensor

from snvideo.data.index import Video
from snvideo.data.sampling import Crop
from snvideo.report.picture import CHARACTER, font, png, tile
from snvideo.report.style import BLUE, GREEN, MUTED, PALE, VERMILLION
from snvideo.text import shorten

CLIPS, FRAMES = 12, 8
"""Most clips of a sheet, and most frames of a clip."""
CROP_COLOURS = (VERMILLION, BLUE, GREEN)

_SIZE = 12
"""Of the font."""
_CHARACTER = CHARACTER * _SIZE
"""Width of a character in pixels."""
_LINE = 16
"""Height of a line of text."""
_MARGIN, _GAP = 12, 6
_TILE, _VIEW, _WHOLE = 160, 120, 320
"""Most pixels along the long side of a training frame, a test view, and a whole frame."""
_TEXT = 32
"""Characters of a line beside a clip."""
_COLUMNS = 10
"""Clips of a video beside each other; more begin a new block of rows."""
_LANE = 14
"""Height of a clip's bar on the time axis."""


def train_sheet(
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
        notes: what is special about each, as `mirrored`; empty for nothing.
        labels: names of the N labels.
        frames: frame numbers in the video, N of T each.
        mean, std: what a float input was normalized with.

    Raises:
        ValueError: if there are not N of each, or a float input comes without mean and std.
    """
    if clips.dtype != torch.uint8:
        if mean is None or std is None:
            raise ValueError("a float input needs mean and std to be shown")
        clips = clips.transpose(1, 2)
    count, length, _, height, width = clips.shape
    numbers = [()] * count if frames is None else frames
    rows = list(zip(clips, names, notes, labels, numbers, strict=True))[:CLIPS]
    shown = np.linspace(0, length - 1, min(length, FRAMES)).round().astype(int).tolist()
    tiles = [[tile(f, _TILE) for f in _pictures(row[0][shown], mean, std)] for row in rows]

    beside = _MARGIN + round(_TEXT * _CHARACTER) + _MARGIN
    above = 0 if frames is None else _LINE
    texts = [_beside(label, name, note) for _, name, note, label, _ in rows]
    heights = [max(above + tiles[0][0].height, _LINE * len(text)) for text in texts]
    sheet, draw = _blank(
        beside + len(shown) * (tiles[0][0].width + _GAP) + _MARGIN,
        _MARGIN + _LINE + sum(heights) + _MARGIN * (len(rows) + 1),
    )
    title = (
        f"{len(rows)} of {count} clips, {len(shown)} of {length} frames each, {width} x {height}"
    )
    draw.text((_MARGIN, _MARGIN), title, MUTED, font(_SIZE))
    y = _MARGIN + _LINE + _MARGIN
    for row, text, pictures, row_height in zip(rows, texts, tiles, heights, strict=True):
        for number, (line, colour, bold) in enumerate(text):
            draw.text((_MARGIN, y + number * _LINE), line, colour, font(_SIZE, bold))
        for column, picture in enumerate(pictures):
            x = beside + column * (picture.width + _GAP)
            if frames is not None:
                draw.text((x, y), str(int(row[-1][shown[column]])), MUTED, font(_SIZE))
            sheet.paste(picture, (x, y + above))
        y += row_height + _MARGIN
    return png(sheet)


def view_sheet(
    views: Tensor,
    numbers: np.ndarray,
    video: Video,
    label: str,
    crops: Sequence[Crop],
    frame: np.ndarray | None = None,
) -> bytes:
    """A PNG of all test views of a video: where they lie in time and picture, and what they show.

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
    tiles = [tile(view, _VIEW) for view in views[:, middle].permute(0, 2, 3, 1).cpu().numpy()]
    whole = None if frame is None else _with_crops(frame, crops)

    titles = [f"{k + 1}: {n / video.fps:.2f} s" for k, n in enumerate(numbers[:, middle])]
    pitch = max(tiles[0].width + _GAP, round((max(map(len, titles)) + 1) * _CHARACTER))
    width = max(_MARGIN + min(clips, _COLUMNS) * pitch + _MARGIN, 840)
    left = _MARGIN if whole is None else _MARGIN + whole.width + _MARGIN
    strip = clips * _LANE + 2 * _LINE
    top = _MARGIN + 3 * _LINE + _MARGIN
    grid = top + max(strip, 0 if whole is None else whole.height) + _MARGIN
    block = _LINE + _GAP + len(crops) * (tiles[0].height + _GAP) + _MARGIN
    sheet, draw = _blank(width, grid + -(-clips // _COLUMNS) * block)

    letters = int((width - 2 * _MARGIN) / _CHARACTER)
    about = (
        f"{video.frames} frames at {video.fps:.5g} fps; clips {clips} x {length} frames, "
        f"crops {len(crops)}, each {views.shape[-1]} x {views.shape[-2]}; orange: frame shown"
    )
    for line, (text, colour) in enumerate([(label, "black"), (video.name, MUTED), (about, MUTED)]):
        place = (_MARGIN, _MARGIN + line * _LINE)
        draw.text(place, shorten(text, letters), colour, font(_SIZE, bold=not line))
    if whole is not None:
        sheet.paste(whole, (_MARGIN, top))
    _draw_times(draw, numbers, video, left, top, width - _MARGIN)
    for view, picture in enumerate(tiles):
        clip, crop = divmod(view, len(crops))
        x = _MARGIN + clip % _COLUMNS * pitch
        y = grid + clip // _COLUMNS * block
        if crop == 0:
            draw.text((x, y), titles[clip], "black", font(_SIZE))
        y += _LINE + _GAP + crop * (tiles[0].height + _GAP)
        sheet.paste(picture, (x, y))
        _outline(draw, (x - 2, y - 2, x + picture.width + 2, y + picture.height + 2), crop)
    return png(sheet)


def _pictures(
    frames: Tensor, mean: Sequence[float] | None, std: Sequence[float] | None
) -> np.ndarray:
    """Bytes or normalized floats (T, 3, H, W) as uint8 (T, H, W, 3)."""
    if frames.dtype != torch.uint8:
        scale, shift = (torch.tensor(v, device=frames.device)[:, None, None] for v in (std, mean))
        frames = ((frames.float() * scale + shift) * 255).round().clamp(0, 255).to(torch.uint8)
    return frames.permute(0, 2, 3, 1).cpu().numpy()


def _beside(label: str, name: str, note: str) -> list[tuple[str, str, bool]]:
    """Lines beside a clip: text, colour, and whether it is bold."""
    name = shorten(name, 3 * _TEXT)
    lines = [(line, "black", True) for line in _wrap(label, 2)]
    lines += [(name[i : i + _TEXT], MUTED, False) for i in range(0, len(name), _TEXT)]
    return lines + [(line, VERMILLION, False) for line in _wrap(note, 4)]


def _wrap(text: str, most: int) -> list[str]:
    return textwrap.wrap(shorten(text, most * _TEXT), _TEXT, max_lines=most, placeholder="…")


def _blank(width: int, height: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    sheet = Image.new("RGB", (max(width, 480), height), "white")
    return sheet, ImageDraw.Draw(sheet)


def _with_crops(frame: np.ndarray, crops: Sequence[Crop]) -> Image.Image:
    image = tile(frame, _WHOLE)
    draw, scale = ImageDraw.Draw(image), image.width / frame.shape[1]
    for number, (top, left, side) in enumerate(crops):
        corners = [scale * value for value in (left, top, left + side, top + side)]
        _outline(draw, corners, number)
        # one beside the other, for crops of a square frame lie on each other
        place = (corners[0] + 6 + 2 * _CHARACTER * number, corners[1] + 4)
        draw.text(
            place,
            str(number + 1),
            CROP_COLOURS[number % 3],
            font(_SIZE, bold=True),
            stroke_width=2,
            stroke_fill="white",
        )
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
    scale = (right - left) / video.frames
    seconds, bottom = video.frames / video.fps, top + len(numbers) * _LANE
    ticks = MaxNLocator(max(1, (right - left) // 80), steps=[1, 2, 5, 10]).tick_values(0, seconds)
    for tick in ticks[ticks <= seconds]:
        x = left + tick * video.fps * scale
        draw.line((x, top, x, bottom + 4), "#DDDDDD")
        draw.text((x, bottom + 6), f"{tick:.6g} s", MUTED, font(_SIZE), anchor="ma")
    for clip, frames in enumerate(numbers):
        y = top + clip * _LANE
        first, last = left + frames[0] * scale, left + (frames[-1] + 1) * scale
        draw.text((left - _CHARACTER, y), str(clip + 1), "black", font(_SIZE), anchor="ra")
        draw.rectangle((first, y + 2, max(first + 1, last - 1), y + _LANE - 3), PALE)
        for number in frames:
            x = left + number * scale
            draw.line((x, y + 2, x, y + _LANE - 3), BLUE)
        x = left + frames[len(frames) // 2] * scale
        draw.rectangle((x - 1, y, x + 1, y + _LANE - 1), VERMILLION)
    draw.line((left, bottom, right, bottom), MUTED)
