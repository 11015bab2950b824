"""Videos in tar files: the same frames as those of files, and tar files of every odd kind."""

import tarfile
from pathlib import Path

import numpy as np
import pytest

from snvideo.data.config import ClipConfig, DataConfig, TrainViewConfig
from snvideo.data.decoding import DecodeError, decode_frames, missing
from snvideo.data.files import find_videos, scan_videos
from snvideo.data.index import ClipIndex, read_rows
from snvideo.data.indexing.build import build_index
from snvideo.data.indexing.sources import read_class_folders, read_lists
from snvideo.data.loader import train_loader
from snvideo.data.preparing.prepare import prepare_videos
from snvideo.data.tar import member_headers, split_member
from snvideo.errors import SnvideoError
from tests.data import decoders
from tests.data.videos import frame_number, write_video

LONG = f"{'ä' * 60}/{'x' * 90}.mp4"


def pack(tar: Path, *members: tuple[str, Path], **options) -> Path:
    tar.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(tar, "w", **options) as out:
        for name, file in members:
            out.add(file, name)
    return tar


@pytest.fixture(scope="module")
def one(tmp_path_factory) -> Path:
    return write_video(tmp_path_factory.mktemp("one") / "a.mp4", frames=30)


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> Path:
    return write_video(tmp_path_factory.mktemp("other") / "b.avi", frames=20, codec="mpeg4")


def test_batches_are_those_of_files(toy: Path, tmp_path: Path) -> None:
    files = sorted((toy / "train").rglob("*.mp4"))[:24]
    folders, packed = tmp_path / "folders", tmp_path / "packed"
    for file in files:
        copy = folders / file.parent.name / file.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())
    for shard in range(2):
        members = [(f"./{f.parent.name}/{f.name}", f) for f in files[shard::2]]
        pack(packed / f"shard_{shard}.tar", *members)
    batches = {}
    for root in (folders, packed):
        listing = read_class_folders(root)
        # Both in one order, as the order of an index decides what comes when.
        listing.rows.sort(key=lambda row: Path(row.path).name)
        out = tmp_path / f"{root.name}.csv"
        build_index(listing, root, out, check="decode" if root == packed else "packets")
        rows = list(read_rows(out))
        assert {row.status for row in rows} == {"ok"}
        assert [row.offset is not None for row in rows] == [root == packed] * len(files)
        for decoder in ("pyav", "decord"):
            config = DataConfig(
                index=out,
                workers=1,
                decoder=decoder,
                clip=ClipConfig(frames=4, stride=4),
                train=TrainViewConfig(short_side=(40, 48), crop=32),
            )
            index = ClipIndex.load(out, "train")
            assert index.trusting("decord") == (0 if missing("decord") else len(files))
            passes = iter([(0, range(8)), (0, range(8, 16)), (1, range(8))])
            batches[root, decoder] = list(train_loader(index, config, 3, passes))
    expected = batches.pop((folders, "pyav"))
    for found in batches.values():
        for batch, same in zip(found, expected, strict=True):
            assert batch.clips.equal(same.clips) and batch.labels.equal(same.labels)
            assert not batch.unreadable


@pytest.mark.parametrize("decoder", decoders.ALL)
def test_frames_of_a_member_in_the_middle(decoder: str, one: Path, tmp_path: Path) -> None:
    tar = pack(tmp_path / "it's, a:tar,,.tar", ("x.mp4", one), (LONG, one), ("y.mp4", one))
    frames = decode_frames(tar / LONG, [3, 17, 29], decoder)
    assert [frame_number(frame) for frame in frames] == [3, 17, 29]
    assert np.array_equal(frames, decode_frames(one, [3, 17, 29]))


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_names_and_kinds_of_members(form, one: Path, other: Path, tmp_path: Path, caplog) -> None:
    tar = tmp_path / "videos" / "hug.tar"
    tar.parent.mkdir()
    with tarfile.open(tar, "w", format=form) as out:
        for name in ("twice.mp4", LONG, "/rooted.mp4", "../outside.mp4", "._twice.mp4", "a.txt"):
            out.add(one, name)
        for kind in (tarfile.LNKTYPE, tarfile.SYMTYPE):
            link = tarfile.TarInfo(f"link{kind.decode()}.mp4")
            link.type, link.linkname = kind, "twice.mp4"
            out.addfile(link)
        out.add(other, "twice.mp4")
    assert scan_videos(tar.parent) == sorted(
        f"hug.tar/{name}" for name in ("twice.mp4", LONG, "rooted.mp4")
    )
    assert "1 names that lead out of it" in caplog.text and "2 links" in caplog.text
    assert "1 files whose name comes again, of which the last is taken" in caplog.text
    rows = {row.path: row for row in indexed(tar.parent, tmp_path)}
    assert rows["hug.tar/twice.mp4"].frames == 20  # the last one
    assert rows[f"hug.tar/{LONG}"].frames == rows["hug.tar/rooted.mp4"].frames == 30
    assert {row.label_name for row in rows.values()} == {"hug"}


