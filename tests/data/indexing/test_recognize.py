"""Folders as people have them, and what is taken for their classes and splits."""

from pathlib import Path

import pytest

from snvideo.data.indexing.recognize import recognize
from snvideo.errors import SnvideoError
from tests.data.indexing.test_sources import HEADER, touch, write


def found(folder: Path) -> list[tuple[str, str, str]]:
    """Path, label name and split of every video."""
    listing = recognize(folder).listing
    return [(row.path, listing.labels[row.label], row.split) for row in listing.rows]


def test_class_folders_without_and_with_splits(tmp_path: Path) -> None:
    plain = touch(tmp_path / "plain", "hug/a.mp4", "kick/b.mp4", "kick/deep/c.mp4")
    assert found(plain) == [
        ("hug/a.mp4", "hug", "train"),
        ("kick/b.mp4", "kick", "train"),
        ("kick/deep/c.mp4", "kick", "train"),
    ]
    split = touch(tmp_path / "split", "Train/hug/a.mp4", "Train/kick/b.mp4", "validation/hug/c.avi")
    assert found(split)[-1] == ("validation/hug/c.avi", "hug", "val")
    assert recognize(split).kind == "class folders" and not recognize(split).remarks


@pytest.mark.parametrize("place", ["v", "v/annotations", "."])
def test_kinetics_annotations_in_and_beside_the_folder(tmp_path: Path, place: str) -> None:
    videos = touch(tmp_path / "v", "x/abc_000001_000011.mp4", "x/def_000002_000012.mp4")
    (tmp_path / place).mkdir(exist_ok=True)
    for split, row in (("train", "hug,abc,1,11,train"), ("val", "kick,def,2,12,val")):
        write(tmp_path / place / f"kinetics_{split}.csv", f"{HEADER}{row}\n")
    recognized = recognize(videos)
    assert [(r.path, r.label, r.split) for r in recognized.listing.rows] == [
        ("x/abc_000001_000011.mp4", 0, "train"),
        ("x/def_000002_000012.mp4", 1, "val"),
    ]
    assert recognized.kind.startswith("Kinetics annotations") and "_train.csv" in recognized.kind
    assert "whatever folders are called" in recognized.remarks[0]


def test_annotations_of_other_videos_are_passed_over_and_said(tmp_path: Path) -> None:
    videos = touch(tmp_path / "v", "hug/a.mp4", "kick/b.mp4")
    write(videos / "train.csv", f"{HEADER}hug,zzz,1,11,train\n")
    recognized = recognize(videos)
    assert recognized.kind == "class folders"
    (remark,) = recognized.remarks
    assert "train.csv: passed over, as none of the videos is named there" in remark


@pytest.mark.parametrize(
    ("prefix", "separator"), [("", " "), ("kick/", ","), ("/elsewhere/v/kick/", " "), ("", "\t")]
)
def test_lists_with_whatever_path_they_begin(tmp_path: Path, prefix: str, separator: str) -> None:
    videos = touch(tmp_path / "v", "kick/a b.mp4", "kick/c.mp4", "kick/d.mp4")
    write(videos / "train.csv", f"{prefix}a b.mp4{separator}1\n{prefix}c.mp4{separator}0\n")
    write(videos / "val.csv", f"{prefix}d.mp4{separator}1\n")
    assert found(videos) == [
        ("kick/a b.mp4", "1", "train"),  # a folder of both ids names neither
        ("kick/c.mp4", "0", "train"),
        ("kick/d.mp4", "1", "val"),
    ]


def test_ids_are_named_by_a_label_file_or_by_folders(tmp_path: Path) -> None:
    videos = touch(tmp_path / "v", "Bow/a.avi", "Bow/b.avi", "Run/c.avi")
    write(videos / "trainlist01.txt", "Bow/a.avi 1\nRun/c.avi 2\n")
    write(videos / "trainlist02.txt", "Bow/b.avi 1\nRun/c.avi 2\n")
    write(videos / "testlist01.txt", "Bow/b.avi\n")  # UCF101's has no ids, and they begin at 1
    recognized = recognize(videos)
    assert recognized.listing.labels == ["0", "Bow", "Run"]
    assert [(r.path, r.label, r.split) for r in recognized.listing.rows] == [
        ("Bow/a.avi", 1, "train"),
        ("Run/c.avi", 2, "train"),
        ("Bow/b.avi", -1, "test"),
    ]
    assert "trainlist02.txt: left out" in recognized.remarks[0]
    write(videos / "label_map.txt", "none\nbowing\nrunning\n")
    assert recognize(videos).listing.labels == ["none", "bowing", "running"]


def test_one_file_is_never_two_entries_of_a_list(tmp_path: Path) -> None:
    """`1.mp4` may be either of two lines, of two labels: neither is guessed."""
    videos = touch(tmp_path / "v", "1.mp4", "x/2.mp4")
    write(videos / "train.txt", "a/1.mp4 0\nb/1.mp4 1\n2.mp4 1\n")
    rows = {row.path: row.label for row in recognize(videos).listing.rows}
    assert rows == {"a/1.mp4": 0, "b/1.mp4": 1, "x/2.mp4": 1}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "no video file in it"),
        (["hug/a.jpg", "kick/b.jpg"], r"no video file in it, but 2 \.jpg"),
        (["a.mp4", "b.mp4"], "2 videos, and nothing that names their classes: looked for class"),
        (["hug/a.mp4"], "one class, 'hug', by class folders"),
        (["all/hug/a.mp4", "all/kick/b.mp4"], r"or give .*/v/all if the classes are its folders"),
        (["train/hug/a.mp4", "kick/b.mp4"], "train look like splits, but kick like a class"),
    ],
)
def test_a_folder_without_classes_is_one_line(tmp_path: Path, names: list[str], message: str):
    (tmp_path / "v").mkdir()
    with pytest.raises(SnvideoError, match=message) as raised:
        recognize(touch(tmp_path / "v", *names))
    assert "\n" not in str(raised.value)


def test_tables_that_list_no_videos_are_nothing(tmp_path: Path) -> None:
    videos = touch(tmp_path / "v", "hug/a.mp4", "kick/b.mp4", ".hidden/train.txt")
    write(videos / "README.txt", "Videos of hugs.\n")
    write(videos / "sizes.csv", "name,bytes\na.mp4,3\n")
    write(videos / "frames.csv", "".join(f"hug/{k}.mp4,{100 + k}\n" for k in range(20)))
    touch(videos, *(f"hug/{k}.mp4" for k in range(20)))
    (videos / "odd.txt").write_bytes(b"\xff\xfe\0")
    write(videos / "index.csv", "path,label,label_name,split\nhug/a.mp4,0,hug,train\n")
    recognized = recognize(videos)
    assert recognized.kind == "class folders"
    (remark,) = recognized.remarks
    assert "frames.csv: passed over, as 20 numbers for 20 videos are no labels" in remark


@pytest.mark.parametrize(
    ("line", "number"), [("path,label", 1), ("hug/20.mp4", 21), ("hug/20.mp4,hug", 21)]
)
def test_a_line_that_is_wrong_is_said_and_not_the_list_passed_over(tmp_path, line, number):
    names = [f"hug/{k}.mp4" for k in range(20)]
    lines = [f"{name} {k % 2}" for k, name in enumerate(names)]
    lines.insert(number - 1, line)
    videos = touch(tmp_path / "v", *names, "kick/a.mp4")
    write(videos / "train.txt", "\n".join(lines))
    with pytest.raises(SnvideoError, match=f"train.txt line {number}: .*path and label id"):
        recognize(videos)
