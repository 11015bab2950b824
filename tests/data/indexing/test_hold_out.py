"""Videos held out for validation: a part of each class, related ones in one split."""

from collections import Counter
from pathlib import Path

import pytest

from snvideo.data.index import IndexRow
from snvideo.data.indexing.hold_out import hold_out, video_groups, warn_of_leaks
from snvideo.data.indexing.listing import Listing
from snvideo.data.indexing.sources import read_kinetics
from snvideo.errors import SnvideoError
from tests.data.indexing.test_sources import touch, write


def ucf(classes: int = 3, groups: int = 10, cuts: int = 4) -> Listing:
    """Cuts of recordings, as UCF-101 names them."""
    rows = [
        IndexRow(f"c{label}/v_c{label}_g{group:02d}_c{cut:02d}.avi", label, split="train")
        for label in range(classes)
        for group in range(groups)
        for cut in range(cuts)
    ]
    return Listing(rows, [f"c{label}" for label in range(classes)], "class folders")


def splits(listing: Listing) -> dict[str, str]:
    return {row.path: row.split for row in listing.rows}


def test_each_class_gives_a_part_for_validation() -> None:
    counts = {0: 10, 1: 4, 2: 2, 3: 1}
    rows = [
        IndexRow(f"{label}/{number}.mp4", label, split="train")
        for label, count in counts.items()
        for number in range(count)
    ]
    test = IndexRow("0/t.mp4", 0, split="test")
    listing = hold_out(Listing([*rows, test], ["a", "b", "c", "d"], "class folders"), 0.2)
    held = Counter(row.label for row in listing.rows if row.split == "val")
    assert held == {0: 2, 1: 1, 2: 1}
    assert listing.rows[-1] == test
    assert [row.path for row in listing.rows[:-1]] == [row.path for row in rows]
    mirrored = hold_out(Listing([test, *rows[::-1]], ["a", "b", "c", "d"], "class folders"), 0.2)
    assert set(mirrored.rows) == set(listing.rows)  # whatever their order


def test_cuts_of_one_recording_are_in_one_split():
    listing = hold_out(ucf(), 0.2, r"v_.+_g\d+")
    groups = video_groups(listing, r"v_.+_g\d+")
    found: dict[str, set[str]] = {}
    for path, split in splits(listing).items():
        found.setdefault(groups[path], set()).add(split)
    assert all(len(one) == 1 for one in found.values())
    held = Counter(row.label for row in listing.rows if row.split == "val")
    assert held == {0: 8, 1: 8, 2: 8}
    assert len({groups[row.path] for row in listing.rows if row.split == "val"}) == 6


def test_without_groups_some_recording_is_in_both(caplog):
    listing = hold_out(ucf(), 0.2)
    warn_of_leaks(listing, r"v_.+_g\d+")
    assert "of 30 groups are in several splits: v_c" in caplog.text
    caplog.clear()
    warn_of_leaks(hold_out(ucf(), 0.2, r"v_.+_g\d+"), r"v_.+_g\d+")
    assert not caplog.text


def test_a_recording_of_several_classes_is_in_one_split():
    """Brackets enclose the group: the number alone, whatever the class."""
    listing = hold_out(ucf(), 0.2, r"_(g\d+)_")
    numbers = {path.split("_")[2] for path, split in splits(listing).items() if split == "val"}
    assert len(numbers) == 2
    for path, split in splits(listing).items():
        assert (split == "val") == (path.split("_")[2] in numbers)


def test_a_class_of_one_recording_stays_and_is_named(caplog):
    listing = ucf(2)
    rows = [row for row in listing.rows if row.label == 0 or "_g03_" in row.path]
    held = hold_out(Listing(rows, listing.labels, "x"), 0.3, r"v_.+_g\d+")
    assert {row.label for row in held.rows if row.split == "val"} == {0}
    assert "no video in split val of c1" in caplog.text


def test_other_splits_are_left_as_they_are():
    listing = ucf(1)
    test = listing.rows[0]._replace(path="t.avi", split="test")
    held = hold_out(Listing([*listing.rows, test], ["c0"], "x"), 0.5)
    assert splits(held)["t.avi"] == "test"


@pytest.mark.parametrize(
    ("splits_of", "group_by", "message"),
    [
        (["train", "val"], None, "1 videos are of the split val already: drop the fraction"),
        (["test", "test"], None, "no video of the split train to take a fraction from: found test"),
        (["train", "train"], "g(", "'g\\(': no regular expression"),
        (["train", "train"], "youtube", "no column .* in the path of 2 videos, as 0.mp4"),
    ],
)
def test_what_cannot_be_held_out_is_one_line(splits_of, group_by, message):
    rows = [IndexRow(f"{n}.mp4", 0, split=split) for n, split in enumerate(splits_of)]
    with pytest.raises(SnvideoError, match=message):
        hold_out(Listing(rows, ["a"], "x"), 0.5, group_by)


def test_a_column_of_annotations_names_groups(tmp_path: Path):
    lines = ["label,youtube_id,time_start,time_end,split,channel"]
    lines += [f"hug,video{n:06d},{s},{s + 10},train,ch{n % 4}" for n in range(8) for s in (0, 20)]
    names = [f"video{n:06d}_{s:06d}_{s + 10:06d}.mp4" for n in range(8) for s in (0, 20)]
    table = write(tmp_path / "k.csv", "\n".join(lines))
    videos = touch(tmp_path / "v", *names)
    by_video = hold_out(
        read_kinetics([table], videos, None, False, "youtube_id"), 0.25, "youtube_id"
    )
    held = sorted(path for path, split in splits(by_video).items() if split == "val")
    assert len(held) == 4
    assert len({path[:11] for path in held}) == 2
    listed = read_kinetics([table], videos, None, False, "channel")
    by_channel = hold_out(listed, 0.25, "channel")
    held = sorted(path for path, split in splits(by_channel).items() if split == "val")
    assert len({int(path[5:11]) % 4 for path in held}) == 1
    assert len(held) == 4
