import os
from pathlib import Path

import pytest

from snvideo.data.files import scan_videos
from snvideo.data.indexing.listing import Listing
from snvideo.data.indexing.sources import read_class_folders, read_kinetics, read_labels, read_lists
from snvideo.errors import SnvideoError

HEADER = "label,youtube_id,time_start,time_end,split\n"


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"video")
    return root


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_scan_finds_videos_by_extension_through_links(tmp_path: Path) -> None:
    elsewhere = touch(tmp_path / "elsewhere", "c.WEBM")
    root = touch(tmp_path / "v", "b/a.mp4", "a.avi", "b/note.txt", ".hidden/x.mp4", "b/._a.mp4")
    (root / "linked").symlink_to(elsewhere)
    (root / "b" / "loop").symlink_to(root)
    assert scan_videos(root) == ["a.avi", "b/a.mp4", "linked/c.WEBM"]


def test_what_is_no_video_by_its_ending_is_counted(tmp_path: Path, caplog) -> None:
    endings = ["MTS", "m2ts", "ogv", "gif", "vob", "asf", "divx", "f4v", "mxf", "dv", "3g2", "qt"]
    root = touch(tmp_path / "v", *(f"hug/{k}.{end}" for k, end in enumerate(endings)))
    caplog.set_level("INFO")
    assert len(scan_videos(root)) == len(endings) and not caplog.text
    touch(root, "kick/a.rm", "kick/b.RM", "kick/c.txt", "kick/README", ".hidden/x.rm")
    assert len(scan_videos(root)) == len(endings)
    (line,) = caplog.messages
    assert all(part in line for part in ("2 .rm", "1 .txt", "1 no ending"))
    (root / "hug").rename(tmp_path / "hug")
    with pytest.raises(SnvideoError, match=r"no video file in it, but 2 \.rm"):
        scan_videos(root)


@pytest.mark.parametrize("kind", ["mutual", "up", "two", "chain", "out and in"])
def test_each_folder_is_searched_once(tmp_path: Path, kind: str, caplog) -> None:
    """Under its own path, so that videos have the labels of the folders that they lie in."""
    root = touch(tmp_path / "v", "hug/1.mp4", "kick/2.mp4", "kick/deep/3.mp4")
    outside = touch(tmp_path / "w", "4.mp4")
    expected = ["hug/1.mp4", "kick/2.mp4", "kick/deep/3.mp4"]
    match kind:
        case "mutual":
            (root / "hug" / "link").symlink_to(root / "kick")
            (root / "kick" / "link").symlink_to(root / "hug")
        case "up":
            (root / "kick" / "deep" / "a").symlink_to(root)
        case "two":
            for label in ("a", "b"):
                (root / label).symlink_to(outside)
            expected = ["a/4.mp4", *expected]
        case "chain":
            (root / "a").symlink_to(root / "b")
            (root / "b").symlink_to(root / "kick")
        case "out and in":
            (root / "a").symlink_to(outside)
            (outside / "back").symlink_to(root)
            expected = ["a/4.mp4", *expected]
    assert scan_videos(root) == expected
    assert "taken already" in caplog.text


def test_a_folder_that_cannot_be_read_costs_itself_alone(
    tmp_path: Path, caplog, monkeypatch
) -> None:
    root = touch(tmp_path / "v", "hug/1.mp4", "lost+found/x.mp4")
    real = os.scandir

    def scandir(path):  # root may read anything
        if "lost" in str(path):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert scan_videos(root) == ["hug/1.mp4"]
    assert "lost+found (Permission denied)" in caplog.text
    with pytest.raises(SnvideoError, match=r"lost\+found: Permission denied"):
        scan_videos(root / "lost+found")


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: None])
def test_scan_of_nothing_is_an_error(tmp_path: Path, make) -> None:
    make(tmp_path / "v")
    with pytest.raises(SnvideoError, match=r"videos .*/v: (no video file|No such file)"):
        scan_videos(tmp_path / "v")


