"""The same frame for the same number whichever decoder gives it; reasons, not crashes."""

import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from snvideo.data import watchdog
from snvideo.data.config import DataConfig
from snvideo.data.dataset import TrainDataset
from snvideo.data.decoding import _MISSING, DecodeError, decode_frames, missing, pyav, warn_of_pyav
from snvideo.data.index import DECODERS, ClipIndex, IndexRow, Video
from snvideo.data.indexing.build import build_index
from snvideo.data.indexing.probe import TOLERANCE, probe, probe_all
from snvideo.data.indexing.sources import read_class_folders
from tests.data import decoders
from tests.data.decoding.reference import ffmpeg_pictures, needs_ffmpeg
from tests.data.videos import frame_number, write_video


def video(path: Path, decoder: str, frames: int, **more) -> Video:
    values = {
        "label": 0,
        "first_frame": 0,
        "fps": 25.0,
        "width": 96,
        "height": 64,
        "orientation": 1,
    }
    values |= {"seekable": True, **more}
    return Video(path=path, frames=frames, decoders=decoder, name=path.name, **values)


@pytest.fixture(scope="module")
def numbered(tmp_path_factory) -> Path:
    """A video of 40 frames whose brightness tells their number."""
    path = tmp_path_factory.mktemp("numbered") / "video.mp4"
    write_video(path, 40, fps=25, size=(96, 64))
    return path


@pytest.mark.parametrize("decoder", decoders.ALL)
def test_frames_come_in_the_order_asked_for(numbered, decoder):
    wanted = [30, 0, 7, 7, 39]
    frames = decode_frames(video(numbered, decoder, 40), wanted, decoder)
    assert frames.shape == (5, 64, 96, 3) and frames.dtype == np.uint8
    assert [frame_number(frame) for frame in frames] == wanted


@pytest.mark.parametrize("decoder", decoders.OTHERS)
def test_decoders_agree_to_the_bit(numbered, decoder):
    wanted = list(range(0, 40, 3))
    one, other = (decode_frames(video(numbered, decoder, 40), wanted, d) for d in (decoder, "pyav"))
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("decoder", decoders.ALL)
@pytest.mark.parametrize("content", [b"", b"this is not a video", b"\x00" * 5000])
def test_what_is_no_video_is_a_reason(tmp_path, decoder, content):
    path = tmp_path / "bad.mp4"
    path.write_bytes(content)
    with pytest.raises(DecodeError) as error:
        decode_frames(video(path, decoder, 10), [0], decoder)
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


@pytest.mark.parametrize("decoder", decoders.ALL)
def test_a_missing_file_and_a_frame_too_far_are_reasons(numbered, tmp_path, decoder):
    with pytest.raises(DecodeError):
        decode_frames(video(tmp_path / "none.mp4", decoder, 10), [0], decoder)
    with pytest.raises(DecodeError, match="frame 40 asked for, the file has 40"):
        decode_frames(video(numbered, decoder, 41), [3, 40], decoder)


UNLOADED = ["raise RuntimeError('Could not load libtorchcodec.\\nFFmpeg version 8:\\n...')"]
UNLOADED += ["ffmpeg_major_version = None"]  # fails later, when it is used


@pytest.fixture(params=["decord", "torchcodec", *UNLOADED])
def absent(request, tmp_path, monkeypatch) -> str:
    """Name of a decoder that is not installed or finds no FFmpeg."""
    name = request.param if request.param in DECODERS else "torchcodec"
    for module in [m for m in sys.modules if m.partition(".")[0] == name]:
        monkeypatch.delitem(sys.modules, module)
    if name == request.param:
        monkeypatch.setitem(sys.modules, name, None)
    else:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(request.param)
        (tmp_path / name / "decoders.py").write_text("VideoDecoder = None")
        monkeypatch.syspath_prepend(tmp_path)
    for reason in _MISSING.values():
        reason.cache_clear()
    warn_of_pyav.cache_clear()
    yield name
    for reason in _MISSING.values():
        reason.cache_clear()
    for module in [m for m in sys.modules if m.partition(".")[0] == name]:
        del sys.modules[module]  # what was there before comes back


def test_pyav_takes_over_and_one_line_says_what_to_install(absent, numbered, tmp_path, caplog):
    frames = decode_frames(video(numbered, f"pyav {absent}", 40), [5], absent)
    assert frame_number(frames[0]) == 5
    index = ClipIndex(
        [
            IndexRow(
                str(numbered), frames=40, fps=25, decoders=f"pyav {absent}", width=96, height=64
            )
        ],
        *("", [""], Path("/")),
    )
    for _ in range(2):
        TrainDataset(index, DataConfig(index=numbered, decoder=absent), 0)
    (line,) = caplog.messages
    assert line.startswith(f"data.decoder {absent}: {absent} ") and "\n" not in line
    assert "install" in line and line.endswith("PyAV decodes every video")


