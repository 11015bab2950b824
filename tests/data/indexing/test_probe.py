import os
import signal
import sys
import time
from fractions import Fraction
from pathlib import Path

import av
import decord
import numpy as np
import pytest

from snvideo.data.decoding import missing
from snvideo.data.index import DECODERS, IndexRow
from snvideo.data.indexing.probe import probe, probe_all
from tests.data.videos import frame_number, write_video

DATA = os.environ.get("SNVIDEO_TEST_DATA")
needs_data = pytest.mark.skipif(DATA is None, reason="SNVIDEO_TEST_DATA names no video folder")
OPEN_GROUPS = {"x264-params": "open-gop=1:b-adapt=0", "preset": "medium"}


@pytest.mark.parametrize("check", ["packets", "decode"])
def test_facts_of_a_sound_video(tmp_path: Path, check: str) -> None:
    path = write_video(tmp_path / "a.mp4", frames=50, fps=30, size=(96, 64), b_frames=2)
    found = probe(path, check)
    assert found.decoders.startswith("pyav decord")
    assert found == IndexRow(
        frames=50,
        fps=30,
        width=96,
        height=64,
        seconds=1.667,
        bytes=path.stat().st_size,
        seekable=True,
        decoders=found.decoders,
    )


def test_header_tells_where_an_mp4_file_is_cut_off(tmp_path: Path) -> None:
    path = write_video(
        tmp_path / "a.mp4", frames=50, size=(96, 64), b_frames=2, mux={"movflags": "faststart"}
    )
    found, slower = probe(path, "header"), probe(path, "packets")
    assert found == slower._replace(decoders="pyav")
    path.write_bytes(path.read_bytes()[: int(0.8 * path.stat().st_size)])
    cut = probe(path, "header")
    decodable = probe(path, "decode").frames
    assert (cut.status, cut.reason) == ("ok", "decoding stops early")
    assert 30 < cut.frames == decodable < 50


def test_header_believes_no_container_without_a_table(tmp_path: Path) -> None:
    for name in ("a.mkv", "a.avi", "a.ts"):
        codec = "mpeg4" if name == "a.avi" else "libx264"
        path = write_video(tmp_path / name, frames=30, codec=codec)
        assert probe(path, "header") == probe(path, "packets")


def test_header_leaves_out_what_an_edit_list_hides(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", frames=60, gop=12, b_frames=2, hidden=7)
    found = probe(path, "header")
    assert (found.first_frame, found.frames, found.decoders) == (7, 53, "pyav")


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_rotation_turns_pictures_of_pyav_upright(tmp_path: Path, rotation: int) -> None:
    path = write_video(tmp_path / "a.mp4", size=(128, 96), rotation=rotation, corner=True)
    found = probe(path, "decode")
    # The decode check compared others' pictures, which come upright, with PyAV's turned.
    assert found.orientation == {90: 8, 180: 3, 270: 6}[rotation]
    assert found.decoders.split()[1:] == [d for d in DECODERS[1:] if not missing(d)]
    assert (found.width, found.height) == ((96, 128) if rotation != 180 else (128, 96))
    assert probe(path, "packets") == found._replace(decoders="pyav decord")


@pytest.mark.parametrize("check", ["packets", "decode"])
def test_frames_hidden_by_an_edit_list(tmp_path: Path, check: str) -> None:
    path = write_video(tmp_path / "a.mp4", frames=60, gop=12, b_frames=2, hidden=7)
    found = probe(path, check)
    assert (found.first_frame, found.frames) == (7, 53)
    assert "decord" not in found.decoders
    with av.open(str(path)) as container:  # the docstring's account of PyAV's numbering
        shown = [frame for frame in container.decode(video=0) if frame.pts >= 0]
    numbers = [frame_number(frame.to_ndarray(format="rgb24")) for frame in shown]
    assert numbers == list(range(7, 60))


@pytest.mark.parametrize(
    ("name", "codec", "more"),
    [
        ("closed.mp4", "libx264", {}),
        ("closed.mkv", "libx264", {"b_frames": 2}),
        ("closed.webm", "libvpx-vp9", {}),
        ("open.mp4", "libx264", {"b_frames": 3, "options": OPEN_GROUPS}),
        ("mpeg4.avi", "mpeg4", {"b_frames": 2}),
        ("mpeg4.mp4", "mpeg4", {"b_frames": 2}),
        ("transport.ts", "libx264", {"b_frames": 2}),
    ],
)
def test_decord_gets_only_files_that_it_reads_right(
    tmp_path: Path, name: str, codec: str, more: dict
) -> None:
    path = write_video(tmp_path / name, frames=60, codec=codec, gop=10, **more)
    starts = range(0, 60 - 24, 3)
    right = all(_decord_numbers(path, range(s, s + 24, 8)) == [s, s + 8, s + 16] for s in starts)
    assert right == name.startswith("closed")
    for check in ("packets", "decode"):
        found = probe(path, check)
        assert (found.frames, "decord" in found.decoders) == (60, right)
        assert found.seekable >= right


def _decord_numbers(path: Path, wanted: range) -> list[int]:
    try:
        pictures = decord.VideoReader(str(path), num_threads=1).get_batch(list(wanted)).asnumpy()
    except decord.DECORDError:
        return []
    return [frame_number(picture) for picture in pictures]


@pytest.mark.parametrize("check", ["packets", "decode"])
def test_truncated_video_counts_what_decodes(tmp_path: Path, check: str) -> None:
    sizes = {"frames": 60, "size": (128, 96), "b_frames": 2, "gop": 30}
    mux = {"movflags": "faststart"}  # the header first, so that it survives
    path = write_video(tmp_path / "a.mp4", mux=mux, **sizes)
    path.write_bytes(path.read_bytes()[: int(0.8 * path.stat().st_size)])
    found = probe(path, check)
    decoded = _decodable(path)
    assert 30 < decoded < 60
    assert (found.status, found.frames, found.decoders) == ("ok", decoded, "pyav")
    assert found.reason in ("decoding stops early", "fewer frames than its header states")


def _decodable(path: Path) -> int:
    number = 0
    with av.open(str(path)) as container:
        container.streams.video[0].thread_count = 1
        try:
            for _ in container.decode(video=0):
                number += 1
        except av.error.InvalidDataError:
            pass
    return number


def _audio_only(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.rate, frame.pts = 8000, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _picture(path: Path) -> None:
    frame = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")
    encoder = av.CodecContext.create("png", "w")
    encoder.width, encoder.height, encoder.pix_fmt = 64, 48, "rgb24"
    encoder.time_base = Fraction(1, 25)
    path.write_bytes(b"".join(bytes(packet) for packet in encoder.encode(frame)))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: path.write_bytes(b""), "empty file"),
        (lambda path: path.write_text("404 not found\n" * 99), "no video header: not a video"),
        (lambda path: path.write_bytes(bytes(range(256)) * 99), "no video header: not a video"),
        (Path.mkdir, "a folder without numbered images"),
        (_audio_only, "no video stream, only audio"),
        (_picture, "a picture, not a video"),
        (lambda path: write_video(path, frames=5, hidden=5), "no frame can be decoded"),
    ],
)
def test_files_that_are_no_videos_say_why(tmp_path: Path, make, reason: str) -> None:
    path = tmp_path / "a.mp4"
    make(path)
    for check in ("packets", "decode"):
        found = probe(path, check)
        assert found.status == "broken"
        assert found.reason.startswith(reason)
        assert str(tmp_path) not in found.reason