def test_kinetics_rows_meet_their_files(tmp_path: Path) -> None:
    videos = touch(
        tmp_path / "v",
        "_aB-_000010_000020.mp4",  # flat; ids may hold what separates
        "train/playing_guitar/b_000000_000010.mkv",  # split and class folders, underscores
        "playing guitar/c.webm",  # the id alone
        "d_5_15.mp4",  # numbers not padded
        "stray.mp4",
    )
    train = write(
        tmp_path / "train.csv",
        HEADER + "abseiling,_aB-,10,20,train\nplaying guitar,b,0,10,train\n"
        '"playing guitar",c,7,17,train\nabseiling,gone,3,13,train\n',
    )
    val = write(tmp_path / "validate.csv", HEADER + "abseiling,d,5.0,15.0,validate\n")
    listing = read_kinetics([train, val], videos)
    assert listing.labels == ["abseiling", "playing guitar"]
    assert [(r.path, r.label, r.split, r.start, r.end, r.reason) for r in listing.rows] == [
        ("_aB-_000010_000020.mp4", 0, "train", 10, 20, ""),
        ("train/playing_guitar/b_000000_000010.mkv", 1, "train", 0, 10, ""),
        ("playing guitar/c.webm", 1, "train", 7, 17, ""),
        ("gone_000003_000013.mp4", 0, "train", 3, 13, ""),
        ("d_5_15.mp4", 0, "val", 5, 15, ""),
    ]
    assert listing.skipped == {"files that no row names": 1}


def test_kinetics_of_several_files_takes_the_fitting_one(tmp_path: Path) -> None:
    stem = "a_000000_000010.mp4"
    videos = touch(tmp_path / "v", f"train/x/{stem}", f"val/x/{stem}", f"val/y_z/{stem}")
    csv = write(tmp_path / "k.csv", HEADER + "y z,a,0,10,val\n")
    assert [row.path for row in read_kinetics([csv], videos).rows] == [f"val/y_z/{stem}"]


def test_kinetics_replacements_and_other_files_of_a_clip_are_kept_in_mind(tmp_path: Path) -> None:
    stem = "a_000000_000010"
    names = [f"train/y_z/{stem}.mp4", f"train/y_z/{stem}.mkv", f"replacement/{stem}.mp4"]
    videos = touch(tmp_path / "v", *names, "b_0_10.webm", "b_000000_000010.mp4", "stray.mp4")
    csv = write(tmp_path / "k.csv", HEADER + "y z,a,0,10,train\ny z,b,0,10,train\n")
    listing = read_kinetics([csv], videos)
    assert [listing.files(row) for row in listing.rows] == [
        [names[2], names[1], names[0]],
        ["b_000000_000010.mp4", "b_0_10.webm"],
    ]
    assert listing.skipped == {"further files of clips": 3, "files that no row names": 1}


def test_class_folders_beside_replacements(tmp_path: Path) -> None:
    videos = touch(
        tmp_path / "v", "train/hug/1.mp4", "val/kick/2.mkv", "val/kick/2.mp4", "val/kick/4.mp4",
        "replacement/for_corrupted_k400/2.mp4", "replacement/3.mp4",
    )  # fmt: skip
    listing = read_class_folders(videos)
    assert listing.labels == ["hug", "kick"]
    assert [(listing.files(row), row.split, row.reason) for row in listing.rows] == [
        (["train/hug/1.mp4"], "train", ""),
        (
            ["replacement/for_corrupted_k400/2.mp4", "val/kick/2.mkv"],
            "val",
            "also with another ending",
        ),
        (["val/kick/2.mp4"], "val", "also with another ending"),
        (["val/kick/4.mp4"], "val", ""),
    ]
    assert listing.skipped == {"further files of clips": 1, "replacements of no video": 1}


