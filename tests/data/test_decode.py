"""The same frame for the same number whichever decoder gives it; reasons, not crashes."""

from pathlib import Path

import numpy as np
import pytest

from snvideo.data.build import build
from snvideo.data.decode import DecodeError, decode
from snvideo.data.index import ClipIndex, Video
from snvideo.data.sources import folders
from tests.data.videos import frame_number, write_video


def video(path: Path, decoder: str, frames: int, **more) -> Video:
    values = {"label": 0, "first_frame": 0, "fps": 25.0, "width": 64, "height": 48, "rotation": 0}
    values |= {"seekable": True, **more}
    return Video(path=path, frames=frames, decoder=decoder, name=path.name, **values)


@pytest.fixture(scope="module")
def numbered(tmp_path_factory) -> Path:
    """A video of 40 frames whose brightness tells their number."""
    path = tmp_path_factory.mktemp("numbered") / "video.mp4"
    write_video(path, 40, fps=25, size=(96, 64))
    return path


@pytest.mark.parametrize("decoder", ["decord", "pyav"])
def test_frames_come_in_the_order_asked_for(numbered, decoder):
    wanted = [30, 0, 7, 7, 39]
    frames = decode(video(numbered, decoder, 40), wanted)
    assert frames.shape == (5, 64, 96, 3) and frames.dtype == np.uint8
    assert [frame_number(frame) for frame in frames] == wanted


def test_decoders_agree_to_the_bit(numbered):
    wanted = list(range(0, 40, 3))
    one, other = (decode(video(numbered, d, 40), wanted) for d in ("decord", "pyav"))
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("decoder", ["decord", "pyav"])
@pytest.mark.parametrize("content", [b"", b"this is not a video", b"\x00" * 5000])
def test_what_is_no_video_is_a_reason(tmp_path, decoder, content):
    path = tmp_path / "bad.mp4"
    path.write_bytes(content)
    with pytest.raises(DecodeError) as error:
        decode(video(path, decoder, 10), [0])
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


@pytest.mark.parametrize("decoder", ["decord", "pyav"])
def test_a_missing_file_and_a_frame_too_far_are_reasons(numbered, tmp_path, decoder):
    with pytest.raises(DecodeError):
        decode(video(tmp_path / "none.mp4", decoder, 10), [0])
    with pytest.raises(DecodeError, match="frame 40 asked for, the file has 40"):
        decode(video(numbered, decoder, 41), [3, 40])


def test_pyav_takes_over_without_decord(numbered, monkeypatch, caplog):
    from snvideo.data import decode as module

    monkeypatch.setitem(__import__("sys").modules, "decord", None)
    module._has_decord.cache_clear()
    caplog.set_level("INFO")
    frames = decode(video(numbered, "decord", 40), [5])
    module._has_decord.cache_clear()
    assert frame_number(frames[0]) == 5
    assert "PyAV decodes every video" in caplog.text


def test_real_clips_decode_as_their_index_says(real_videos, tmp_path):
    """XviD AVIs, of which decord repeats frames: first and last frame exist, none beyond."""
    clips = real_videos / "ut_interaction"
    build(folders(clips), clips, tmp_path / "index.csv", workers=2)
    for split, count in (("train", 83), ("test", 37)):
        index = ClipIndex.load(tmp_path / "index.csv", split)
        assert len(index) == count and len(index.labels) == 6
        for number in range(0, count, 12):
            found = index[number]
            frames = decode(found, [0, found.frames - 1])
            assert frames.shape == (2, found.height, found.width, 3)
            with pytest.raises(DecodeError, match="asked for"):
                decode(found, [found.frames])
