"""A re-encoded video shows the same frames under the same numbers."""

import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from snvideo.data.decoding import decode_frames
from snvideo.data.index import Video
from snvideo.data.indexing.probe import probe
from snvideo.data.preparing.reencode import (
    EncodeJob,
    EncoderSettings,
    reencode,
    scaled_size,
    shown_frames,
)
from snvideo.data.toy import make_toy_kinetics
from tests.data.videos import frame_number, write_video

QUICK = EncoderSettings(preset="ultrafast")


def encode(source: Path, out: Path, settings: EncoderSettings = QUICK) -> tuple[Video, Video]:
    """Re-encodes one file in this process; both as an index would have them."""
    old = probe(source, "decode")
    job = EncodeJob(source, out, old.orientation, old.fps)
    *_, last = reencode(job, settings)
    assert last.state == "done", last
    assert not list(out.parent.glob(".*"))
    return Video.of(old, source), Video.of(probe(out, "decode"), out)


KINDS = {
    "plain.mp4": {"b_frames": 2},
    "hidden.mp4": {"b_frames": 2, "hidden": 7},
    "odd.webm": {"codec": "libvpx-vp9", "size": (65, 47)},
    "mpeg4.avi": {"codec": "mpeg4", "b_frames": 2},
    "ten_bit.mp4": {"pix_fmt": "yuv420p10le"},
    "rgb.mkv": {"codec": "ffv1", "pix_fmt": "bgr0"},
    "turned.mp4": {"rotation": 90},
    "open.mp4": {"b_frames": 3, "options": {"x264-params": "open-gop=1", "preset": "medium"}},
}


@pytest.mark.parametrize("name", KINDS)
def test_frames_keep_their_numbers(tmp_path: Path, name: str) -> None:
    source = write_video(tmp_path / name, 50, fps=30, **KINDS[name])
    old, new = encode(source, tmp_path / "out.mp4", QUICK._replace(short_side=32))
    hidden = KINDS[name].get("hidden", 0)
    assert (old.frames, new.frames, new.fps) == (50 - hidden, 50 - hidden, 30.0)
    numbers = [frame_number(picture) for picture in decode_frames(new, range(new.frames))]
    assert numbers == list(range(hidden, 50))
    assert (new.orientation, new.first_frame, new.seekable) == (1, 0, True)
    assert new.decoders.startswith("pyav decord")
    assert min(new.width, new.height) == 32


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_pictures_are_turned_upright(tmp_path: Path, rotation: int) -> None:
    source = write_video(tmp_path / "a.mp4", 5, size=(96, 64), rotation=rotation, corner=True)
    old, new = encode(source, tmp_path / "out.mp4")
    assert (new.width, new.height) == ((64, 96) if rotation != 180 else (96, 64))
    before, after = (decode_frames(one, range(5)).astype(int) for one in (old, new))
    assert np.abs(before - after).mean() < 1


@pytest.mark.parametrize(
    ("size", "short_side", "expected"),
    [
        ((1920, 1080), 256, (456, 256)),
        ((1080, 1920), 256, (256, 456)),
        ((340, 256), 256, (340, 256)),
        ((320, 180), 256, (320, 180)),
        ((161, 121), 256, (160, 120)),
        ((257, 257), 256, (256, 256)),
        ((640, 360), 225, (400, 224)),
        ((4000, 33), 32, (3878, 32)),
        ((400, 1), 256, (400, 2)),
    ],
)
def test_sizes_are_even_and_never_larger(
    size: tuple[int, int], short_side: int, expected: tuple[int, int]
) -> None:
    assert scaled_size(*size, short_side) == expected


def test_key_frames_lie_where_they_should_and_sound_is_dropped(tmp_path: Path) -> None:
    source = with_sound(write_video(tmp_path / "a.mp4", 50, gop=12, b_frames=2))
    _, new = encode(source, tmp_path / "out.mp4", EncoderSettings(keyframes=8))
    with av.open(str(new.path)) as container:
        assert [stream.type for stream in container.streams] == ["video"]
        packets = [packet for packet in container.demux() if packet.size]
        times = sorted(packet.pts for packet in packets)
    keys = [times.index(packet.pts) for packet in packets if packet.is_keyframe]
    assert keys == [0, 8, 16, 24, 32, 40, 48]
    for number, packet in enumerate(packets):  # closed groups
        later = [other.pts for other in packets[number:]]
        assert not packet.is_keyframe or min(later) == packet.pts
    content = new.path.read_bytes()
    assert 0 < content.index(b"moov") < content.index(b"mdat")


