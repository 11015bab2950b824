import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from snvideo.data.index import ClipIndex, read_rows
from snvideo.data.index_meta import VERSION
from snvideo.data.indexing import build, probe
from snvideo.data.indexing.build import build_index
from snvideo.data.indexing.sources import read_class_folders, read_kinetics, read_lists
from snvideo.errors import SnvideoError
from snvideo.lock import locked
from tests.data.videos import write_video

DATA = os.environ.get("SNVIDEO_TEST_DATA")
PROGRAM = Path(__file__).parents[3] / "data_tools" / "build_index.py"


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "videos"
    write_video(root / "train" / "hug" / "a.mp4", frames=10)
    write_video(root / "train" / "kick" / "b.mp4", frames=20, hidden=3)
    write_video(root / "val" / "kick" / "c.avi", frames=30, codec="mpeg4", b_frames=2)
    (root / "val" / "kick" / "d.mp4").write_bytes(b"")
    return root


def test_decoders_that_cannot_be_tried_are_said(videos, tmp_path, monkeypatch, caplog) -> None:
    reasons = {"torchcodec": "torchcodec cannot load FFmpeg: install its shared libraries"}
    for module in (build, probe):
        monkeypatch.setattr(module, "missing", lambda decoder: reasons.get(decoder, ""))
    caplog.set_level("INFO", logger="snvideo")
    for check in ("packets", "decode"):
        out = tmp_path / f"{check}.csv"
        build.build_index(read_class_folders(videos), videos, out, check=check)
        expected = [f"no file can be trusted to torchcodec: {reasons['torchcodec']}"]
        assert [m for m in caplog.messages if "trusted" in m] == expected * (check == "decode")
        rows = list(read_rows(out))
        assert [row.decoders for row in rows if "/a." in row.path] == ["pyav decord"]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, PROGRAM, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd="/", timeout=120)


def test_index_of_what_is_there(videos: Path, tmp_path: Path) -> None:
    out, seen = videos.parent / "index.csv", []
    summary = build_index(read_class_folders(videos), videos, out, workers=2, progress=seen.append)
    assert summary.counts == {
        "train": {"ok": 2, "missing": 0, "broken": 0},
        "val": {"ok": 1, "missing": 0, "broken": 1},
    }
    assert summary.reasons == {"ok": {}, "missing": {}, "broken": {"empty file": 1}}
    assert seen == [0, 1, 2, 3, 4]
    train, val = ClipIndex.load(out, "train"), ClipIndex.load(out, "val")
    assert [(v.name, v.label, v.first_frame, v.frames, v.decoders) for v in (*train, *val)] == [
        ("train/hug/a.mp4", 0, 0, 10, "pyav decord"),
        ("train/kick/b.mp4", 1, 3, 17, "pyav"),
        ("val/kick/c.avi", 1, 0, 30, "pyav"),
    ]
    assert all(video.path.is_file() for video in train)
    meta = json.loads(out.with_suffix(".json").read_text())
    assert (meta["root"], meta["labels"], meta["check"]) == ("videos", ["hug", "kick"], "packets")
    assert meta["version"] == VERSION
    assert out.read_text().splitlines()[-1].endswith(",pyav,broken,empty file,,")

    outside = tmp_path / "index.csv"  # the root is elsewhere, and stated whole
    build_index(read_class_folders(videos), videos, outside, workers=1)
    assert ClipIndex.load(outside, "train").hash == train.hash
    assert json.loads(outside.with_suffix(".json").read_text())["root"] == str(videos)


def test_remarks_of_source_and_probe_are_kept(videos: Path, tmp_path: Path) -> None:
    path = "train/hug/a.mp4"
    train, val = tmp_path / "train.txt", tmp_path / "val.txt"
    train.write_text(f"{path} 0\ngone.mp4 1\n")
    val.write_text(f"{path} 0\n")
    listing = read_lists({"train": train, "val": val}, videos)
    summary = build_index(listing, videos, tmp_path / "i.csv", workers=1)
    assert summary.reasons == {
        "ok": {"also in train": 1},
        "missing": {"no such file": 1},
        "broken": {},
    }


