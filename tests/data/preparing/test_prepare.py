"""Trees of re-encoded videos: names, what a second call does, what goes wrong, what it costs."""

import csv
import json
import math
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest

from snvideo.data.decoding import decode_frames
from snvideo.data.index import COLUMNS, ClipIndex, IndexRow, Video, read_rows
from snvideo.data.indexing.build import build_index
from snvideo.data.indexing.listing import Listing
from snvideo.data.indexing.sources import read_class_folders
from snvideo.data.preparing.comparison import FRAMES, compare_pair, frame_quality, sample_pairs
from snvideo.data.preparing.prepare import output_names, prepare_videos
from snvideo.data.preparing.reencode import EncodeJob, EncoderSettings, reencode
from snvideo.errors import SnvideoError
from snvideo.lock import locked
from tests.data.videos import frame_number, write_video

PROGRAM = Path(__file__).parents[3] / "data_tools" / "prepare_videos.py"
QUICK = EncoderSettings(preset="ultrafast")


def index_of(root: Path, rows: list[IndexRow] | None = None) -> Path:
    """Indexes a folder of class folders, or these rows."""
    listing = read_class_folders(root) if rows is None else Listing(rows, ["hug", "kick"], "test")
    build_index(listing, root, root.parent / "index.csv", workers=2)
    return root.parent / "index.csv"


def forget_sizes(index: Path) -> None:
    """Makes an index take a file as it is, whatever size it had."""
    rows = [row._replace(bytes=0) for row in read_rows(index)]
    with index.open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])


