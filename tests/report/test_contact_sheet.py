"""Contact sheets show the clips they are given, in order, whatever the names."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from snvideo.data import sampling
from snvideo.data.config import ClipConfig
from snvideo.data.dataset import cut
from snvideo.data.decoding import decode_frames
from snvideo.data.index import Video
from snvideo.report import contact_sheet
from snvideo.report.contact_sheet import clip_sheet, draw_strip, prediction_sheet, view_sheet
from tests.data.videos import frame_number, write_video

VIDEO = Video(
    path=Path("/v.mp4"),
    label=0,
    first_frame=0,
    frames=100,
    fps=25.0,
    width=96,
    height=64,
    orientation=1,
    seekable=True,
    decoders="pyav decord",
    name="v.mp4",
)
LONG = "train/" + "a_folder_whose_name_never_ends/" * 20 + "\udcff\n漢字 $x$.mp4"


@pytest.fixture
def figures(monkeypatch) -> list[Figure]:
    """The figures that sheets are made of."""
    drawn = []
    real = contact_sheet.new_figure
    monkeypatch.setattr(
        contact_sheet, "new_figure", lambda *given: drawn.append(real(*given)) or drawn[-1]
    )
    return drawn


def strips(figure: Figure, frames: int, width: int) -> list[np.ndarray]:
    """The frames (F, H, W, 3) of each strip of a figure, from top to bottom."""
    gap = max(1, width // 25)
    found = [np.asarray(axes.images[0].get_array()) for axes in figure.axes if axes.images]
    found = [strip for strip in found if strip.shape[1] == frames * (width + gap)]
    return [
        np.stack([strip[:, k * (width + gap) :][:, :width] for k in range(frames)])
        for strip in found
    ]


def opened(png: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(png))
    assert image.format == "PNG" and image.width == 1440
    return image


def train(clips: Tensor, title: str = "hug", numbers: list | None = None) -> Image.Image:
    number, length = clips.shape[:2]
    return opened(clip_sheet(clips, [title] * number, numbers or [range(length)] * number))


def random_clips(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.manual_seed(0))


def test_the_first_clips_and_frames_spread_over_each_are_shown_to_the_bit(figures):
    clips = random_clips(14, 16, 3, 20, 30)
    numbers = [range(100 * k, 100 * k + 16) for k in range(14)]
    opened(clip_sheet(clips, [f"class {k}" for k in range(14)], numbers))
    frames = [0, 2, 4, 6, 9, 11, 13, 15]
    shown = strips(figures[0], 8, 30)
    assert len(shown) == 12
    for clip, strip in zip(clips, shown, strict=False):
        assert np.array_equal(strip, clip[frames].permute(0, 2, 3, 1))
    ticks = [[t.get_text() for t in axes.get_xticklabels()] for axes in figures[0].axes]
    assert ticks == [[str(numbers[k][frame]) for frame in frames] for k in range(12)]
    titles = [axes.get_title(loc="left") for axes in figures[0].axes]
    assert titles == [f"class {k}" for k in range(12)]


def test_long_titles_change_no_size():
    clips = random_clips(2, 2, 3, 32, 32)
    assert train(clips, LONG).size == train(clips).size


def test_frames_are_seen_in_the_picture():
    colours = torch.tensor([[250, 0, 0], [0, 250, 0], [0, 0, 250]], dtype=torch.uint8)
    sheet = np.asarray(train(colours[None, :, :, None, None].expand(1, 3, 3, 32, 32)))[..., :3]
    places = [np.argwhere((sheet == colour.numpy()).all(-1)) for colour in colours]
    assert all(len(place) > 300**2 for place in places)
    assert places[0].max(0)[1] < places[1].min(0)[1] < places[2].min(0)[1]


@pytest.mark.parametrize(("clips", "crops"), [(1, 1), (10, 3)])
def test_views_lie_in_a_grid_of_clips_and_crops(figures, clips, crops):
    views = random_clips(clips * crops, 3, 3, 50, 50)
    numbers = np.linspace(0, 80, clips).astype(np.int64)[:, None] + [0, 8, 16]
    squares = [sampling.Crop(0, 16 * k, 64) for k in range(crops)]
    frame = np.full((64, 96, 3), 200, np.uint8)
    video = VIDEO._replace(name=LONG)
    opened(view_sheet(views, numbers, video, "W" * 500, squares, frame))
    shown = strips(figures[0], clips, 50)
    assert len(shown) == crops
    for crop, strip in enumerate(shown):
        assert np.array_equal(strip, views[crop::crops, 1].permute(0, 2, 3, 1))
    whole, times = figures[0].axes[:2]
    corners = [(box.get_x(), box.get_y(), box.get_width()) for box in whole.patches]
    assert corners == [(16 * k, 0, 64) for k in range(crops)]
    events = [line.get_positions() for line in times.collections]
    np.testing.assert_allclose(events, numbers / 25)
    assert times.get_xlim() == (0, 4)


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (5, 3, [0]),
        (64, 114, [0, 15, 21, 26, 29, 33, 36, 39]),
        (64, 64, [0, 3, 4, 5, 6, 7, 8]),
    ],
)
def test_a_prediction_shows_frames_spread_over_time(figures, height, width, expected):
    count = expected[-1] + 1
    levels = torch.arange(count, dtype=torch.uint8)
    frames = levels[:, None, None, None].expand(count, 3, height, width)
    seconds = np.arange(count) ** 2 / 10  # most frames are early
    opened(prediction_sheet(frames, seconds, LONG, ("a", LONG), (1.0, 0.0)))
    (strip,) = strips(figures[0], len(expected), width)
    assert strip[:, 0, 0, 0].tolist() == expected
    assert [bar.get_width() for bar in figures[0].axes[1].patches] == [1, 0]


def test_frames_of_a_decoded_video_are_those_that_are_named(tmp_path):
    path = write_video(tmp_path / "v.mp4", 40, size=(96, 64))
    video = VIDEO._replace(path=path, frames=40, decoders="pyav")
    numbers = sampling.clip_frames(ClipConfig(frames=6, stride=7), video.fps, video.frames, 2.0)
    assert numbers.tolist() == [2, 9, 16, 23, 30, 37]
    clip = torch.as_tensor(cut(decode_frames(video, numbers), sampling.Crop(0, 16, 64), 32))
    figure = Figure()
    draw_strip(figure.subplots(), clip, [str(number) for number in numbers])
    (strip,) = strips(figure, 6, 32)
    assert [frame_number(picture) for picture in strip] == numbers.tolist()
