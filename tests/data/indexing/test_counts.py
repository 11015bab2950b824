"""Frames are counted, not packets; every row that an index gets can be read again."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from snvideo.data.decoding import DecodeError, decode_frames
from snvideo.data.index import ClipIndex, IndexRow, Video, read_rows
from snvideo.data.indexing import probe as probe_module
from snvideo.data.indexing.build import build_index
from snvideo.data.indexing.probe import probe
from snvideo.data.indexing.sources import read_class_folders
from snvideo.data.indexing.summary import summarize_index
from snvideo.data.preparing.reencode import EncodeJob, EncoderSettings, reencode
from tests.data.conftest import Made
from tests.data.decoding.reference import assert_alike, ffmpeg_frames, needs_ffmpeg
from tests.data.streams import (
    element,
    from_start,
    packets,
    remux,
    write,
    write_fields,
    write_matroska,
)
from tests.data.videos import write_video

CHECKS = ("header", "packets", "decode")


def write_open(path: Path) -> Path:
    """A stream whose first ten packets are lost, the key picture among them."""
    source = write(path.with_name(f"whole_{path.name}"), "libx264", {"g": "20", "bf": "2"})
    return remux(source, path, packets(source)[10:])


def write_skipped(path: Path) -> Path:
    """MPEG-4 with packets in between and at the end that hold no picture, as XviD writes them."""
    source = write(path.with_name("whole.mp4"), "mpeg4", {"g": "12"})
    kept = packets(source)
    # Start code, predicted picture, no second gone, marker, time (5 bits), marker, not coded.
    nothing = b"\0\0\1\xb6" + int("01" + "0" + "1" + "00000" + "1" + "0" + "11111", 2).to_bytes(2)
    made = []
    for number, packet in enumerate(kept):
        made.append(packet)
        if number % 20 == 19:
            made.append(av.Packet(nothing))
    return remux(source, path, _timed(made, Fraction(1, 25), 1))


def write_hidden(path: Path, codec: str, shown: int) -> Path:
    """VP8 or VP9 with hidden pictures in packets of their own, made of key pictures by a flag."""
    made = []
    for packet in packets(write(path.with_name(f"all_{path.name}"), codec, {"g": "25"})):
        if packet.is_keyframe:
            content = bytearray(packet)
            content[0] &= ~shown
            made.append(_with_content(packet, bytes(content)))
        made.append(packet)
    assert len(made) > 62
    return remux(path.with_name(f"all_{path.name}"), path, _timed(made, Fraction(1, 1000), 40))


def _timed(made: list[av.Packet], tick: Fraction, distance: int) -> list[av.Packet]:
    for number, packet in enumerate(made):
        packet.pts = packet.dts = distance * number
        packet.time_base = tick
    return made


def _with_content(packet: av.Packet, content: bytes) -> av.Packet:
    made = av.Packet(content)
    made.is_keyframe = packet.is_keyframe
    return made


AV1 = {"preset": "12", "svtav1-params": "lookahead=16:keyint=30"}
OPEN = {"g": "10", "bf": "3", "x264-params": "open-gop=1:b-adapt=0:scenecut=0"}

KINDS: dict[str, Callable[[Path], Path]] = {
    "fields.mp4": lambda path: write_fields(path, 0, 20),
    "fields.mkv": lambda path: write_fields(path, 0, 20),
    "fields.ts": lambda path: write_fields(path, 0, 20),
    "late_fields.mp4": lambda path: write_fields(path, 30, 9),
    "late_fields.mkv": lambda path: write_fields(path, 30, 9),
    "open.mp4": write_open,
    "open.mkv": write_open,
    "open.ts": write_open,
    "skipped.avi": write_skipped,
    "skipped.mp4": write_skipped,
    "skipped.mkv": write_skipped,
    "hidden_vp8.webm": lambda path: write_hidden(path, "libvpx", 0x10),
    "hidden_vp9.webm": lambda path: write_hidden(path, "libvpx-vp9", 0x02),
    "hidden_vp9.mp4": lambda path: write_hidden(path, "libvpx-vp9", 0x02),
    "existing.mp4": lambda path: write(path, "libsvtav1", AV1),
    "existing.mkv": lambda path: write(path, "libsvtav1", AV1),
    "interlaced.mp4": lambda path: write(path, "libx264", {"x264-params": "tff=1"}),
    "interlaced.mpg": lambda path: write(path, "mpeg2video", {"flags": "+ilme+ildct", "bf": "2"}),
}


@pytest.mark.parametrize("name", KINDS)
def test_packets_are_no_frames(made: Made, name: str, monkeypatch) -> None:
    monkeypatch.setattr(probe_module, "FRAMES", 12)  # so that most lies beyond what is tried
    path = made(KINDS[name], name)
    expected = from_start(path)
    last = len(expected) - 1
    for check in CHECKS:
        found = probe(path, check)
        assert (found.status, found.frames) == ("ok", len(expected)), check
        video = Video.of(found, path)
        for wanted in ([last], [last // 2, last // 2 + 1], [0, last // 3]):
            for decoder in found.decoders.split():
                np.testing.assert_array_equal(
                    decode_frames(video, wanted, decoder), expected[wanted]
                )
        with pytest.raises(DecodeError, match="asked for"):
            decode_frames(video, [last + 1])


@needs_ffmpeg
@pytest.mark.parametrize("name", KINDS)
def test_ffmpeg_counts_the_same(made: Made, name: str) -> None:
    path = made(KINDS[name], name)
    shown = ffmpeg_frames(path)
    # At the end newer versions of FFmpeg show the last picture again for a packet without one.
    assert probe(path, "packets").frames - len(shown) == name.startswith("skipped")
    if not name.startswith("interlaced"):  # whose chroma it scales field by field
        assert_alike(decode_frames(path, range(len(shown))), shown)


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
@pytest.mark.parametrize("check", CHECKS)
def test_a_lost_packet_is_no_frame(tmp_path: Path, codec: str, check: str) -> None:
    more = {"x265-params": "log-level=none:bframes=1:keyint=250"} if codec == "libx265" else {}
    source = write(tmp_path / "whole.mp4", codec, {"g": "250", "bf": "1", **more})
    kept = packets(source)
    path = remux(source, tmp_path / "a.mp4", kept[:20] + kept[21:])
    found = probe(path, check)
    assert found.frames == len(from_start(path))


# Times below zero --------------------------------------------------------------------------------


def write_wrapping(path: Path, first: int = -50_000) -> Path:
    """MPEG-TS whose clock, of 33 bits, begins anew after some frames."""
    data = bytearray(write(path, "libx264", {"g": "12", "bf": "2"}).read_bytes())
    (start,) = (min(p.dts for p in packets(path)),)
    for at in range(0, len(data), 188):
        head = data.find(b"\0\0\1\xe0", at, at + 188)
        if head < 0:
            continue
        for place in range(head + 9, head + 9 + 5 * (data[head + 7] >> 6 & 1) + 5, 5):
            old = int.from_bytes(data[place : place + 5])
            time = (old >> 3 & 0x1C0000000) | (old >> 2 & 0x3FFF8000) | (old >> 1 & 0x7FFF)
            time = (time - start + first) % (1 << 33)
            new = old >> 36 << 36 | (time >> 30) << 33 | 1 << 32
            new |= (time >> 15 & 0x7FFF) << 17 | 1 << 16 | (time & 0x7FFF) << 1 | 1
            data[place : place + 5] = new.to_bytes(5)
    path.write_bytes(data)
    return path


def write_early(path: Path) -> Path:
    """Matroska that begins a second before 0."""
    source = write(path.with_name("late.webm"), "libvpx", {"g": "12"})
    blocks = [(40 * k - 1000, p.is_keyframe, bytes(p)) for k, p in enumerate(packets(source))]
    return write_matroska(path, [element("86", b"V_VP8")], blocks)


EARLY: dict[str, Callable[[Path], Path]] = {
    "wraps.ts": write_wrapping,
    "before.ts": lambda path: write_wrapping(path, -5_000_000),
    "a.ts": lambda path: write_video(path, 60, hidden=7, b_frames=2),
    "a.mkv": write_early,
    "a.webm": write_early,
}


@pytest.mark.parametrize("name", EARLY)
def test_frames_before_time_zero_are_shown(made: Made, name: str) -> None:
    path = made(EARLY[name], name)
    expected = from_start(path)
    assert len(expected) == 60
    for check in CHECKS:
        found = probe(path, check)
        assert (found.status, found.first_frame, found.frames) == ("ok", 0, 60)
        video = Video.of(found, path)
        for wanted in ([0], [3, 40], [59]):
            np.testing.assert_array_equal(decode_frames(video, wanted), expected[wanted])


@needs_ffmpeg
@pytest.mark.parametrize("name", EARLY)
def test_ffmpeg_shows_frames_before_time_zero(made: Made, name: str) -> None:
    path = made(EARLY[name], name)
    assert_alike(decode_frames(path, range(60)), ffmpeg_frames(path))


# Rates -------------------------------------------------------------------------------------------


def write_times(path: Path, seconds: list[float], codec: str = "libx264") -> Path:
    """A video whose frames come at certain times."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options={"bf": "0", "g": "12"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for number, time in enumerate(seconds):
            picture = np.full((48, 64, 3), 10 + 4 * (number % 60), np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = round(1000 * time), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


STEADY = [k / 25 for k in range(60)]
TIMES = {
    "jump": [k / 25 + (3600 if k >= 30 else 0) for k in range(60)],
    "jump at once": [k / 25 + (3600 if k else 0) for k in range(60)],
    "late jump": [k / 25 + (3600 if k == 59 else 0) for k in range(60)],
    "jumps": [k / 25 + 100 * (k // 10) for k in range(60)],
    "pauses": [k / 25 + 2 * (k // 25) for k in range(60)],
}


@pytest.mark.parametrize("name", TIMES)
@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_the_rate_is_that_of_the_usual_distance(tmp_path: Path, name: str, ending: str) -> None:
    path = write_times(tmp_path / f"a.{ending}", TIMES[name])
    for check in CHECKS:
        found = probe(path, check)
        assert (found.status, found.frames, found.fps) == ("ok", 60, 25.0)
        assert (found.reason, found.seconds) == ("frames at uneven times", 2.4)


@pytest.mark.parametrize("check", CHECKS)
def test_even_frames_have_no_remark(tmp_path: Path, check: str) -> None:
    rng = np.random.default_rng(0)
    uneven = [(k + rng.uniform(-0.3, 0.3)) / 25 for k in range(1, 61)]
    for times in (STEADY, uneven):
        found = probe(write_times(tmp_path / "a.mp4", times), check)
        assert found.fps == pytest.approx(25.0, rel=0.03) and not found.reason


def test_a_frame_an_hour(tmp_path: Path) -> None:
    found = probe(write_times(tmp_path / "a.mkv", [3600.0 * k for k in range(20)]), "packets")
    assert (found.status, found.fps) == ("ok", 0.001)
    assert found.reason == "less than a frame in 1000 seconds"


def test_every_row_that_is_written_can_be_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    folder = tmp_path / "videos" / "train"
    for number in range(36):
        name = f'{number % 3}, "{number % 2}"\n/{number}.{("mp4", "mkv", "mov", "flv")[number % 4]}'
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        distances = np.exp(rng.uniform(np.log(1e-3), np.log(20_000), rng.integers(1, 9)))
        codec = "flv" if name.endswith("flv") else "mpeg4"
        write_times(folder / name, np.cumsum(distances.round(3)).tolist(), codec)
    listing = read_class_folders(tmp_path / "videos")
    for check in CHECKS:
        out = tmp_path / f"{check}.csv"
        build_index(listing, tmp_path / "videos", out, check=check)
        rows = list(read_rows(out, listing.labels))
        assert [row.path for row in rows] == [row.path for row in listing.rows]
        assert len(ClipIndex.load(out, "train")) == sum(row.status == "ok" for row in rows) > 30
        assert summarize_index(out).usable > 30


def test_a_row_without_a_rate_costs_itself_alone(tmp_path: Path) -> None:
    """Versions before wrote rates that are 0."""
    write_video(tmp_path / "train" / "a" / "a.mp4")
    write_video(tmp_path / "train" / "a" / "b.mp4")
    out = tmp_path / "index.csv"
    build_index(read_class_folders(tmp_path), tmp_path, out)
    out.write_text(out.read_text().replace(",25.0,", ",0.0,", 1))
    assert [video.name for video in ClipIndex.load(out, "train")] == ["train/a/b.mp4"]
    assert summarize_index(out).reasons["broken"] == {"no frame rate": 1}


def test_rows_that_make_no_sense_are_broken(tmp_path: Path, monkeypatch) -> None:
    path = write_video(tmp_path / "a.mp4")
    monkeypatch.setattr(probe_module, "_read", lambda *a: (IndexRow(frames=1 << 40, fps=25), False))
    found = probe(path, "packets")
    assert found.status == "broken" and "frames of a usable video" in found.reason


# Damage ------------------------------------------------------------------------------------------


def damage(path: Path, numbers: range) -> Path:
    """Overwrites the middle of some packets."""
    rng = np.random.default_rng(0)
    data = bytearray(path.read_bytes())
    for packet in packets(path)[numbers.start : numbers.stop : numbers.step]:
        at = packet.pos + packet.size // 3
        data[at : at + packet.size // 3] = rng.bytes(packet.size // 3)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_damaged_pictures_are_remarked(tmp_path: Path, name: str) -> None:
    path = damage(write(tmp_path / name, "libx264", {"g": "10", "bf": "0"}), range(20, 24, 2))
    found = probe(path, "decode")
    assert (found.status, found.frames) == ("ok", 60)
    assert found.reason == "some pictures are damaged"
    assert (found.seekable, found.decoders) == (0, "pyav")


def test_mostly_damaged_videos_are_broken(tmp_path: Path) -> None:
    path = damage(write(tmp_path / "a.mp4", "libx264", {"g": "10", "bf": "0"}), range(60))
    found = probe(path, "decode")
    assert (found.status, found.reason) == ("broken", "most pictures are damaged")


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("part", [0.3, 0.7])
def test_less_than_half_is_broken(tmp_path: Path, check: str, part: float) -> None:
    options = {"g": "10", "bf": "0"}
    path = write(tmp_path / "a.mp4", "libx264", options, {"movflags": "faststart"})
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    found = probe(path, check)
    if part > 0.5:
        assert found.status == "ok" and 30 <= found.frames < 60 and found.reason
    else:
        assert (found.status, found.frames) == ("broken", 0)
        assert found.reason.startswith("less than half of its frames can be decoded")


# Sizes -------------------------------------------------------------------------------------------


def write_sizes(path: Path, codec: str) -> Path:
    """A video whose pictures have another size from the middle on."""
    first = path.with_name(f"first{path.suffix}")
    other = path.with_name(f"other{path.suffix}")
    write_video(first, 15, size=(96, 64), codec=codec, corner=True)
    write_video(other, 15, size=(64, 96), codec=codec, corner=True)
    kept = packets(first) + packets(other)
    if codec == "libx264":  # parameter sets of the second lie in its header
        with av.open(str(other)) as container:
            header = container.streams.video[0].codec_context.extradata
        sets, at = [], 6
        for _ in range(2):
            size = int.from_bytes(header[at : at + 2])
            sets.append(header[at : at + 2 + size])
            at += 2 + size + 1
        front = b"".join(b"\0\0" + one for one in sets)
        kept[15] = _with_content(kept[15], front + bytes(kept[15]))
    return remux(first, path, _timed(kept, Fraction(1, 1000), 40))


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.mp4", "libx264"),
        ("a.mkv", "libx264"),
        ("a.mp4", "libvpx-vp9"),
        ("a.webm", "libvpx-vp9"),
        ("b.webm", "libvpx"),
    ],
)
def test_all_frames_get_the_size_of_the_first(
    tmp_path: Path, monkeypatch, name: str, codec: str
) -> None:
    monkeypatch.setattr(probe_module, "FRAMES", 12)
    path = write_sizes(tmp_path / name, codec)
    for check in CHECKS:
        found = probe(path, check)
        assert (found.status, found.frames, found.width, found.height) == ("ok", 30, 96, 64)
        # The header alone does not tell, and only some first frames are decoded.
        assert found.reason == "frames of different sizes" or check == "header"
        for decoder in ("pyav", "decord"):
            frames = decode_frames(Video.of(found, path), [2, 14, 15, 29], decoder)
            assert frames.shape == (4, 64, 96, 3)
            assert (frames[:, 4:28, 4:44].mean((1, 2, 3)) < 12).all()  # the painted corner
            level = frames[:, 40:, 56:].mean((1, 2, 3))
            np.testing.assert_allclose(level, [18, 66, 10, 66], atol=4)


def test_prepared_videos_have_one_size(tmp_path: Path) -> None:
    path, out = write_sizes(tmp_path / "a.webm", "libvpx-vp9"), tmp_path / "out.mp4"
    *_, last = reencode(EncodeJob(path, out, 1, 25.0), EncoderSettings(preset="ultrafast"))
    found = probe(out, "decode")
    assert (last.state, found.frames, found.width, found.height) == ("done", 30, 96, 64)
    assert found.reason == ""