@pytest.mark.parametrize("decoder", decoders.OTHERS)
def test_how_many_videos_are_left_to_pyav_is_said_once(decoder, caplog):
    row = IndexRow("a.mp4", frames=9, fps=9, width=64, height=48)
    rows = [row._replace(decoders=f"pyav {decoder}")] * 13 + [row] * 3
    index = ClipIndex(rows, "", [""], Path("/"))
    warn_of_pyav.cache_clear()
    for chosen in (decoder, decoder, "pyav"):
        TrainDataset(index, DataConfig(index="index.csv", decoder=chosen), 0)
    (line,) = caplog.messages
    assert f"{decoder}: the index trusts it with 13 of 16 videos" in line and "--check" in line


# What is skipped -------------------------------------------------------------------------------

KINDS = {
    "b_frames.mp4": {"b_frames": 3, "options": {"preset": "medium", "b-pyramid": "normal"}},
    "one_group.mkv": {"b_frames": 2, "gop": 500},
    "short_groups.mp4": {"gop": 4},
    "hidden.mp4": {"b_frames": 2, "hidden": 9},
    "rotated.mp4": {"rotation": 90, "corner": True},
    "ten_bit.mp4": {"pix_fmt": "yuv420p10le", "b_frames": 2, "options": {"preset": "medium"}},
    "odd.webm": {"codec": "libvpx-vp9", "size": (65, 47)},
    "vp8.webm": {"codec": "libvpx"},
    "mpeg4.mp4": {"codec": "mpeg4"},
    "hevc.mp4": {"codec": "libx265", "options": {"x265-params": "open-gop=0:log-level=none"}},
}


@pytest.mark.parametrize("name", KINDS)
def test_skipping_changes_no_pixel(tmp_path, name):
    """Frames from key frames on, unwanted ones left out, equal those of decoding everything."""
    path = write_video(tmp_path / name, 60, **KINDS[name])
    found = probe(path, "decode")
    assert found.seekable
    row = Video.of(found._replace(decoders="pyav"), path)
    everything = decode_frames(row._replace(seekable=False), range(found.frames))
    assert everything.flags.c_contiguous  # of rotated videos too: torch takes no other
    rng = np.random.default_rng(0)
    for _ in range(8):
        wanted = rng.integers(0, found.frames, rng.integers(1, 9))
        np.testing.assert_array_equal(decode_frames(row, wanted), everything[wanted])


def test_groups_without_wanted_frames_are_not_decoded(tmp_path, monkeypatch):
    from snvideo.data.decoding import pyav

    path = write_video(tmp_path / "a.mp4", 60, size=(96, 64), gop=10, b_frames=2)
    counted = []
    decode_group = pyav._decode_group
    monkeypatch.setattr(
        pyav,
        "_decode_group",
        lambda *a: counted.append([time for time, _ in a[1]]) or decode_group(*a),
    )
    frames = decode_frames(video(path, "pyav", 60), [33, 35, 52])
    assert [frame_number(frame) for frame in frames] == [33, 35, 52]
    assert len(counted) == 2 and all(len(times) == 10 for times in counted)


@pytest.mark.parametrize("kind", ["not seekable", "too many frames", "cut off"])
def test_an_index_that_errs_costs_time_but_no_truth(tmp_path, kind):
    """The file was replaced after indexing: what is there is shown, or its absence is said."""
    if kind == "not seekable":
        options = {"x264-params": "open-gop=1:b-adapt=0", "preset": "medium"}
        path = write_video(
            tmp_path / "a.mp4", 60, size=(96, 64), gop=10, b_frames=3, options=options
        )
        assert not probe(path, "packets").seekable
    else:
        path = write_video(tmp_path / "a.ts", 60, gop=10, b_frames=2, size=(128, 96))
        if kind == "cut off":
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    row = video(path, "pyav", 60)
    if kind == "not seekable":
        frames = decode_frames(row, [11, 28, 41])
        assert [frame_number(frame) for frame in frames] == [11, 28, 41]
    elif kind == "too many frames":
        with pytest.raises(DecodeError, match="frame 60 asked for, the file has 60"):
            decode_frames(row, [3, 60])
    else:
        with pytest.raises(DecodeError):
            decode_frames(row, [3, 59])


