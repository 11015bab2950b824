"""Contact sheets show the pixels of the clips they are given, in order, whatever the names."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from snvideo.data import sampling
from snvideo.data.augmentation import to_input
from snvideo.data.config import ClipConfig
from snvideo.data.dataset import cut
from snvideo.data.decoding import decode_frames
from snvideo.data.index import Video
from snvideo.report.contact_sheet import clip_sheet, view_sheet
from tests.data.videos import frame_number, write_video

VIDEO = Video(
    path=Path("/v.mp4"),
    label=0,
    first_frame=0,
    frames=100,
    fps=25.0,
    width=96,
    height=64,
    rotation=0,
    seekable=True,
    decoder="decord",
    name="v.mp4",
)
FRAME = np.full((64, 96, 3), 200, np.uint8)
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
LONG = "train/" + "a_folder_whose_name_never_ends/" * 20 + "\udcff\n漢字.mp4"


def random_clips(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.manual_seed(0))


def opened(png: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(png))
    assert image.format == "PNG"
    return np.asarray(image.convert("RGB"))


def places(sheet: np.ndarray, frame: Tensor, factor: int = 1) -> list[tuple[int, int]]:
    """Top and left of every place where the sheet shows a frame (3, H, W), enlarged."""
    wanted = frame.permute(1, 2, 0).numpy().repeat(factor, 0).repeat(factor, 1)
    height, width, _ = wanted.shape
    corners = np.argwhere((sheet == wanted[0, 0]).all(axis=-1))
    return [
        (int(y), int(x))
        for y, x in corners
        if np.array_equal(sheet[y : y + height, x : x + width], wanted)
    ]


def train(clips: Tensor, **changes) -> np.ndarray:
    number, length = clips.shape[:2]
    given = {"names": ["v.mp4"] * number, "notes": [""] * number, "labels": ["hug"] * number}
    given["numbers"] = [range(length)] * number
    return opened(clip_sheet(to_input(clips, MEAN, STD), MEAN, STD, **{**given, **changes}))


def test_every_pixel_of_a_clip_is_shown_once_in_its_place():
    clips = random_clips(3, 4, 3, 100, 100)
    sheet = train(clips)
    found = [[places(sheet, frame) for frame in clip] for clip in clips]
    assert all(len(place) == 1 for row in found for place in row)
    tops = [{place[0][0] for place in row} for row in found]
    lefts = [[place[0][1] for place in row] for row in found]
    assert all(len(row) == 1 for row in tops) and sorted(tops, key=min) == tops
    assert lefts[0] == lefts[1] == lefts[2] == sorted(set(lefts[0]))
    assert all(right - left >= 100 for left, right in zip(lefts[0], lefts[0][1:], strict=False))


def test_small_frames_are_enlarged_by_a_whole_factor_and_large_ones_fit():
    clips = random_clips(2, 3, 3, 32, 32)
    assert all(len(places(train(clips), frame, 5)) == 1 for clip in clips for frame in clip)
    plain = torch.full((1, 8, 3, 300, 300), 77, dtype=torch.uint8)
    sheet = train(plain)
    columns = np.flatnonzero((sheet == 77).all(axis=-1).any(axis=0))
    assert len(columns) == 8 * 160
    assert sheet.shape[1] < 1600


def test_the_first_clips_and_frames_spread_over_each_are_shown():
    clips = torch.zeros(14, 16, 3, 8, 8, dtype=torch.uint8)
    for clip in range(14):
        for frame in range(16):
            clips[clip, frame] = torch.tensor([255, 10 * clip, 10 * frame])[:, None, None]
    sheet = train(clips)
    seen = sheet[(sheet[..., 0] == 255) & (sheet[..., 2] <= 150)].astype(int)
    frames = [0, 2, 4, 6, 9, 11, 13, 15]
    assert np.unique(seen[:, 1] * 256 + seen[:, 2]).tolist() == [
        10 * clip * 256 + 10 * frame for clip in range(12) for frame in frames
    ]
    row = next(line for line in sheet if (line == (255, 0, 0)).all(axis=-1).any())
    order = [tuple(colour) for colour in row.tolist() if colour[0] == 255 and colour[1] == 0]
    assert list(dict.fromkeys(order)) == [(255, 0, 10 * frame) for frame in frames]


def test_values_beyond_black_and_white_are_clipped():
    inputs = torch.full((1, 3, 2, 100, 100), -99.0)
    png = clip_sheet(inputs, MEAN, STD, ["v.mp4"], [""], ["hug"], [[0, 1]])
    assert len(places(opened(png), torch.zeros(3, 100, 100, dtype=torch.uint8))) == 2


@pytest.mark.parametrize("names", ["names", "notes", "labels"])
def test_there_is_one_of_each_for_every_clip(names):
    with pytest.raises(ValueError, match="zip"):
        train(random_clips(2, 1, 3, 8, 8), **{names: ["one"]})


def text_pixels(sheet: np.ndarray, colour: tuple[int, int, int]) -> tuple[int, int]:
    """Leftmost and rightmost pixel of a colour, which text has where strokes are whole."""
    columns = np.flatnonzero((sheet == colour).all(axis=-1).any(axis=0))
    return int(columns[0]), int(columns[-1])


def test_long_names_stay_beside_the_clip():
    clips = torch.tensor([10, 250, 20], dtype=torch.uint8)[:, None, None].expand(2, 2, 3, 32, 32)
    short = train(clips, notes=["mirrored", ""])
    sheet = train(clips, names=[LONG] * 2, labels=["W" * 300] * 2, notes=["W" * 999, "W " * 400])
    assert sheet.shape == short.shape
    left = text_pixels(sheet, (10, 250, 20))[0]
    for colour in ((0, 0, 0), (0x55, 0x55, 0x55), (0xD5, 0x5E, 0x00)):
        assert left - 40 < text_pixels(sheet[56:200], colour)[1] < left  # beside the first clip
    assert (sheet == (10, 250, 20)).all(axis=-1).sum() == 4 * 160**2


def test_notes_and_frame_numbers_are_written():
    clips = random_clips(1, 2, 3, 100, 100)
    plain, noted = train(clips), train(clips, notes=["mirrored"])
    vermillion = (0xD5, 0x5E, 0x00)
    assert not (plain == vermillion).all(axis=-1).any()
    assert (noted == vermillion).all(axis=-1).sum() > 10
    numbered = train(clips, numbers=[[17, 1234]])
    ((top, left),) = places(numbered, clips[0, 1])
    label = numbered[top - 16 : top, left : left + 29]
    assert (label == 0x55).all(axis=-1).any()  # four characters of seven pixels and a bit
    assert (numbered[top - 16 : top, left + 30 : left + 100] == 255).all()


def view(
    clips: int, crops: int, frame: np.ndarray = FRAME, video: Video = VIDEO, **changes
) -> tuple[Tensor, np.ndarray]:
    views = random_clips(clips * crops, 3, 3, 100, 100)
    numbers = np.linspace(0, 80, clips).astype(np.int64)[:, None] + [0, 8, 16]
    squares = [sampling.Crop(0, 16 * k, 64) for k in range(crops)]
    png = view_sheet(views, numbers, video, changes.get("label", "hug"), squares, frame)
    return views, opened(png)


@pytest.mark.parametrize(("clips", "crops"), [(1, 1), (3, 3), (10, 3), (12, 1)])
def test_the_middle_frame_of_every_view_in_a_grid_of_clips_and_crops(clips, crops):
    views, sheet = view(clips, crops)
    found = [places(sheet, frame) for frame in views[:, 1]]
    assert all(len(place) == 1 for place in found)
    assert not places(sheet, views[0, 0])
    grid = np.array(found).reshape(clips, crops, 2)
    tops, lefts = grid[:, :, 0], grid[:, :, 1]
    assert (lefts == lefts[:, :1]).all()  # a clip's crops below each other
    first = min(clips, 10)
    assert (np.diff(lefts[:first, 0]) >= 100).all() and (np.diff(tops, axis=1) >= 100).all()
    assert (tops[:first] == tops[0]).all()
    if clips > 10:  # a new block below
        assert lefts[10, 0] == lefts[0, 0] and tops[10, 0] >= tops[0].max() + 100


def test_bars_lie_where_the_clips_are():
    _, sheet = view(5, 1)
    pale = (sheet == (0xBF, 0xDC, 0xEC)).all(axis=-1)
    rows = np.flatnonzero(pale.any(axis=1))
    bars = np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1)
    assert len(bars) == 5
    ends = np.array([np.flatnonzero(pale[bar[0]])[[0, -1]] for bar in bars])
    scale = (ends[-1, 1] - ends[0, 0]) / 97  # pixels of a frame: from 0 up to and with 96
    assert scale > 4
    starts = np.linspace(0, 80, 5)
    np.testing.assert_allclose(ends[:, 0] - ends[0, 0], starts * scale, atol=2)
    np.testing.assert_allclose(ends[:, 1] - ends[:, 0], 17 * scale, atol=3)


def test_crops_are_drawn_on_the_whole_frame():
    _, sheet = view(1, 3)
    whole = np.argwhere((sheet == 200).all(axis=-1))
    colours = [(0xD5, 0x5E, 0x00), (0x00, 0x72, 0xB2), (0x00, 0x9E, 0x73)]
    (top, left), bottom = whole.min(axis=0), whole.max(axis=0)[0]
    line = sheet[(top + bottom) // 2, max(0, left - 8) : left + 300]
    sides = [np.flatnonzero((line == colour).all(axis=-1)) for colour in colours]
    origin = sides[0][0]  # 96 pixels are drawn as 288
    for number, side in enumerate(sides):
        drawn = (16 * number * 3, (16 * number + 64) * 3 - 1)
        np.testing.assert_allclose(side[[0, -1]] - origin, drawn, atol=1)


def test_long_names_do_not_widen_a_view_sheet():
    _, plain = view(2, 1)
    _, sheet = view(2, 1, video=VIDEO._replace(name=LONG), label="W" * 500)
    assert sheet.shape == plain.shape
    assert text_pixels(sheet, (0, 0, 0))[1] < sheet.shape[1] - 12


def test_frames_of_a_decoded_video_are_those_that_are_named(tmp_path):
    path = write_video(tmp_path / "v.mp4", 40, size=(96, 64))
    video = VIDEO._replace(path=path, frames=40, decoder="pyav")
    numbers = sampling.clip_frames(ClipConfig(frames=6, stride=7), video.fps, video.frames, 2.0)
    assert numbers.tolist() == [2, 9, 16, 23, 30, 37]
    clip = cut(decode_frames(video, numbers), sampling.Crop(0, 16, 64), 32)[None]
    sheet = train(clip, numbers=[numbers])
    line = sheet[sheet.shape[0] // 2, 256:-20]  # through the row of frames
    tiles = [frame_number(line[80 + 166 * k : 90 + 166 * k]) for k in range(6)]
    assert tiles == numbers.tolist()
