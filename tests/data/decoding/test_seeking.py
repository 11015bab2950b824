"""Random access to awkward files: never another frame than that of decoding from the start."""

import re
import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from snvideo.data.decoding import decode_frames
from snvideo.data.index import Video
from snvideo.data.indexing.probe import probe
from tests.data.conftest import Made
from tests.data.decoding.reference import assert_alike, ffmpeg_frames, needs_ffmpeg
from tests.data.streams import (
    FRAMES,
    HEIGHT,
    WIDTH,
    description,
    element,
    encoder,
    from_start,
    packets,
    pictures,
    remux,
    write,
    write_matroska,
    write_mp4,
)

FIRST = {"g": "6", "bf": "0", "x264-params": "cabac=1:8x8dct=1:qp=20:scenecut=0"}
OTHER = {"g": "6", "bf": "0", "x264-params": "cabac=0:8x8dct=0:qp=34:ref=3:scenecut=0"}


def write_joined(path: Path) -> Path:
    """Two encodings, one after the other, the second's parameter sets only at its start."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options=FIRST)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        half = [frame for frame in pictures() if frame.pts < FRAMES // 2]
        packets = [p for frame in (*half, None) for p in stream.encode(frame)]
        second = encoder(OTHER)
        rest = [frame for frame in pictures() if frame.pts >= FRAMES // 2]
        seen = False
        for made in [p for frame in (*rest, None) for p in second.encode(frame)]:
            units = re.split(rb"\x00\x00\x00?\x01", bytes(made))[1:]
            kept = [unit for unit in units if not (seen and unit[0] & 31 in (6, 7, 8))]
            seen = True
            packet = av.Packet(b"".join(b"\0\0\0\1" + unit for unit in kept))
            packet.pts, packet.dts, packet.time_base = made.pts, made.dts, made.time_base
            packet.is_keyframe, packet.stream = made.is_keyframe, stream
            packets.append(packet)
        container.mux(packets)
    return path


def write_lying(path: Path, codec: str) -> Path:
    """An MP4 file whose table calls every seventh frame a key frame."""
    write(path, codec, {"g": "5", "bf": "0", "sc_threshold": "0"})
    data = bytearray(path.read_bytes())
    at = data.find(b"stss")
    number = int.from_bytes(data[at + 8 : at + 12], "big")
    lies = [min(1 + 7 * k, FRAMES) for k in range(number)]
    lies = sorted({*lies})
    data[at + 8 : at + 12] = len(lies).to_bytes(4, "big")
    data[at + 12 : at + 12 + 4 * len(lies)] = b"".join(k.to_bytes(4, "big") for k in lies)
    path.write_bytes(data)
    return path


def write_two_descriptions(path: Path) -> Path:
    """Two encodings in one track, each with a description of its own."""
    made = [write(path.with_name(f"{k}.mp4"), "libx264", o) for k, o in enumerate((FIRST, OTHER))]
    half = FRAMES // 2
    samples = [p for k, one in enumerate(made) for p in packets(one)[k * half : half + k * half]]
    return write_mp4(path, [description(one, b"avc1") for one in made], samples)


def write_once(path: Path) -> Path:
    """Parameter sets and encoder version in the first packet alone."""
    source = write(path.with_name(f"often_{path.name}"), "libx264", FIRST)
    kept = packets(source)
    for number, packet in enumerate(kept[1:], 1):
        units = re.split(rb"\x00\x00\x00?\x01", bytes(packet))[1:]
        left = [unit for unit in units if unit[0] & 31 not in (6, 7, 8, 9)]
        made = av.Packet(b"".join(b"\0\0\0\1" + unit for unit in left))
        made.pts, made.dts, made.time_base = packet.pts, packet.dts, packet.time_base
        made.is_keyframe = packet.is_keyframe
        kept[number] = made
    return remux(source, path, kept)


def write_version(path: Path) -> Path:
    """An old encoder's version, by which decoders undo its faults, in the first packet alone."""
    with av.open(str(path), "w") as container:
        options = {"g": "6", "bf": "0", "x264-params": "8x8dct=1:cabac=1"}
        stream = container.add_stream("libx264", rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv444p"
        for frame in pictures():
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    path.write_bytes(re.sub(rb"core 1\d\d", b"core 120", path.read_bytes(), count=1))
    return path


def write_resent(path: Path) -> Path:
    """MPEG-2 whose quantization changes in the middle, by a sequence header that comes once."""
    source = write(path.with_name("often.mpg"), "mpeg2video", {"g": "6", "bf": "0"})
    kept = packets(source)
    for number, packet in enumerate(kept):
        content = bytes(packet)
        starts = [content.find(code) for code in (b"\0\0\1\xb8", b"\0\0\1\0")]
        rest = min(at for at in starts if at >= 0)  # of the group or the picture
        if number == FRAMES // 2:  # 62 bits, a flag, 64 bytes, another flag
            matrix = int.from_bytes(bytes([8] + [60] * 63))
            header = (int.from_bytes(content[4:12]) >> 2 << 1 | 1) << 513 | matrix << 1
            content = content[:4] + header.to_bytes(72) + content[12:]
        elif number:
            content = content[rest:]
        made = av.Packet(content)
        made.pts = made.dts = number
        made.time_base, made.is_keyframe = Fraction(1, 25), packet.is_keyframe
        kept[number] = made
    return remux(source, path, kept)


def write_all_key(path: Path) -> Path:
    """All packets are marked as key packets."""
    source = write(path.with_name(f"some_{path.name}"), "libx264", {"g": "12", "bf": "0"})
    kept = packets(source)
    for packet in kept:
        packet.is_keyframe = True
    return remux(source, path, kept)


def write_no_table(path: Path) -> Path:
    """An MP4 file without a table of key packets, which calls all of them so."""
    data = write(path, "libx264", {"g": "12", "bf": "2"}).read_bytes()
    path.write_bytes(data.replace(b"stss", b"free"))
    return path


def write_palette(path: Path) -> Path:
    """Pictures of one byte a pixel, whose colours come with the first packet."""
    colours = np.random.default_rng(1).integers(0, 256, (256, 4), np.uint8)
    colours[:, 0] = 255
    with av.open(str(path), "w") as container:
        stream = container.add_stream("rawvideo", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "pal8"
        for picture in pictures():
            indices = np.ascontiguousarray(picture.to_ndarray(format="gray"))
            frame = av.VideoFrame.from_ndarray((indices, colours), format="pal8")
            frame.pts, frame.time_base = picture.pts, picture.time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_vfw(path: Path) -> Path:
    """H.264 in Matroska as Video for Windows has it: blocks bear the times of decoding."""

    made = encoder(B_FRAMES)
    bitmap = struct.pack("<IiiHH4sIiiII", 40, WIDTH, HEIGHT, 1, 24, b"H264", 0, 0, 0, 0, 0)
    codec = element("86", b"V_MS/VFW/FOURCC"), element("63A2", bitmap)
    encoded = [p for frame in (*pictures(), None) for p in made.encode(frame)]
    blocks = [(40 * k, p.is_keyframe, bytes(p)) for k, p in enumerate(encoded)]
    return write_matroska(path, codec, blocks)


B_FRAMES = {"g": "12", "bf": "3", "x264-params": "b-adapt=0:scenecut=0"}
REFRESH = {"x264-params": "intra-refresh=1:keyint=8:bframes=0"}
OPEN = {"g": "10", "bf": "3", "x264-params": "open-gop=1:b-adapt=0:scenecut=0"}
HEVC = {"x265-params": "keyint=10:min-keyint=10:open-gop=1:bframes=3:b-adapt=0:log-level=none"}

KINDS: dict[str, Callable[[Path], Path]] = {
    "no_times.avi": lambda path: write(path, "libx264", B_FRAMES),
    "no_times_mpeg4.avi": lambda path: write(path, "mpeg4", {"g": "12", "bf": "2"}),
    "no_times.wmv": lambda path: write(path, "libx264", B_FRAMES),
    "no_times.mxf": lambda path: write(path, "mpeg2video", {"g": "12", "bf": "2"}),
    "refresh.mp4": lambda path: write(path, "libx264", REFRESH),
    "refresh.mkv": lambda path: write(path, "libx264", REFRESH),
    "refresh.ts": lambda path: write(path, "libx264", REFRESH),
    "open.mp4": lambda path: write(path, "libx264", OPEN),
    "open.mkv": lambda path: write(path, "libx265", HEVC),
    "open.mpg": lambda path: write(path, "mpeg2video", {"g": "10", "bf": "2"}),
    "joined.mp4": write_joined,
    "joined.mkv": write_joined,
    "joined.ts": write_joined,
    "lying_h264.mp4": lambda path: write_lying(path, "libx264"),
    "lying_mpeg4.mp4": lambda path: write_lying(path, "mpeg4"),
    "two_descriptions.mp4": write_two_descriptions,
    "once.ts": write_once,
    "version.mp4": write_version,
    "resent.mkv": write_resent,
    "resent.avi": write_resent,
    "all_key.mp4": write_all_key,
    "all_key.mkv": write_all_key,
    "no_table.mp4": write_no_table,
    "live.webm": lambda path: write(path, "libvpx-vp9", {"cpu-used": "8"}, {"live": "1"}),
    "palette.avi": write_palette,
    "vfw.mkv": write_vfw,
}


def assert_right(video: Video, expected: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    last = len(expected) - 1
    requests = [[k] for k in range(0, len(expected), 7)]  # alone, then some together
    requests += [rng.integers(0, last, 4) for _ in range(3)] + [[last, 0]]
    for decoder in video.decoders.split():  # PyAV takes the place of others
        for wanted in requests:
            np.testing.assert_array_equal(decode_frames(video, wanted, decoder), expected[wanted])


@pytest.mark.parametrize("name", KINDS)
def test_frame_k_is_the_kth_of_plain_decoding(made: Made, name: str) -> None:
    path = made(KINDS[name], name)
    expected = from_start(path)
    videos = set()
    for check in ("header", "packets", "decode"):
        found = probe(path, check)
        assert (found.status, found.frames) == ("ok", len(expected))
        videos.add(Video.of(found, path)._replace(fps=25.0))
    for video in videos:  # often the same for all checks
        assert_right(video, expected)


@needs_ffmpeg
@pytest.mark.parametrize("name", KINDS)
def test_ffmpeg_shows_the_same(made: Made, name: str) -> None:
    path = made(KINDS[name], name)
    assert_alike(decode_frames(path, range(FRAMES)), ffmpeg_frames(path))


@pytest.mark.parametrize("name", [n for n in KINDS if n.startswith(("refresh", "lying", "open"))])
def test_reading_notices_itself_where_no_decoding_can_begin(made: Made, name: str) -> None:
    """An index that promises too much costs time, but no frame, where the decoder can tell."""
    path = made(KINDS[name], name)
    expected = from_start(path)
    assert_right(
        Video.of(probe(path, "packets")._replace(seekable=1, decoders="pyav"), path), expected
    )


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_parameter_sets_beyond_the_trial(tmp_path: Path, monkeypatch, name: str) -> None:
    """The first frames of the file, all that is decoded of most, show nothing wrong."""
    from snvideo.data.indexing import probe as module

    monkeypatch.setattr(module, "FRAMES", 12)
    path = write_joined(tmp_path / name)
    assert not probe(path, "packets").seekable
    assert probe(write(path, "libx264", {"g": "6", "bf": "2"}), "packets").seekable


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
@pytest.mark.parametrize("check", ["header", "packets", "decode"])
def test_sound_files_are_still_seekable(tmp_path: Path, name: str, check: str) -> None:
    path = write(tmp_path / name, "libx264", B_FRAMES)
    assert probe(path, check).seekable
    assert_right(Video.of(probe(path, check), path), from_start(path))


def test_damaged_pictures_are_not_begun_with(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", "libx264", {"g": "10", "bf": "0"})
    with av.open(str(path)) as container:
        keys = [(p.pos, p.size) for p in container.demux(video=0) if p.is_keyframe]
    data = bytearray(path.read_bytes())
    at = keys[3][0] + keys[3][1] // 2
    data[at : at + 200] = bytes(200)
    path.write_bytes(data)
    expected = from_start(path)
    found = probe(path, "decode")
    assert not found.seekable and found.frames == len(expected)
    assert_right(Video.of(found, path), expected)
    assert_right(Video.of(found._replace(seekable=1), path), expected)


def test_real_frames_without_times_come_in_order(real_videos: Path) -> None:
    path = real_videos / "bench_videos" / "mma_test.avi"
    expected = from_start(path)
    for check in ("header", "packets", "decode"):
        assert_right(Video.of(probe(path, check), path), expected)