def test_nothing_usable_leaves_an_old_index_alone(videos: Path, tmp_path: Path) -> None:
    out = tmp_path / "index.csv"
    build_index(read_class_folders(videos), videos, out, workers=1)
    before = out.read_bytes()
    (tmp_path / "l.txt").write_text("no.mp4 0\n")
    listing = read_lists({"train": tmp_path / "l.txt"}, videos)
    with pytest.raises(SnvideoError, match=r"none is usable \(1 missing: no such file\)"):
        build_index(listing, videos, out, workers=1)
    assert out.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index.csv", "index.json", "l.txt"]


def test_an_interrupted_build_goes_on(videos: Path, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole.csv", tmp_path / "out.csv"
    build_index(read_class_folders(videos), videos, whole, workers=1)

    def interrupt(done: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_index(read_class_folders(videos), videos, out, workers=1, progress=interrupt)
    assert not out.exists()
    (part,) = tmp_path.glob(".out.csv.*.part")
    with part.open("a") as file:
        file.write("train/kick/b.mp4,1,ki")  # killed while writing
    seen: list[int] = []
    summary = build_index(read_class_folders(videos), videos, out, workers=1, progress=seen.append)
    assert seen == [2, 3, 4]
    assert out.read_bytes() == whole.read_bytes()
    assert summary.counts["val"] == {"ok": 1, "missing": 0, "broken": 1}
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("change", ["check", "listing"])
def test_what_another_build_left_is_not_taken_up(videos: Path, tmp_path: Path, change: str) -> None:
    def interrupt(done: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_index(read_class_folders(videos), videos, tmp_path / "i.csv", progress=interrupt)
    listing, check, seen = read_class_folders(videos), "packets", []
    if change == "check":
        check = "decode"
    else:
        listing = read_class_folders(videos, labels=["kick", "hug"])
    build_index(listing, videos, tmp_path / "i.csv", check=check, progress=seen.append)
    assert seen == [0, 1, 2, 3, 4]


def test_index_must_be_called_csv(videos: Path, tmp_path: Path) -> None:
    with pytest.raises(SnvideoError, match=r"call it something\.csv"):
        build_index(read_class_folders(videos), videos, tmp_path / "index")


def test_program_on_class_folders(videos: Path, tmp_path: Path) -> None:
    done = run("folders", videos, "--out", tmp_path / "i.csv", "--workers", 2, "--check", "decode")
    assert done.returncode == 0, done.stderr
    assert "empty file" in done.stdout
    assert "3 videos in 2 classes; warning: 1 missing or broken" in done.stdout
    assert len(ClipIndex.load(tmp_path / "i.csv", "train")) == 2


def test_program_on_kinetics(tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    write_video(clips / "some_class" / "abc_000001_000011.mp4", frames=5)
    csv = tmp_path / "train.csv"
    csv.write_text("label,youtube_id,time_start,time_end,split\nsome class,abc,1,11,train\n")
    labels = tmp_path / "labels.txt"
    labels.write_text("another\nsome class\n")
    out = tmp_path / "new" / "i.csv"
    done = run("kinetics", clips, "--csv", csv, "--out", out, "--labels", labels, "--workers", 1)
    assert done.returncode == 0, done.stderr
    assert ClipIndex.load(out, "train")[0].label == 1


HEADER = "label,youtube_id,time_start,time_end,split\n"


@pytest.mark.parametrize(
    ("first", "taken", "reason"),
    [
        ("broken", "other", "instead of a broken file of its name"),
        ("damaged", "other", "instead of a damaged file of its name"),
        ("sound", "first", "one of several files of its name"),
        ("hidden link", "other", "instead of a missing file of its name"),
    ],
)
@pytest.mark.parametrize("place", ["replacement/a_000000_000010.mp4", "a_000000_000010.mkv"])
def test_of_several_files_of_a_clip_the_best_is_taken(
    tmp_path: Path, first: str, taken: str, reason: str, place: str
) -> None:
    root = tmp_path / "v"
    names = {"other": place, "first": "train/hug/a_000000_000010.mp4"}
    if place.startswith("replacement"):  # which come first
        names = {"first": place, "other": names["first"]}
    write_video(root / names["other"], frames=20)
    write_video(root / names["first"], frames=20, gop=1)
    if first == "broken":
        (root / names["first"]).write_bytes(b"no video")
    elif first == "damaged":
        whole = write_video(root / names["first"], frames=20, mux={"movflags": "faststart"})
        whole.write_bytes(whole.read_bytes()[:-200])
    elif first == "hidden link":
        (root / names["first"]).unlink()
        (root / names["first"]).symlink_to(tmp_path / "gone.mp4")
    annotations = tmp_path / "k.csv"
    annotations.write_text(HEADER + "hug,a,0,10,train\n")
    build_index(read_kinetics([annotations], root), root, tmp_path / "i.csv")
    (row,) = read_rows(tmp_path / "i.csv")
    assert (row.path, row.status, row.reason) == (names[taken], "ok", reason)


def test_of_bad_files_of_a_clip_the_first_is_named(tmp_path: Path) -> None:
    root = tmp_path / "v"
    for name in ("replacement/a_0_10.mp4", "a_0_10.mp4", "a_0_10.avi"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    write_video(root / "b_0_10.mp4")
    annotations = tmp_path / "k.csv"
    annotations.write_text(HEADER + "hug,a,0,10,train\nhug,b,0,10,train\n")
    build_index(read_kinetics([annotations], root), root, tmp_path / "i.csv", workers=2)
    bad, good = read_rows(tmp_path / "i.csv")
    assert (bad.path, bad.status, bad.reason) == ("replacement/a_0_10.mp4", "broken", "empty file")
    assert (good.path, good.status) == ("b_0_10.mp4", "ok")


def test_a_file_much_longer_than_its_clip_is_remarked(tmp_path: Path) -> None:
    write_video(tmp_path / "v" / "a.mp4", frames=100)  # 4 s
    write_video(tmp_path / "v" / "b_000000_000003.mp4", frames=100)
    annotations = tmp_path / "k.csv"
    annotations.write_text(HEADER + "hug,a,7,8,train\nhug,b,0,3,train\n")
    build_index(read_kinetics([annotations], tmp_path / "v"), tmp_path / "v", tmp_path / "i.csv")
    reasons = [row.reason for row in read_rows(tmp_path / "i.csv")]
    assert reasons == ["longer than from start to end: not trimmed?", ""]


def test_two_builds_of_one_index_are_told_apart(videos: Path, tmp_path: Path) -> None:
    out = tmp_path / "i.csv"
    listing = read_class_folders(videos)
    who = f"index {out}: in use by process {os.getpid()} on"
    with locked(tmp_path / ".i.csv.lock", "it"), pytest.raises(SnvideoError, match=who):
        build_index(listing, videos, out)
    assert not out.exists()
    build_index(listing, videos, out)
    assert {path.name for path in tmp_path.iterdir()} == {"i.csv", "i.json"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["folders", "no/such/folder"],
            "snvideo: videos no/such/folder: No such file or directory",
        ),
        (["list", "."], "snvideo: no list given: add --train FILE"),
        (["kinetics", ".", "--csv", "no.csv"], "snvideo: videos .: no video file in it"),
    ],
)
def test_program_says_errors_in_one_line(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    command = [sys.executable, PROGRAM, *arguments, "--out", tmp_path / "i.csv"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(DATA is None, reason="SNVIDEO_TEST_DATA names no video folder")
def test_real_class_folders(tmp_path: Path) -> None:
    root = Path(DATA) / "ut_interaction"
    for check in ("packets", "decode"):
        summary = build_index(
            read_class_folders(root), root, tmp_path / "i.csv", check=check, workers=2
        )
        assert {split: n["ok"] for split, n in summary.counts.items()} == {"train": 83, "test": 37}
        index = ClipIndex.load(tmp_path / "i.csv", "train")
        assert {video.decoders for video in index} == {"pyav"}
        assert {video.fps for video in index} == {30.0}
