"""Parts of an index, and their merger, against one build alone."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from snvideo.cli import run
from snvideo.data.index import ClipIndex, read_rows
from snvideo.data.indexing import parts as parts_module
from snvideo.data.indexing.build import build_index
from snvideo.data.indexing.listing import Listing
from snvideo.data.indexing.merge import merge_parts
from snvideo.data.indexing.parts import Part, part_numbers, take_part
from snvideo.data.indexing.sources import read_class_folders, read_lists
from snvideo.errors import SnvideoError
from tests.data.videos import write_video


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of sound, broken and oddly named files; one has a replacement."""
    root = tmp_path_factory.mktemp("data") / "videos"
    for number in range(7):
        write_video(root / "train" / ("hug", "kick")[number % 2] / f"{number}.mp4", 5 + number)
    write_video(root / "val" / "kick" / 'a "b",\nc.mp4', 9)
    (root / "val" / "kick" / "empty.mp4").write_bytes(b"")
    write_video(root / "replacement" / "2.mp4", 30)
    return root


def listed(videos: Path) -> Listing:
    return read_class_folders(videos)


def build_parts(listing: Listing, videos: Path, out: Path, number: int, *left_out: int) -> None:
    for part in (Part(i, number) for i in range(1, number + 1) if i not in left_out):
        build_index(listing, videos, out, part=part)


@pytest.fixture(scope="module")
def whole(videos: Path) -> Path:
    """The index of one build alone."""
    out = videos.parent / "whole.csv"
    build_index(listed(videos), videos, out, workers=2)
    return out


@pytest.mark.parametrize("number", [1, 4, 12])
def test_merged_parts_are_the_index_of_one_build(videos, whole, number) -> None:
    out = videos.parent / "parts.csv"
    build_parts(listed(videos), videos, out, number)
    each = [len(list(read_rows(Part(i, number).path(out)))) for i in range(1, number + 1)]
    assert sum(each) == 9 and max(each) - min(each) <= 1
    summary = merge_parts(listed(videos), videos, out)
    assert out.read_bytes() == whole.read_bytes()
    assert out.with_suffix(".json").read_bytes() == whole.with_suffix(".json").read_bytes()
    assert summary.total("ok") == 8 and summary.reasons["broken"] == {"empty file": 1}
    assert {path.name for path in videos.parent.glob("*parts*")} == {"parts.csv", "parts.json"}


def test_a_part_is_an_index_and_goes_on_where_it_stopped(videos, tmp_path) -> None:
    part, out, seen = Part(2, 2), tmp_path / "i.csv", []

    def interrupt(done: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_index(listed(videos), videos, out, part=part, progress=interrupt)
    assert not part.path(out).exists()
    build_index(listed(videos), videos, out, part=part, progress=seen.append)
    assert seen == [2, 3, 4]
    assert len(ClipIndex.load(part.path(out), "train")) == 3
    build_index(listed(videos), videos, out, part=part, progress=seen.append)  # as it is finished
    assert seen == [2, 3, 4, 4]
    build_index(listed(videos), videos, out, part=Part(1, 2))
    merge_parts(listed(videos), videos, out)
    assert [row.path for row in read_rows(out)] == [row.path for row in listed(videos).rows]


def test_missing_parts_are_named(videos, tmp_path) -> None:
    out = tmp_path / "i.csv"
    with pytest.raises(SnvideoError, match="no finished part is beside it"):
        merge_parts(listed(videos), videos, out)
    build_parts(listed(videos), videos, out, 4, 2, 4)
    Part(3, 4).path(out).unlink()
    with pytest.raises(SnvideoError, match="not finished: 2/4, 3/4, 4/4: make each with --part"):
        merge_parts(listed(videos), videos, out)
    build_index(listed(videos), videos, out, part=Part(1, 3))
    with pytest.raises(SnvideoError, match=r"parts of 3 and of 4 .* delete those of another run"):
        merge_parts(listed(videos), videos, out)
    assert not out.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("check", "differs in check, listing:"),
        ("labels", "differs in labels, listing:"),
        ("files", "differs in skipped, listing:"),
        ("software", "differs in software:"),
        ("facts", "differs in root, labels, version"),
    ],
)
def test_parts_of_other_runs_are_refused(videos, tmp_path, monkeypatch, change, message) -> None:
    root, out, old = tmp_path / "videos", tmp_path / "i.csv", {}
    shutil.copytree(videos, root)
    build_parts(listed(root), root, out, 2, 2)
    listing, path = listed(root), Part(1, 2).path(out)
    if change == "check":
        old["check"] = "header"
    elif change == "labels":
        listing = read_class_folders(root, labels=["kick", "hug"])
    elif change == "files":  # a replacement more, of a file that is in the other part
        shutil.copy(root / "replacement" / "2.mp4", root / "replacement" / "3.mp4")
    elif change == "software":
        monkeypatch.setattr(parts_module, "software", lambda: {"av": "17.0.0"})
    else:
        path.with_suffix(".json").write_text("[]")
    stale = listing if change == "labels" else listed(root)
    build_index(stale, root, out, part=Part(2, 2), **old)
    with pytest.raises(SnvideoError, match=message):
        merge_parts(listed(root), root, out)
    assert not out.exists() and path.exists()