@pytest.mark.parametrize("other", ["riding_a_bike", "Riding a Bike", "riding_a bike"])
def test_labels_that_are_spelled_alike_are_one(tmp_path: Path, other: str, caplog) -> None:
    name = "riding a bike"
    videos = touch(tmp_path / "v", f"train/{name}/1.mp4", f"val/{other}/2.mp4", "val/hug/3.mp4")
    listing = read_class_folders(videos)
    assert listing.labels == sorted(["hug", min(name, other)])
    assert len({row.label for row in listing.rows}) == 2
    assert "taken for one" in caplog.text
    csv = write(
        tmp_path / "k.csv", HEADER + f"{name},1,0,1,train\n{other},2,0,1,val\nhug,3,0,1,val\n"
    )
    assert read_kinetics([csv], videos).labels == listing.labels
    apart = read_class_folders(videos, labels=[other, name, "hug"])
    assert sorted(row.label for row in apart.rows) == [0, 1, 2]


def test_kinetics_notices_repeats_and_leaks(tmp_path: Path) -> None:
    stem = "a_000000_000010.mp4"
    videos = touch(tmp_path / "v", f"train/{stem}", f"val/{stem}")
    csv = write(
        tmp_path / "k.csv",
        HEADER + "x,a,0,10,train\nx,a,0,10,train\nx,a,0,10,val\ny,a,0,10,train\n",
    )
    listing = read_kinetics([csv], videos)
    notes = [(row.path, row.label, row.reason) for row in listing.rows]
    assert notes == [
        (f"train/{stem}", 0, ""),
        (f"val/{stem}", 0, "also in train"),
        (f"train/{stem}", 1, "also has another label"),
    ]
    assert listing.skipped == {"repeated rows": 1}


def test_kinetics_without_labels_or_split(tmp_path: Path) -> None:
    videos = touch(tmp_path / "v", "a_000000_000010.mp4", "b_000000_000010.mp4")
    train = write(tmp_path / "kinetics_train.csv", "label,youtube_id,time_start,time_end\nx,a,0,10")
    test = write(tmp_path / "val.csv", "youtube_id,time_start,time_end,split\nb,0,10,val\n")
    listing = read_kinetics([train, test], videos)
    assert [(row.path, row.split) for row in listing.rows] == [("a_000000_000010.mp4", "train")]
    assert listing.skipped["without a label"] == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,id\nx,a\n", r"k.csv line 1: no column time_end, time_start, youtube_id"),
        ("", r"k.csv line 1: no column"),
        (HEADER + "x,a,0,10,train\nx,a,zero,10,train\n", r"k.csv line 3: times 'zero' to '10'"),
        (HEADER + "x,a\n", r"k.csv line 2: it has 2 values, expected 5"),
        (HEADER + "x,a,0,10\n\nx,b,0,10,train\n", r"k.csv line 2: it has 4 values, expected 5"),
        (HEADER + "x,a,0,10,train\nx, y,b,0,10,train\n", r"k.csv line 3: it has 6 values"),
        ("label,time_start,time_end,youtube_id\nx,0,10\n", r"k.csv line 2: it has 3 values"),
        (
            HEADER + 'x,a,0,10,train\n"x,b,0,10,train\nx,c,0,10,train\n',
            "k.csv line 3: .* left open",
        ),
        (HEADER + '"x' + 20_000 * ",b,0,10,train\n", r"k.csv line 2: field larger .* left open"),
        (HEADER + "x,a,0,inf,train\n", r"k.csv line 2: times"),
    ],
)
def test_kinetics_bad_rows_are_named(tmp_path: Path, text: str, message: str) -> None:
    videos = touch(tmp_path / "v", "a.mp4")
    with pytest.raises(SnvideoError, match=message):
        read_kinetics([write(tmp_path / "k.csv", text)], videos)


def test_kinetics_missing_file(tmp_path: Path) -> None:
    with pytest.raises(SnvideoError, match=r"cannot read .*/k.csv: No such file"):
        read_kinetics([tmp_path / "k.csv"], touch(tmp_path / "v", "a.mp4"))