def test_every_real_file_agrees_or_says_why(real_videos):
    """Awkward files and web videos: all ways to the same frames, or a reason."""
    paths = [p for f in ("odd_videos", "bench_videos") for p in sorted((real_videos / f).iterdir())]
    agreeing, seekable = Counter(), 0
    for path, found in zip(paths, probe_all(paths, "decode", workers=2, timeout=60), strict=True):
        if found.status != "ok":
            assert found.status == "broken" and found.reason, path.name
            continue
        row = Video.of(found, path)
        wanted = np.unique(np.linspace(0, found.frames - 1, 7).round().astype(int))
        frames = decode_frames(row, wanted)
        assert frames.shape == (len(wanted), found.height, found.width, 3), path.name
        counted = decode_frames(row._replace(seekable=False), wanted)
        np.testing.assert_array_equal(frames, counted, path.name)
        seekable += found.seekable
        agreeing.update(found.decoders.split())
        for decoder in found.decoders.split()[1:]:
            difference = np.abs(decode_frames(row, wanted, decoder) - frames.astype(np.int16))
            # Equal to the bit but for the colours of odd sizes, the only ones within tolerance.
            odd = found.width % 2 or found.height % 2
            assert difference.mean() <= (TOLERANCE if odd else 0), (path.name, decoder)
    assert len(paths) == 43 and seekable >= 18 and agreeing["decord"] >= 12
    assert agreeing["torchcodec"] >= 24 or missing("torchcodec")


@needs_ffmpeg
def test_every_frame_of_real_files_is_that_of_ffmpeg(real_videos):
    exact = frames = 0
    for path in sorted((real_videos / "odd_videos").iterdir()):
        found, shown = probe(path, "decode"), ffmpeg_pictures(path)
        if found.status != "ok":
            assert next(shown, None) is None, path.name
            continue
        differences = []

        def compare(picture, shown=shown, differences=differences):
            expected = next(shown)
            assert picture.shape == expected.shape
            differences.append(np.abs(picture - expected.astype(np.int16)).mean())
            return np.empty(0)

        decode_frames(Video.of(found, path), range(found.frames), transform=compare)
        # After an error ffmpeg goes on, with pictures that lack what it lost.
        assert next(shown, None) is None or found.reason == "decoding stops early", path.name
        shown.close()
        assert max(differences) < 4, path.name  # other roundings of odd sizes and 10-bit colours
        exact += differences.count(0)
        frames += found.frames
    assert exact > 0.9 * frames > 1000


def test_real_clips_decode_as_their_index_says(real_videos, tmp_path):
    """XviD AVIs, of which decord repeats frames: first and last frame exist, none beyond."""
    clips = real_videos / "ut_interaction"
    build_index(read_class_folders(clips), clips, tmp_path / "index.csv", workers=2)
    for split, count in (("train", 83), ("test", 37)):
        index = ClipIndex.load(tmp_path / "index.csv", split)
        assert len(index) == count and len(index.labels) == 6
        for number in range(0, count, 12):
            found = index[number]
            frames = decode_frames(found, [0, found.frames - 1])
            assert frames.shape == (2, found.height, found.width, 3)
            with pytest.raises(DecodeError, match="asked for"):
                decode_frames(found, [found.frames])


@pytest.mark.parametrize("b_frames", [0, 2])
def test_what_lies_between_far_frames_is_not_read(
    tmp_path: Path, b_frames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the way to a clip at the end of a file of hours; both to the bit."""
    path = write_video(tmp_path / "a.mp4", 100, gop=10, b_frames=b_frames)
    row = Video.of(probe(path, "packets"), path)
    wanted = [3, 48, 49, 50, 97]
    expected = decode_frames(row, wanted)
    read: list[None] = []
    monkeypatch.setattr(watchdog, "report_progress", lambda: read.append(None))
    monkeypatch.setattr(pyav, "_FAR", 1)
    np.testing.assert_array_equal(decode_frames(row, wanted), expected)
    assert [frame_number(frame) for frame in expected] == [n % 60 for n in wanted]
    assert len(read) < 100  # packets that were read, and those of them that were decoded
    assert probe(path, "decode").seekable


def test_a_table_that_does_not_fit_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frames are then decoded from the start."""
    path = write_video(tmp_path / "a.mp4", 60, gop=10)
    row = Video.of(probe(path, "packets"), path)
    entries = [
        SimpleNamespace(pos=n, timestamp=512 * n, is_keyframe=n % 10 == 0) for n in range(60)
    ]
    monkeypatch.setattr(pyav, "_FAR", 1)
    monkeypatch.setattr(pyav, "_packet_table", lambda *_: entries)
    assert [frame_number(frame) for frame in decode_frames(row, [23, 48])] == [23, 48]