def with_sound(path: Path) -> Path:
    """A copy of a video with a sound track."""
    out = path.with_name("sound.mp4")
    with av.open(str(path)) as old, av.open(str(out), "w") as new:
        copy = new.add_stream_from_template(old.streams.video[0])
        sound = new.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.rate, frame.pts = 8000, 0
        for packet in old.demux(video=0):
            if packet.dts is not None:
                packet.stream = copy
                new.mux(packet)
        new.mux(sound.encode(frame))
        new.mux(sound.encode(None))
    return out


def test_rate_is_the_one_stated(tmp_path: Path) -> None:
    source = write_video(tmp_path / "a.mp4", 10)
    *_, last = reencode(EncodeJob(source, tmp_path / "b.mp4", 0, 29.97), QUICK)
    assert last.state == "done"
    with av.open(str(tmp_path / "b.mp4")) as container:
        assert container.streams.video[0].average_rate == Fraction(2997, 100)


def test_colours_decode_as_before(tmp_path: Path) -> None:
    """Full range becomes limited range, and the matrix stays the one that the file names."""
    options = {"colorspace": "bt709", "color_primaries": "bt709", "color_trc": "bt709"}
    source = write_video(tmp_path / "a.mp4", 60, pix_fmt="yuvj420p", options=options)
    old, new = encode(source, tmp_path / "out.mp4")
    first, second = (next(shown_frames(one.path)) for one in (old, new))
    assert (first.format.name, second.format.name) == ("yuvj420p", "yuv420p")
    assert (first.colorspace, first.color_range, second.color_range) == (1, 2, 1)
    for name in ("colorspace", "color_primaries", "color_trc"):
        assert getattr(first, name) == getattr(second, name) == 1
    means = [decode_frames(one, range(60)).mean((1, 2)) for one in (old, new)]
    assert np.abs(means[0] - means[1]).max() < 2  # of 10 to 246


def test_one_video_gives_the_same_bytes_in_every_call(tmp_path: Path) -> None:
    make_toy_kinetics(tmp_path / "toy", train=8, val=0)
    sources = list((tmp_path / "toy").rglob("*.mp4"))
    assert len(sources) == 8
    for number, source in enumerate(sources):
        copies = [tmp_path / f"{number}_{call}.mp4" for call in range(3)]
        for copy in copies:
            encode(source, copy, EncoderSettings(short_side=54))
        assert len({copy.read_bytes() for copy in copies}) == 1


def test_a_damaged_video_keeps_what_can_be_read(tmp_path: Path) -> None:
    source = write_video(tmp_path / "a.ts", 60, gop=30, size=(128, 96))
    whole = source.read_bytes()
    source.write_bytes(whole[: len(whole) // 2])
    old, new = encode(source, tmp_path / "out.mp4")
    assert 10 < old.frames == new.frames < 60


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"no video", "Invalid data found when processing input"),
        (None, "No such file or directory"),
    ],
)
def test_what_cannot_be_read_fails_with_a_reason_and_leaves_nothing(
    tmp_path: Path, content: bytes | None, reason: str
) -> None:
    source, out = tmp_path / "a.mp4", tmp_path / "out" / "a.mp4"
    if content is not None:
        source.write_bytes(content)
    assert list(reencode(EncodeJob(source, out, 0, 25.0), QUICK)) == [("failed", reason)]
    assert not out.parent.exists()


def test_the_name_appears_when_the_file_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = write_video(tmp_path / "a.mp4", 50), tmp_path / "out" / "a.mp4"
    now = iter(range(1000))
    monkeypatch.setattr(time, "monotonic", lambda: next(now))  # a second at every look
    running = reencode(EncodeJob(source, out, 0, 25.0), QUICK)
    for _ in range(40):
        assert next(running).state == "encoding"
        assert not out.exists()
    assert len(list(out.parent.glob(".a.*.mp4"))) == len(list(out.parent.iterdir())) == 1
    running.close()
    assert not list(out.parent.iterdir())