def test_label_file_decides_ids(tmp_path: Path) -> None:
    videos = touch(tmp_path / "v", "a_000000_000010.mp4")
    csv = write(tmp_path / "k.csv", HEADER + "playing guitar,a,0,10,train\n")
    labels = read_labels(write(tmp_path / "labels.txt", "zumba\nplaying_guitar\n"))
    assert [row.label for row in read_kinetics([csv], videos, labels).rows] == [1]
    with pytest.raises(SnvideoError, match=r"k.csv line 2: label 'playing guitar' is not one of"):
        read_kinetics([csv], videos, ["zumba"])


@pytest.mark.parametrize(
    ("text", "message"),
    [("a\na\n", "line 2: 'a' comes twice"), ("a\n\nb\n", "line 2: empty"), ("", "line 1: empty")],
)
def test_bad_label_files(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SnvideoError, match=message):
        read_labels(write(tmp_path / "labels.txt", text))


def test_split_and_class_folders(tmp_path: Path) -> None:
    videos = touch(
        tmp_path, "train/hug/1.avi", "Validation/kick/sub/2.mp4", "test/hug/3.mp4", "loose.mp4"
    )
    (videos / "annotations").mkdir()  # no video, so neither split nor class
    listing = read_class_folders(videos)
    assert listing.labels == ["hug", "kick"]
    assert [(row.path, row.label, row.split) for row in listing.rows] == [
        ("Validation/kick/sub/2.mp4", 1, "val"),
        ("test/hug/3.mp4", 0, "test"),
        ("train/hug/1.avi", 0, "train"),
    ]
    assert listing.skipped == {"files outside class folders": 1}


def test_class_folders_in_one_split(tmp_path: Path) -> None:
    rows = read_class_folders(touch(tmp_path, "hug/1.mp4", "kick/2.mp4"), split="validate").rows
    assert [(row.label, row.split) for row in rows] == [(0, "val"), (1, "val")]


def test_mixed_folders_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "train/hug/1.mp4", "kick/2.mp4")
    with pytest.raises(SnvideoError, match="folders train look like splits, but kick like a class"):
        read_class_folders(tmp_path)


def test_lists_of_paths_and_labels(tmp_path: Path) -> None:
    videos = tmp_path / "v"
    train = write(
        tmp_path / "train.csv",
        f"a/my video 1.mp4 3\n{videos}/b.mp4,0\n\n./c, d.mp4 ,  1  \n/other/e.mp4\t2\n",
    )
    val = write(tmp_path / "val.csv", "f.mp4 -1\ng.mp4 1\r\ng.mp4 1")
    listing = read_lists({"train": train, "val": val}, videos)
    assert listing.labels == ["0", "1", "2", "3"]
    assert [(row.path, row.label, row.split) for row in listing.rows] == [
        ("a/my video 1.mp4", 3, "train"),
        ("b.mp4", 0, "train"),
        ("c, d.mp4", 1, "train"),
        ("/other/e.mp4", 2, "train"),
        ("g.mp4", 1, "val"),
    ]
    assert listing.skipped == {"without a label": 1, "repeated rows": 1}


@pytest.mark.parametrize(
    ("line", "path"),
    [
        ('"my video.mp4" 3', "my video.mp4"),
        ('"my video.mp4"\t"3"', "my video.mp4"),
        ('"a, b.mp4",3', "a, b.mp4"),
        ('"the ""big"" one.mp4" 3', 'the "big" one.mp4'),
        ("'my video.mp4' 3", "my video.mp4"),
        ('say "no".mp4 3', 'say "no".mp4'),
    ],
)
def test_lists_with_quoted_paths(tmp_path: Path, line: str, path: str) -> None:
    file = write(tmp_path / "l.csv", f"{line}\n")
    (row,) = read_lists({"train": file}, tmp_path).rows
    assert (row.path, row.label) == (path, 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.mp4 0\nb.mp4\n", r"l.csv line 2: 'b.mp4': expected path and label id"),
        ("a.mp4 hug\n", r"l.csv line 1: 'a.mp4 hug': expected"),
        ("a.mp4 2\n", r"l.csv line 1: label 2, but the label file has 2 names \(0 to 1\)"),
    ],
)
def test_lists_bad_lines_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SnvideoError, match=message):
        read_lists({"train": write(tmp_path / "l.csv", text)}, tmp_path, ["x", "y"])


