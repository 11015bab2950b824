"""Manifests do not depend on folders, and tell what two copies of a data set differ in."""

import hashlib

import pytest
from typer.testing import CliRunner

from snvideo.cli import app
from snvideo.data.index import IndexRow
from snvideo.data.indexing.manifest import (
    DIFFERENCES,
    ManifestEntry,
    compare_copies,
    manifest_entries,
    read_entries,
    video_name,
    write_manifest,
)
from snvideo.errors import SnvideoError
from tests.data.test_index import write

CLIP = "QgjMcOKaH9I_000004_000014"


def row(path: str = f"{CLIP}.mp4", split: str = "train", **values) -> IndexRow:
    """A usable video of 300 frames."""
    usual = {"label_name": "abseiling", "bytes": 1000, "frames": 300}
    usual |= {"fps": 30.0, "width": 320, "height": 240, "seconds": 10.0}
    return IndexRow(path, split=split, **{**usual, **values})


@pytest.mark.parametrize(
    ("found", "name"),
    [
        (row(), CLIP),
        (row(f"train/abseiling/{CLIP}.mkv"), CLIP),
        (row("abseiling/QgjMcOKaH9I.mp4", start=4.0, end=14.0), CLIP),
        (row("QgjMcOKaH9I_4_14.mp4", start=4.0, end=14.0), CLIP),
        (row("-_____a_b-c_000004_000014.webm"), "-_____a_b-c_000004_000014"),
        (row("archery/v_Archery_g01_c01.avi"), "archery/v_Archery_g01_c01"),
        (row("kick/0_1_4.avi"), "kick/0_1_4"),
        (row("a/take.2.mp4"), "a/take.2"),
    ],
)
def test_names_do_not_depend_on_folders_where_clips_have_names_of_their_own(found, name):
    assert video_name(found) == name


def test_equal_copies_have_equal_manifests_whatever_their_folders_and_order(tmp_path):
    other = "abcdefghijk_000000_000010"
    flat = [row(), row(f"{other}.mp4", "val"), row("x_______\udce9yz_000001_000011.mp4")]
    nested = [found._replace(path=f"all/{found.path}", reason="odd") for found in reversed(flat)]
    files = []
    for name, rows in (("flat", flat), ("nested", nested)):
        (tmp_path / name).mkdir()
        files.append(tmp_path / f"{name}.csv")
        write_manifest(manifest_entries(write(tmp_path / name, rows)), files[-1])
    assert files[0].read_bytes() == files[1].read_bytes()
    assert read_entries(files[0]) == manifest_entries(tmp_path / "flat/index.csv")


BASE = ManifestEntry("a", "train", "x", 1000, 300, "ok")
BROKEN = BASE._replace(status="broken", frames=0)


@pytest.mark.parametrize(
    ("first", "second", "difference"),
    [
        ([BASE], [], "only in the first"),
        ([], [BASE], "only in the second"),
        ([BROKEN], [BASE], "unusable in the first"),
        ([BASE], [BROKEN._replace(status="missing", bytes=0)], "unusable in the second"),
        ([BASE], [BASE._replace(split="val")], "another split"),
        ([BASE], [BASE._replace(label="y", bytes=7)], "another label"),
        ([BASE], [BASE._replace(bytes=900, frames=299)], "another number of frames"),
        ([BASE], [BASE._replace(bytes=900)], "another file with as many frames"),
        ([BASE], [BASE._replace(frames=299)], "the same size with another number of frames"),
    ],
)
def test_each_difference_is_told_apart(first, second, difference):
    compared = compare_copies(first, second)
    split = first[0].split if first else second[0].split
    assert dict(compared.differences) == {difference: [(split, "a")]}
    assert difference in DIFFERENCES
    assert not compared.equal
    assert not compared.same


def test_what_is_unusable_in_both_is_neither_the_same_nor_different():
    compared = compare_copies([BASE, BROKEN._replace(name="b")], [BASE, BROKEN._replace(name="b")])
    assert compared.equal
    assert compared.same == {"train": 1}


def test_a_name_in_several_splits_is_compared_split_by_split():
    val = BASE._replace(split="val", bytes=5)
    compared = compare_copies([BASE, val], [val, BASE])
    assert compared.equal
    assert compared.same == {"train": 1, "val": 1}
    compared = compare_copies([BASE, BASE], [BASE])
    assert dict(compared.differences) == {"only in the first": [("train", "a")]}


def test_commands_write_and_compare(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    one = write(tmp_path / "one", [row(), row("b.mp4", "val")])
    two = write(tmp_path / "two", [row(f"deep/{CLIP}.mp4"), row("b.mp4", "val", bytes=9)])
    manifest, report = tmp_path / "m.csv", tmp_path / "differences.csv"
    run = CliRunner().invoke
    written = run(app, ["index", "manifest", str(one), "--out", str(manifest)])
    assert written.exit_code == 0
    assert "2 usable of 2 videos" in written.output
    assert hashlib.sha256(manifest.read_bytes()).hexdigest() in written.output.replace("\n", "")
    assert run(app, ["index", "compare", str(manifest), str(one)]).exit_code == 0
    compared = run(app, ["index", "compare", str(manifest), str(two), "--out", str(report)])
    assert compared.exit_code == 1
    assert "1 usable videos are the same, 1 videos differ" in compared.output
    assert report.read_text() == ("split,name,difference\nval,b,another file with as many frames\n")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name,split,label,bytes,frames,status\na,train,x,many,3,ok\n", "line 2"),
        ("name,split,label,bytes,frames,status\na,train\n", "line 2"),
        ("a,b\n1,2\n", "no column"),
    ],
)
def test_other_files_are_named(tmp_path, content, message):
    path = tmp_path / "list.csv"
    path.write_text(content)
    with pytest.raises(SnvideoError, match=message):
        read_entries(path)
    with pytest.raises(SnvideoError, match="no index or manifest at"):
        read_entries(tmp_path / "none.csv")
