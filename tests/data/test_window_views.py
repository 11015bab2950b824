"""Views of windows: to the bit those of the video cut to them, and what is said of odd videos."""

import math
import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from snvideo.data import sampling, window_views
from snvideo.data.config import ClipConfig, TestViewConfig
from snvideo.data.dataset import ViewCut
from snvideo.data.decoding import DecodeError, decode_frames
from snvideo.data.decoding.sequential import DAMAGED, JUMPS, UNTIMED, Clock, SequentialDecoder
from snvideo.data.window_views import read_windows
from tests.data.videos import frame_number, write_video

CLIP = ClipConfig(frames=4, stride=3, target_fps=10)
VIEW = TestViewConfig(short_side=36, crop=32, clips=2, crops=3)


def windows_of(path: Path, window: float = 1.0, step: float = 0.4, view=VIEW):
    return list(read_windows(SequentialDecoder(str(path), 10), window, step, CLIP, view))


def numbers_of(window) -> list[list[int]]:
    """Frame numbers that a window's clips show."""
    return [
        [frame_number(window.views.frames[place].numpy()) for place in clip.tolist()]
        for clip in window.views.clips
    ]


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("plain.mp4", {}),
        ("reordered.mp4", {"b_frames": 2}),
        ("turned.mp4", {"rotation": 90, "corner": True}),
        ("hidden.mp4", {"hidden": 9}),
        ("milliseconds.mkv", {"fps": 30, "b_frames": 2}),
        ("old.avi", {"codec": "mpeg4", "b_frames": 2}),
        ("stream.ts", {"fps": 24}),
        ("free.webm", {"codec": "libvpx-vp9", "size": (80, 48)}),
    ],
)
def test_frames_are_those_of_the_time_cut_out(tmp_path, name, more):
    path = write_video(tmp_path / name, 55, **more)
    fps, shown = more.get("fps", 25), 55 - more.get("hidden", 0)
    found, every = windows_of(path), decode_frames(path, range(shown))
    assert len(found) == math.ceil((Fraction(shown, fps) - 1) / Fraction(2, 5)) + 1
    for window in found:
        begin, end = (math.ceil(edge * fps) for edge in window.span)
        count = min(end, shown) - begin
        latest = sampling.last_start(CLIP, fps, count)
        starts = sampling.even_starts(VIEW.clips, latest)
        numbers = [begin + sampling.clip_frames(CLIP, fps, count, start) for start in starts]
        frames = every[np.concatenate(numbers)]
        cut = ViewCut.of(*frames.shape[1:3], VIEW)
        expected = torch.cat([cut.shown(frame[None]) for frame in frames])
        assert window.frames == count and not window.remark
        assert torch.equal(window.views.frames[window.views.clips.flatten()], expected)
        assert window.views.corners == cut.corners


def test_large_frames_are_made_small_while_they_wait(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.mp4", 60)
    expected = windows_of(path)
    monkeypatch.setattr(window_views, "_HELD", 20_000)  # three of these frames
    for one, other in zip(windows_of(path), expected, strict=True):
        assert torch.equal(one.views.frames, other.views.frames)


def test_the_end_and_short_videos(tmp_path):
    (only,) = windows_of(write_video(tmp_path / "short.mp4", 7), 2, 1)
    assert only.span == (0, Fraction(7, 25)) and only.frames == 7
    (one,) = windows_of(write_video(tmp_path / "one.mp4", 1), 2, 1)
    assert one.frames == 1 and numbers_of(one) == [[0] * 4] * 2
    spans = [window.span for window in windows_of(write_video(tmp_path / "a.mp4", 60), 2, 1)]
    assert spans == [(0, 2), (1, Fraction(12, 5))]
    apart = windows_of(tmp_path / "a.mp4", 0.4, 1)
    assert [tuple(map(float, w.span)) for w in apart] == [(0, 0.4), (1, 1.4), (2, 2.4)]
    assert [window.frames for window in apart] == [10] * 3


def write_at(path: Path, times: list[float]) -> Path:
    """A video whose frame k, as of `write_video`, is shown at a time of its own."""
    plain = write_video(path.with_name("plain.mp4"), len(times))
    with av.open(str(plain)) as source, av.open(str(path), "w") as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        for packet, time in zip(source.demux(video=0), times, strict=False):
            packet.pts = packet.dts = round(time / packet.time_base)
            packet.stream = stream
            out.mux(packet)
    return path


def test_a_variable_rate_gives_the_frames_of_the_times(tmp_path):
    times = [k / 25 for k in range(25)] + [1 + k / 5 for k in range(10)]  # 25 fps, then 5
    found = windows_of(write_at(tmp_path / "variable.mkv", times), 1, 1)
    assert [window.frames for window in found] == [25, 5, 5]
    # 4 frames 0.3 s apart: of the slow part these are frames that are shown 0.2 s each.
    shown = [[times[number] for number in numbers_of(window)[0]] for window in found]
    assert np.diff(shown[0]) == pytest.approx([0.32, 0.28, 0.32], abs=0.05)
    for row in shown[1:]:
        assert abs(np.diff(row) - 0.3).max() <= 0.2 + 1e-6


def test_a_gap_is_windows_without_frames(tmp_path):
    times = [k / 25 for k in range(25)] + [4 + k / 25 for k in range(25)]
    found = windows_of(write_at(tmp_path / "gap.mkv", times), 1, 0.5)
    frames = [window.frames for window in found]
    assert frames == [25, 12, 0, 0, 0, 0, 0, 13, 25]
    assert all(window.views is None for window in found[2:7])
    assert found[1].remark.startswith("no frame for 0.5") and not found[0].remark


def test_a_damaged_middle_is_said_and_the_rest_is_read(tmp_path):
    path = write_video(tmp_path / "a.mp4", 100, gop=10, options={"crf": "1"})
    content = bytearray(path.read_bytes())
    begin = content.index(b"mdat") + (len(content) - content.index(b"mdat")) * 2 // 5
    content[begin : begin + 600] = os.urandom(600)
    path.write_bytes(content)
    found = windows_of(path, 1, 1)
    assert len(found) == 4
    assert any(DAMAGED in window.remark for window in found[1:3])
    assert not found[0].remark and numbers_of(found[3]) == numbers_of(
        windows_of(write_video(tmp_path / "b.mp4", 100, gop=10), 1, 1)[3]
    )


def test_a_cut_off_file_is_said(tmp_path):
    path = write_video(tmp_path / "a.mp4", 100, mux={"movflags": "faststart"})
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    *others, last = windows_of(path, 1, 1)
    assert "the header states 100 frames, the file holds" in last.remark
    assert not any("header" in window.remark for window in others)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"text " * 100, "no video header"), (b"", "no video header"), (None, "No such file")],
)
def test_what_is_no_video_is_a_reason(tmp_path, content, reason):
    path = tmp_path / "a.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DecodeError, match=reason):
        windows_of(path)


def test_the_clock_ascends_whatever_the_stamps_are():
    clock = Clock(10.0)
    stamps = [5, 5.1, 5.1, None, 5.4, 2.0, 2.1, 3.5, 200_000, 200_000.5]
    given = [None if s is None else Fraction(str(s)) for s in stamps]
    found = [clock.time(stamp) for stamp in given]
    assert [float(time) for time, _ in found] == pytest.approx(
        [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 2.0, 2.1, 2.6]
    )
    assert [fault for _, fault in found if fault] == [UNTIMED, UNTIMED, JUMPS, JUMPS]
    counted = Clock(0.0)
    assert [float(counted.time(None)[0]) for _ in range(3)] == pytest.approx([0, 0.04, 0.08])