def indexed(videos: Path, folder: Path, **options) -> list:
    out = folder / "index.csv"
    build_index(read_class_folders(videos, **options), videos, out)
    return list(read_rows(out))


def test_sparse_and_enormous_members(one: Path, tmp_path: Path, caplog) -> None:
    """A sparse file is left out; the place of a member behind 9 GiB of another is found."""
    tar = tmp_path / "v.tar"
    with tarfile.open(tar, "w", format=tarfile.GNU_FORMAT) as out:
        out.add(one, "sparse.mp4")
        huge = tarfile.TarInfo("huge.mp4")
        huge.size = 9 << 30
        header = huge.tobuf(tarfile.PAX_FORMAT)
    content = bytearray(tar.read_bytes())
    content[156:157] = tarfile.GNUTYPE_SPARSE
    content[148:156] = b"%06o\0 " % tarfile.calc_chksums(bytes(content[:512]))[0]
    end = 512 + -(-one.stat().st_size // 512) * 512
    with tar.open("wb") as file:
        file.write(content[:end] + header)
        file.truncate(file.tell() + huge.size)
    with tarfile.open(tmp_path / "tail.tar", "w") as out:
        out.add(one, "last.mp4")
    with tar.open("ab") as file:
        file.write((tmp_path / "tail.tar").read_bytes())
    assert sorted(member_headers(tar)) == ["huge.mp4", "last.mp4"]
    assert "1 sparse files" in caplog.text
    assert frame_number(decode_frames(tar / "last.mp4", [7])[0]) == 7
    with pytest.raises(DecodeError, match="no video header"):
        decode_frames(tar / "huge.mp4", [0])


def test_tar_files_that_end_early_or_late(one: Path, tmp_path: Path, caplog) -> None:
    whole = pack(tmp_path / "whole" / "c.tar", ("hug/a.mp4", one), ("hug/b.mp4", one))
    content = whole.read_bytes()
    size = one.stat().st_size
    second = member_headers(whole)["hug/b.mp4"]
    cut = tmp_path / "cut" / "c.tar"
    cut.parent.mkdir()
    for end, remark, names in (
        (second + 512 + size // 2, "cut off at byte", ["a", "b"]),
        (second, "without the mark of its end", ["a"]),
        (second + 100, "without the mark of its end", ["a"]),
    ):
        caplog.clear()
        cut.write_bytes(content[:end])
        assert scan_videos(cut.parent) == [f"c.tar/hug/{name}.mp4" for name in names]
        assert remark in caplog.text
    cut.write_bytes(content[: second + 512 + size // 2])
    rows = indexed(cut.parent, tmp_path)
    assert [(row.status, row.reason) for row in rows] == [
        ("ok", ""),
        ("broken", "its tar file is cut off inside it"),
    ]
    caplog.clear()
    cut.write_bytes(content[:second] + b"rubbish" * 100 + bytes(2048))
    assert scan_videos(cut.parent) == ["c.tar/hug/a.mp4"]
    assert f"damaged at byte {second}" in caplog.text
    caplog.clear()
    cut.write_bytes(content + bytes(1 << 20) + content)
    assert scan_videos(cut.parent) == ["c.tar/hug/a.mp4", "c.tar/hug/b.mp4"]
    assert "behind the mark of its end are not read" in caplog.text


def test_a_tar_file_that_was_replaced_gives_no_frame(one: Path, other: Path, tmp_path: Path):
    tar = pack(tmp_path / "v" / "hug.tar", ("a.mp4", one), ("b.mp4", one))
    indexed(tar.parent, tmp_path)
    index = ClipIndex.load(tmp_path / "index.csv", "train")
    assert len(decode_frames(index[1], [0])) == 1
    for members in (
        [("b.mp4", one), ("a.mp4", one)],  # the same places and sizes
        [("a.mp4", one), ("b.mp4", other)],  # the same name and place
        [("x.avi", other), ("a.mp4", one), ("b.mp4", one)],
    ):
        pack(tar, *members)
        with pytest.raises(DecodeError, match="not where it was in its tar file"):
            decode_frames(index[1], [0])
    tar.unlink()
    with pytest.raises(DecodeError, match="No such file"):
        decode_frames(index[1], [0])


def test_what_is_no_plain_tar_file(one: Path, tmp_path: Path, caplog) -> None:
    zipped = tmp_path / "v" / "part_0.tar.gz"
    zipped.parent.mkdir()
    with tarfile.open(zipped, "w:gz") as out:
        out.add(one, "a.mp4")
    with pytest.raises(SnvideoError, match=r"part_0.tar.gz: compressed, .* unpack it, or gunzip"):
        scan_videos(zipped.parent)
    (zipped.parent / "a.mp4").write_bytes(one.read_bytes())
    assert scan_videos(zipped.parent) == ["a.mp4"]  # unpacked beside it
    assert "part_0.tar.gz: compressed" in caplog.text
    zipped.rename(zipped.with_suffix(""))
    with pytest.raises(SnvideoError, match=r"part_0.tar: not a plain tar file"):
        scan_videos(zipped.parent)
    zipped.with_suffix("").unlink()
    (zipped.parent / "empty.tar").touch()
    with pytest.raises(SnvideoError, match=r"empty.tar: not a plain tar file \(empty file\)"):
        scan_videos(zipped.parent)


def test_tar_files_in_class_folders(one: Path, tmp_path: Path) -> None:
    """By splits, by classes, by shards of both; and clips that lie in two of them."""
    cases = {
        "splits": {"train.tar": ["hug/a.mp4", "kick/b.mp4"], "val.tar": ["kick/c.mp4"]},
        "classes": {"train/hug.tar": ["a.mp4"], "train/kick.tar": ["b.mp4"], "val/kick.tar": ["c"]},
        "shards": {"train/0.tar": ["hug/a.mp4"], "train/1.tar": ["kick/b.mp4"], "val/0.tar": ["k"]},
    }
    cases["classes"]["val/kick.tar"] = ["c.mp4"]
    cases["shards"]["val/0.tar"] = ["kick/c.mp4"]
    for name, tars in cases.items():
        for tar, members in tars.items():
            pack(tmp_path / name / tar, *((member, one) for member in members))
        rows = read_class_folders(tmp_path / name, labels=["hug", "kick"]).rows
        found = {Path(row.path).name: (row.split, row.label) for row in rows}
        assert found == {"a.mp4": ("train", 0), "b.mp4": ("train", 1), "c.mp4": ("val", 1)}
    pack(tmp_path / "shards" / "train" / "2.tar", ("hug/a.mp4", one))
    rows = read_class_folders(tmp_path / "shards").rows
    assert [row.reason for row in rows if row.path.endswith("a.mp4")] == [
        "also in another tar file or beside it"
    ] * 2


def test_lists_arguments_and_preparation(one: Path, tmp_path: Path) -> None:
    tar = pack(tmp_path / "v" / "s.tar", ("c/a.mp4", one), ("c/b.mp4", one))
    (tmp_path / "v.tar").mkdir()  # a folder of such a name
    write_video(tmp_path / "v.tar" / "d.mp4")
    assert find_videos([str(tar)]) == [tar / "c/a.mp4", tar / "c/b.mp4"]
    assert find_videos([str(tar / "c/b.mp4"), str(tmp_path / "v.tar")]) == [
        tar / "c/b.mp4",
        tmp_path / "v.tar" / "d.mp4",
    ]
    with pytest.raises(SnvideoError, match="no video at"):
        find_videos([str(tar / "c/c.mp4")])
    (tmp_path / "train.txt").write_text("s.tar/c/b.mp4 0\ns.tar/c/c.mp4 0\n")
    listing = read_lists({"train": tmp_path / "train.txt"}, tar.parent)
    build_index(listing, tar.parent, tmp_path / "index.csv")
    assert [(row.status, row.frames) for row in read_rows(tmp_path / "index.csv")] == [
        ("ok", 30),
        ("missing", 0),
    ]
    prepared = prepare_videos(tmp_path / "index.csv", tmp_path / "out")
    (row,) = (row for row in read_rows(prepared.index) if row.status == "ok")
    assert (row.path, row.frames, row.offset) == ("s.tar/c/b.mp4", 30, None)
    again = prepare_videos(tmp_path / "index.csv", tmp_path / "out")
    assert again.kept == 1


def test_members_of_a_tar_file_in_a_folder_of_any_name(tmp_path, one):
    """A capital I with a dot is two letters in lower case."""
    tar = pack(tmp_path / "\u0130stanbul/clips.TAR", ("archery/a.mp4", one))
    assert split_member(f"{tar}/archery/a.mp4") == (str(tar), "archery/a.mp4")