def labelled(listing: Listing) -> list[tuple[str, int, str, str]]:
    return [(row.path, row.label, row.labels, row.reason) for row in listing.rows]


def test_lists_of_several_labels(tmp_path: Path) -> None:
    lines = ["a b 1.mp4 3 7", "b.mp4 2", "c.mp4,5;1|0", '"d 9.mp4" "4, 4"', "b.mp4 6", "e.mp4 -1"]
    file = write(tmp_path / "l.csv", "\n".join(lines) + "\n")
    listing = read_lists({"train": file}, tmp_path, multi_label=True)
    assert labelled(listing) == [
        ("a b 1.mp4", 3, "3 7", ""),
        ("b.mp4", 2, "2 6", ""),  # of two lines
        ("c.mp4", 5, "5 1 0", ""),
        ("d 9.mp4", 4, "4", ""),
    ]
    assert listing.labels == [str(number) for number in range(8)]
    assert listing.skipped == {"without a label": 1}
    with pytest.raises(SnvideoError, match="line 1: label 7, but the label file has 7 names"):
        read_lists({"train": file}, tmp_path, list("abcdefg"), multi_label=True)
    plain = read_lists({"train": write(tmp_path / "p.csv", lines[0])}, tmp_path)
    assert labelled(plain) == [("a b 1.mp4 3", 7, "", "")]  # paths may hold spaces


def test_kinetics_of_several_labels(tmp_path: Path) -> None:
    videos = touch(tmp_path / "v", "a_000000_000010.mp4", "b_000000_000010.mp4")
    rows = "singing;dancing,a,0,10,train\ndancing,b,0,10,train\nrunning | singing,b,0,10,train\n"
    file = write(tmp_path / "train.csv", HEADER + rows)
    listing = read_kinetics([file], videos, multi_label=True)
    assert listing.labels == ["dancing", "running", "singing"]
    assert labelled(listing) == [
        ("a_000000_000010.mp4", 2, "2 0", ""),
        ("b_000000_000010.mp4", 0, "0 1 2", ""),
    ]
    with pytest.raises(SnvideoError, match=r"train.csv line 4: label 'running' is not one of"):
        read_kinetics([file], videos, ["singing", "dancing"], multi_label=True)


def test_repeats_are_dropped_whatever_split_or_label_came_first(tmp_path: Path) -> None:
    train = write(tmp_path / "train.txt", "v.mp4 0\nv.mp4 0\nw.mp4 0\nw.mp4 1\nw.mp4 1\n")
    val = write(tmp_path / "val.txt", "v.mp4 0\nv.mp4 0\nv.mp4 -1\n")
    listing = read_lists({"train": train, "val": val}, tmp_path)
    assert [(row.path, row.label, row.split, row.reason) for row in listing.rows] == [
        ("v.mp4", 0, "train", ""),
        ("w.mp4", 0, "train", ""),
        ("w.mp4", 1, "train", "also has another label"),
        ("v.mp4", 0, "val", "also in train"),
    ]
    assert listing.skipped["repeated rows"] == 3


def test_a_file_is_one_by_whatever_way_it_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "v/a/1.mp4", "v/2.mp4", "elsewhere/b/3.mp4")
    (tmp_path / "v/link").symlink_to(tmp_path / "elsewhere/b")
    inside = f"{tmp_path}/v/2.mp4 0\n2.mp4 0\na/../2.mp4 0\nlink/../3.mp4 0\n"
    train = write(tmp_path / "train.txt", inside)
    videos = tmp_path / "x" / ".." / "v"
    (tmp_path / "x").mkdir()
    listing = read_lists({"train": train}, videos)
    assert [row.path for row in listing.rows] == ["2.mp4", "link/../3.mp4"]
    assert listing.skipped["repeated rows"] == 2