def stamps(out: Path) -> dict[str, tuple[int, int]]:
    """Of every video: what changes if it is written again."""
    return {
        path.relative_to(out).as_posix(): (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in out.rglob("*.mp4")
    }


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Class folders with a pair that would get one name."""
    root = tmp_path / "videos"
    write_video(root / "hug" / "a.mp4", 20)
    write_video(root / "hug" / "a.avi", 25, codec="mpeg4")
    write_video(root / "kick" / "b.mkv", 30, hidden=0)
    return root


def test_two_calls_for_one_folder_are_told_apart(root: Path, tmp_path: Path) -> None:
    index, out = index_of(root), tmp_path / "out"
    who = f"{out}: in use by process {os.getpid()} on"
    with locked(tmp_path / ".out.lock", "it"), pytest.raises(SnvideoError, match=who):
        prepare_videos(index, out, QUICK)
    assert not out.exists()


def test_a_tree_and_its_index_and_what_a_second_call_does(root: Path, tmp_path: Path) -> None:
    rows = [
        IndexRow("kick/b.mkv", 1, split="train", start=1.5, end=11.5),
        IndexRow("hug/a.mp4", 0, split="train"),
        IndexRow("gone.mp4", 0, split="train"),
        IndexRow("hug/a.avi", 0, split="val"),
        IndexRow("kick/b.mkv", 1, split="val", reason="also in train"),
    ]
    index, out = index_of(root, rows), tmp_path / "out"
    seen: list[tuple[str, int, int]] = []
    prepared = prepare_videos(
        index, out, QUICK, workers=2, progress=lambda *step: seen.append(step)
    )
    names = ["kick/b.mp4", "hug/a.mp4.mp4", "gone.mp4", "hug/a.avi.mp4", "kick/b.mp4"]
    found = list(read_rows(out / "index.csv"))
    assert [row.path for row in found] == names
    for old, new in zip(read_rows(index), found, strict=True):
        same = ("label", "label_name", "split", "start", "end", "frames", "fps")
        assert [getattr(old, name) for name in same] == [getattr(new, name) for name in same]
    assert [row.status for row in found] == ["ok", "ok", "missing", "ok", "ok"]
    assert found[2].reason == "source missing: no such file; no such file"
    assert found[4].reason == "also in train"
    assert (prepared.videos, prepared.kept) == (3, 0)
    assert prepared.failures == prepared.other_frames == {}
    assert prepared.bytes_after == sum(path.stat().st_size for path in out.rglob("*.mp4"))
    assert prepared.bytes_before == sum(path.stat().st_size for path in root.glob("*/*"))
    assert prepared.seconds == pytest.approx((20 + 25 + 30) / 25)
    assert seen[:4] == [("encode", done, 3) for done in range(4)]
    assert seen[4:] == [("index", done, 5) for done in range(6)]
    index_new = ClipIndex.load(out / "index.csv", "train")
    assert [frame_number(picture) for picture in decode_frames(index_new[0], [0, 17, 29])] == [
        0,
        17,
        29,
    ]

    before = stamps(out)
    left = out / "hug" / ".a.1-0.mp4"  # of a run that was killed
    left.write_bytes(b"half")
    again = prepare_videos(index, out, QUICK)
    assert again.kept == 3 and stamps(out) == before and not left.exists()
    assert again.failures == {} and again.bytes_after == prepared.bytes_after

    later = time.time_ns() + 10**9
    os.utime(root / "hug" / "a.avi", ns=(later, later))
    (out / "kick" / "b.mp4").unlink()
    assert prepare_videos(index, out, QUICK, workers=2).kept == 1
    after = stamps(out)
    assert {n for n in before if after[n] != before[n]} == {"hug/a.avi.mp4", "kick/b.mp4"}

    with pytest.raises(SnvideoError, match="was made with crf 20, asked for 21: choose anoth"):
        prepare_videos(index, out, QUICK._replace(crf=21))


def test_what_crashes_hangs_or_is_broken_costs_itself_alone(root: Path, tmp_path: Path) -> None:
    write_video(root / "kick" / "cut.mp4", 40)
    write_video(root / "kick" / f"{'n' * 252}.ts", 5)  # no room for one letter more
    write_video(root / "kick" / "pipe.mp4", 5)
    index, out = index_of(root), tmp_path / "out"
    forget_sizes(index)
    (root / "kick" / "b.mkv").write_bytes(b"no video any more")
    write_video(root / "kick" / "cut.mp4", 33)  # shorter than its index says
    (root / "kick" / "pipe.mp4").unlink()
    os.mkfifo(root / "kick" / "pipe.mp4")  # opening it waits for a writer
    prepared = prepare_videos(index, out, QUICK, workers=2, timeout=1.0)
    assert prepared.failures == {
        f"kick/{'n' * 252}.ts": "File name too long",
        "kick/b.mkv": "Invalid data found when processing input",
        "kick/pipe.mp4": "hangs",
    }
    assert prepared.other_frames == {"kick/cut.mp4": (40, 33)}
    found = {row.path: row for row in read_rows(out / "index.csv")}
    assert len(found) == 6 and found["hug/a.avi.mp4"].status == found["kick/cut.mp4"].status == "ok"
    assert found["kick/pipe.mp4"].status == "missing"
    assert found["kick/pipe.mp4"].reason == "not prepared: hangs; no such file"
    assert not list(out.rglob(".*"))
    chosen = sample_pairs(prepared, index, 2)
    assert [old.path for old, _ in chosen] == ["hug/a.avi", "kick/cut.mp4"]


def test_a_source_that_went_bad_takes_its_old_output_along(root: Path, tmp_path: Path) -> None:
    index, out = index_of(root), tmp_path / "out"
    prepare_videos(index, out, QUICK, workers=2)
    later = time.time_ns() + 10**9
    (root / "kick" / "b.mkv").write_bytes(b"no video any more")
    os.utime(root / "kick" / "b.mkv", ns=(later, later))
    (root / "hug" / "a.mp4").unlink()  # what was prepared from it is still good
    prepared = prepare_videos(index, out, QUICK)
    reason = r"17 bytes, but \d+ when it was indexed: index again"
    assert list(prepared.failures) == ["kick/b.mkv"] and prepared.kept == 2
    assert re.fullmatch(reason, prepared.failures["kick/b.mkv"])
    assert sorted(stamps(out)) == ["hug/a.avi.mp4", "hug/a.mp4.mp4"]


def test_names_of_outputs() -> None:
    paths = ["c/a.avi", "c/a.mp4", "d/a.mkv", "./d/../d/b.mp4", "../e/f.avi", "/g.mp4"]
    assert output_names(paths, Path("/root")) == {
        "c/a.avi": "c/a.avi.mp4",
        "c/a.mp4": "c/a.mp4.mp4",
        "d/a.mkv": "d/a.mp4",
        "./d/../d/b.mp4": "d/b.mp4",
        "../e/f.avi": "_outside/e/f.mp4",
        "/g.mp4": "_outside/g.mp4",
    }
    assert output_names(["/root/x/a.avi"], Path("/root")) == {"/root/x/a.avi": "x/a.mp4"}
    with pytest.raises(SnvideoError, match=r"two would become a.avi.mp4: rename one"):
        output_names(["a.avi", "a.mp4", "a.avi.mp4"], Path("/root"))


def test_folders_that_hold_something_else_are_refused(root: Path, tmp_path: Path) -> None:
    index = index_of(root)
    before = stamps(root)
    for folder in (root, tmp_path):
        with pytest.raises(SnvideoError, match="holds other files: give a new or an empty folder"):
            prepare_videos(index, folder, QUICK)
    assert stamps(root) == before
    (tmp_path / "file").write_text("")
    with pytest.raises(SnvideoError, match="file/out: cannot be written: File exists"):
        prepare_videos(index, tmp_path / "file" / "out", QUICK)
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "prepare.json").write_text("[]")
    with pytest.raises(SnvideoError, match="not written by this program"):
        prepare_videos(index, tmp_path / "odd", QUICK)
    index.with_suffix(".json").write_text('{"root": "nowhere", "labels": ["hug", "kick"]}')
    with pytest.raises(SnvideoError, match="no video folder at"):
        prepare_videos(index, tmp_path / "out", QUICK)


PROGRAM_PREPARE = """
import sys
from pathlib import Path
from snvideo.data.preparing.prepare import prepare_videos
prepare_videos(Path(sys.argv[1]), Path(sys.argv[2]), workers=1)
"""


def start(index: Path, out: Path, **more) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", PROGRAM_PREPARE, str(index), str(out)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **more)


def test_a_full_disk_is_one_line_and_leaves_nothing_half(root: Path, tmp_path: Path) -> None:
    index, out = index_of(root), tmp_path / "out"
    size = 1000  # bytes that a file may have, less than any of the videos
    with start(
        index, out, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    ) as process:
        errors = process.stderr.read()
    assert process.returncode == 1
    last = errors.splitlines()[-1]
    assert last.startswith(f"snvideo.errors.SnvideoError: {out}/hug/a.avi.mp4: cannot be written: ")
    assert last.endswith(": mend that, and call again to go on")
    assert [path.name for path in out.rglob("*") if path.is_file()] == ["prepare.json"]


def test_an_interrupt_leaves_nothing_half(tmp_path: Path) -> None:
    root, out = tmp_path / "videos", tmp_path / "out"
    write_video(root / "hug" / "a.mp4", 5)
    write_video(root / "hug" / "long.mp4", 1200, size=(320, 240), gop=100)
    index = index_of(root)
    with start(index, out) as process:
        while not list(out.glob("hug/.long.*.mp4")):
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        assert "KeyboardInterrupt" in process.stderr.read()
    files = sorted(path.name for path in out.rglob("*") if path.is_file())
    assert files == ["a.mp4", "prepare.json"]


# What it costs ---------------------------------------------------------------------------------


def test_likeness_is_that_of_the_formulas() -> None:
    rng = np.random.default_rng(0)
    rows = rng.integers(16, 236, (72, 64), np.uint8)
    noisy = np.clip(rows + rng.normal(0, 6, rows.shape).round(), 0, 255).astype(np.uint8)
    one, other = (
        av.VideoFrame.from_ndarray(picture, format="yuv420p") for picture in (rows, noisy)
    )
    luma, rgb, ssim = (float(value) for value in frame_quality(one, other))
    error = ((rows[:48].astype(float) - noisy[:48]) ** 2).mean()
    assert luma == pytest.approx(10 * math.log10(255**2 / error), abs=1e-3)
    colours = [frame.to_ndarray(format="rgb24").astype(float) for frame in (one, other)]
    error = ((colours[0] - colours[1]) ** 2).mean()
    assert rgb == pytest.approx(10 * math.log10(255**2 / error), abs=1e-3)
    assert 0.9 < ssim < 1
    assert frame_quality(one, one)[2] == pytest.approx(1)


def test_one_video_compared(tmp_path: Path) -> None:
    source, out = write_video(tmp_path / "a.mp4", 50, corner=True), tmp_path / "b.mp4"
    *_, last = reencode(EncodeJob(source, out, 0, 25.0), QUICK)
    assert last.state == "done"
    values = {"label": 0, "first_frame": 0, "frames": 50, "fps": 25.0, "width": 64, "height": 48}
    values |= {"orientation": 1, "seekable": 1, "decoders": "pyav", "name": ""}
    pair = tuple(Video(path=path, **values) for path in (source, out))
    ((quality, times),) = compare_pair(pair, 256)
    assert quality.shape == (FRAMES, 3) and times.shape == (3, 2)
    assert quality[:, 0].min() > 35 and quality[:, 2].min() > 0.95 and times.min() > 0


@pytest.mark.process
def test_the_program(root: Path, tmp_path: Path) -> None:
    index, out = index_of(root), tmp_path / "out"
    forget_sizes(index)
    (root / "kick" / "b.mkv").write_bytes(b"no video any more")
    options = ["--short-side", "32", "--workers", "2", "--sample", "2"]
    command = [sys.executable, str(PROGRAM), str(index), str(out), *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", timeout=120)
    assert done.returncode == 0, done.stderr
    *_, last = done.stdout.splitlines()
    assert last.startswith(f"{out}/index.csv: 2 of 3 videos, 0.00 hours, ")
    assert last.endswith("; warning: 1 could not be prepared")
    assert "Invalid data found when processing input" in done.stdout
    facts = json.loads((out / "prepare.json").read_text())
    assert facts["settings"] == {
        "root": str(root),
        "short_side": 32,
        "keyframes": 16,
        "crf": 20,
        "preset": "fast",
    }
    assert list(facts["result"]["failures"]) == ["kick/b.mkv"]
    assert facts["sample"]["videos"] == 2 and facts["sample"]["psnr_luma"][1] > 35
    refused = subprocess.run([*command, "--crf", "3"], capture_output=True, text=True, timeout=60)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert refused.stderr.startswith(f"snvideo: {out}: was made with crf 20, asked for 3: ")