def test_rows_of_another_part_are_refused(videos, tmp_path) -> None:
    out = tmp_path / "i.csv"
    build_parts(listed(videos), videos, out, 2)
    first, second = (Part(i, 2).path(out) for i in (1, 2))
    for lines in (first.read_text(), "".join(second.read_text().splitlines(True)[:2])):
        second.write_text(lines)
        with pytest.raises(SnvideoError, match=r"2-of-2\.csv: not the rows that were written"):
            merge_parts(listed(videos), videos, out)


def test_a_part_without_usable_videos_is_told(videos, tmp_path, caplog) -> None:
    lines = [f"train/hug/{n}.mp4 0\ngone{n}.mp4 1\n" for n in (0, 2, 4)]
    (tmp_path / "l.txt").write_text("".join(lines))
    listing = read_lists({"train": tmp_path / "l.txt"}, videos)
    build_parts(listing, videos, tmp_path / "i.csv", 2)
    assert merge_parts(listing, videos, tmp_path / "i.csv").total("ok") == 3
    assert [m for m in caplog.messages if "none of its 3 videos is usable" in m]


def test_rows_of_one_video_are_in_one_part() -> None:
    assert list(part_numbers(["a", "b", "a", "c", "b", "d"], 3)) == [1, 2, 1, 3, 2, 1]
    listing = Listing([], ["hug"], "test")
    assert take_part(listing, None) is listing


@pytest.mark.parametrize(
    "text", ["0/4", "5/4", "3/0", "1/2000", "-1/4", "1", "", "1/4/4", "1/four"]
)
def test_bad_parts_are_one_line_before_anything_is_read(tmp_path, capsys, text) -> None:
    arguments = ["folders", "nowhere", "--out", str(tmp_path / "i.csv"), "--part", text]
    assert run(["index", "build", *arguments]) == 2
    error = capsys.readouterr().err
    assert error == f"snvideo: part {text!r}: expected i/n, as 1/16 to 16/16, with n at most 1000\n"


def test_part_and_merge_do_not_go_together(capsys) -> None:
    for both in (["--part", "1/2", "--merge"], ["--merge", "--part", "1/2"]):
        assert run(["index", "build", "folders", "nowhere", "--out", "i.csv", *both]) == 2
        assert capsys.readouterr().err.startswith("snvideo: --part and --merge: give one of them")


@pytest.mark.process
def test_the_program_in_parts(videos, whole) -> None:
    out = videos.parent / "program.csv"
    command = [sys.executable, "-m", "snvideo", "index", "build", "folders", str(videos)]
    for more in (["--part", "1/2"], ["--part", "2/2"], ["--merge"]):
        done = subprocess.run([*command, "--out", str(out), *more], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert "program.csv: 8 videos in 2 classes; warning: 1 missing or broken" in done.stdout
    assert out.read_bytes() == whole.read_bytes()
    assert json.loads(out.with_suffix(".json").read_text())["root"] == "videos"