def test_missing_file(tmp_path: Path) -> None:
    found = probe(tmp_path / "no.mp4", "packets")
    assert (found.status, found.reason) == ("missing", "no such file")


def test_pool_keeps_the_order(tmp_path: Path) -> None:
    lengths = [5, 30, 12, 1, 20]
    paths = [write_video(tmp_path / f"{n}.mp4", frames=n) for n in lengths] + [tmp_path / "no.mp4"]
    found = list(probe_all(paths, "packets", workers=2))
    assert [one.frames for one in found] == [*lengths, 0]
    assert found[-1].status == "missing"


FAKE_DECORD = """
import os, time
def cpu(number): return None
class VideoReader:
    def __init__(self, path, ctx, num_threads):
        if "hang" in path: time.sleep(600)
        if "crash" in path: os.kill(os.getpid(), {signal})
        raise RuntimeError("never right")
"""


def test_decord_that_dies_costs_neither_the_file_nor_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "fake"
    fake.mkdir()
    (fake / "decord.py").write_text(FAKE_DECORD.format(signal=int(signal.SIGSEGV)))
    monkeypatch.delitem(sys.modules, "decord")  # workers inherit modules and path
    monkeypatch.syspath_prepend(fake)
    names = ["a", "hang", "b", "crash", "c"]
    paths = [write_video(tmp_path / f"{name}.mp4", frames=9) for name in names]
    found = list(probe_all(paths, "decode", workers=2, timeout=2.0))
    assert [(one.status, one.frames) for one in found] == [("ok", 9)] * 5
    assert not any("decord" in one.decoders for one in found)
    assert [one.reason for one in found] == ["", "decord hangs", "", "decord crashed", ""]


def test_file_that_nobody_can_read_in_time(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("snvideo.data.indexing.probe.open_video", lambda path: time.sleep(60))
    slow = write_video(tmp_path / "a.mp4", frames=9)
    found = list(probe_all([slow, tmp_path / "no.mp4"], "decode", workers=1, timeout=0.5))
    assert (found[0].status, found[0].reason) == ("broken", "decoder hangs")
    assert found[1].status == "missing"


@needs_data
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("edit_list_cut.mp4", {"first_frame": 70, "frames": 114}),
        ("truncated_faststart.mp4", {"frames": 187, "reason": "decoding stops early"}),
        ("truncated_no_moov.mp4", {"status": "broken"}),
        ("av1_video.mkv", {"frames": 125}),
        ("roadtrip-vp92-10bit.webm", {"frames": 72, "fps": 23.976, "decoders": "pyav"}),
        ("sample_ac3.mp4", {"status": "broken", "reason": "no video stream, only audio"}),
        ("subsample_encrypted_altref.webm", {"status": "broken"}),
        ("video_1.mp4", {"orientation": 8, "width": 288, "height": 352}),
        ("video_desks.3gp", {"frames": 71}),
        ("nasa_13013.mp4", {"frames": 390, "width": 480, "height": 270}),
    ],
)
def test_real_awkward_files(name: str, expected: dict) -> None:
    for check in ("packets", "decode"):
        found = probe(Path(DATA) / "odd_videos" / name, check)._asdict()
        assert {key: found[key] for key in expected} == pytest.approx(expected)
