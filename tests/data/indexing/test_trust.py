"""Decoders get the files that a trial saw them show right, and none that it did not."""

import csv
import json
import signal
import sys

import numpy as np
import pytest

from snvideo.data.decoding import decode_frames, missing
from snvideo.data.decoding.torchcodec import missing_torchcodec
from snvideo.data.index import COLUMNS, ClipIndex, Video
from snvideo.data.index_meta import VERSION
from snvideo.data.indexing.probe import probe, probe_all
from tests.data.videos import write_video

STAND_IN = """
import os, time
import av, numpy, torch

class Frame:
    def __init__(self, data): self.data = torch.from_numpy(data)

class VideoDecoder:
    \"\"\"Shows what PyAV does, but for one fault.\"\"\"

    def __init__(self, source, *, dimension_order, num_ffmpeg_threads, device, seek_mode):
        assert (dimension_order, num_ffmpeg_threads, device) == ("NHWC", 1, "cpu")
        assert seek_mode == "exact" and isinstance(source, str)
        self.fault = os.path.basename(source).partition(".")[0]
        if self.fault == "hangs": time.sleep(600)
        if self.fault == "crashes": os.kill(os.getpid(), {signal})
        with av.open(source) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        if self.fault == "one_more": frames.append(frames[-1])
        if self.fault == "one_less": frames.pop()
        if self.fault == "late": frames.insert(0, frames.pop())
        if self.fault == "swapped": frames[1:3] = frames[2:0:-1]
        if self.fault == "other_colours": frames = [frame + numpy.uint8(3) for frame in frames]
        if self.fault == "near_colours": frames[3][:, ::2] += 1
        if self.fault == "turned": frames = [frame.swapaxes(0, 1) for frame in frames]
        if self.fault == "upside_down": frames = [frame[::-1] for frame in frames]
        self.frames = frames

    def __len__(self): return len(self.frames)

    def get_frame_at(self, index):
        assert type(index) is int
        if self.fault == "raises": raise RuntimeError("no more frames\\nof this kind")
        return Frame(self.frames[index].copy())
"""
RIGHT = ("right", "near_colours")
WRONG = ("one_more", "one_less", "late", "swapped", "other_colours", "turned", "upside_down")
DEAD = ("raises", "hangs", "crashes")


@pytest.fixture
def stand_in(tmp_path, monkeypatch) -> None:
    """A torchcodec with the fault that a file is named by."""
    package = tmp_path / "stand_in" / "torchcodec"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("ffmpeg_major_version = 8")
    (package / "decoders.py").write_text(STAND_IN.replace("{signal}", str(int(signal.SIGSEGV))))
    for module in [m for m in sys.modules if m.partition(".")[0] == "torchcodec"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.syspath_prepend(package.parent)
    missing_torchcodec.cache_clear()
    yield
    missing_torchcodec.cache_clear()
    for module in [m for m in sys.modules if m.partition(".")[0] == "torchcodec"]:
        del sys.modules[module]


def test_trust_is_what_a_trial_has_shown(tmp_path, stand_in):
    names = (*RIGHT, *WRONG, *DEAD)
    paths = [write_video(tmp_path / f"{n}.mp4", 9, corner=True, b_frames=2) for n in names]
    found = dict(zip(names, probe_all(paths, "decode", workers=2, timeout=4.0), strict=True))
    assert all((row.status, row.frames, row.seekable) == ("ok", 9, 1) for row in found.values())
    # decord was tried before, and keeps what it got.
    assert {name for name in names if found[name].decoders == "pyav decord torchcodec"} == {*RIGHT}
    assert all(found[name].decoders == "pyav decord" for name in (*WRONG, *DEAD))
    assert found["hangs"].reason == "torchcodec hangs"
    assert found["crashes"].reason == "torchcodec crashed"
    assert not any(found[name].reason for name in (*RIGHT, *WRONG, "raises"))


def test_frames_come_from_whom_was_asked_for_and_is_trusted(tmp_path, stand_in):
    path = write_video(tmp_path / "other_colours.mp4", 9)
    video = Video.of(probe(path, "packets"), path)
    asked = [5, 2, 2]
    usual = decode_frames(video, asked)
    np.testing.assert_array_equal(decode_frames(video, asked, "torchcodec"), usual)  # not trusted
    trusted = video._replace(decoders="pyav torchcodec")
    np.testing.assert_array_equal(decode_frames(trusted, asked, "torchcodec"), usual + 3)
    np.testing.assert_array_equal(decode_frames(trusted, asked, "decord"), usual)


@pytest.mark.parametrize(
    ("name", "codec", "more"),
    [
        ("closed.mp4", "libx264", {"b_frames": 3}),
        ("closed.mkv", "libx264", {}),
        ("hidden.mp4", "libx264", {"hidden": 7, "b_frames": 2}),
        ("turned.mp4", "libx264", {"rotation": 90, "corner": True}),
        ("closed.webm", "libvpx-vp9", {}),
        ("odd.webm", "libvpx-vp9", {"size": (65, 47)}),
        ("mpeg4.mp4", "mpeg4", {}),
        ("narrow.mp4", "libx264", {"size": (48, 64)}),
    ],
)
def test_torchcodec_shows_frame_k(tmp_path, name, codec, more):
    if missing("torchcodec"):
        pytest.skip(missing("torchcodec"))
    path = write_video(tmp_path / name, 40, codec=codec, gop=10, **more)
    found = probe(path, "decode")
    assert "torchcodec" in found.decoders.split()
    video = Video.of(found, path)
    for start in range(0, found.frames - 8, 3):
        wanted = [start + 7, start, start + 4]
        frames = decode_frames(video, wanted, "torchcodec").astype(int)
        difference = np.abs(frames - decode_frames(video, wanted))
        assert difference.mean() <= (1 if name.startswith("odd") else 0)


def test_an_older_column_of_one_decoder_is_read(tmp_path):
    columns = ["decoder" if name == "decoders" else name for name in COLUMNS]
    row = dict.fromkeys(columns, "0") | {"status": "ok", "split": "val", "frames": "9", "fps": "9"}
    row |= {"width": "64", "height": "48", "orientation": "1", "start": "", "end": ""}
    rows = [row | {"path": f"{name}.mp4", "decoder": name} for name in ("pyav", "decord")]
    path = tmp_path / "index.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    meta = {"root": ".", "labels": ["any"], "version": VERSION}
    path.with_suffix(".json").write_text(json.dumps(meta))
    index = ClipIndex.load(path, "val")
    assert [video.decoders for video in index] == ["pyav", "pyav decord"]
    assert [index.trusting(name) for name in ("pyav", "decord", "torchcodec")] == [2, 1, 0]
