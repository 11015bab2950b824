"""Summary of an index: numbers counted by hand, and rows that cannot be counted."""

import tracemalloc
from pathlib import Path

import pytest

from snvideo.data.config import ClipConfig
from snvideo.data.index import IndexRow
from snvideo.data.indexing.summary import IndexSummary, summarize_index
from snvideo.errors import SnvideoError
from tests.data.test_index import write

SEEN = {"width": 340, "height": 256, "seconds": 10.0, "bytes": 1000, "seekable": 1}
ROW = IndexRow("a.mp4", 0, "hug", "train", frames=250, fps=25.0, decoders="pyav decord", **SEEN)
KICK = ROW._replace(label=1, label_name="kick")
GONE = ROW._replace(
    status="missing", reason="no such file", frames=0, fps=0.0, seconds=0.0, bytes=0, width=0
)
BROKEN = GONE._replace(status="broken", reason="empty file")
SHORT = ROW._replace(path="s.MKV", frames=57, fps=30.0, seconds=1.9, width=128, height=96, bytes=50)
ROWS = [
    KICK._replace(split="val", reason="also in train; decoding stops early"),
    KICK._replace(split="val", reason="also in train", decoders="pyav", seekable=0),
    ROW,
    ROW._replace(path="b.webm", orientation=8, width=256, height=340),
    SHORT,
    SHORT._replace(frames=56, path="none"),
    KICK,
    GONE,
    GONE._replace(split="val"),
    BROKEN,
    BROKEN._replace(label=1),
    BROKEN._replace(reason="encrypted"),
    BROKEN._replace(split="extra", reason=""),
]


@pytest.fixture
def small(tmp_path: Path) -> IndexSummary:
    return summarize_index(write(tmp_path, ROWS), ClipConfig(frames=8, stride=8))


def test_numbers_are_those_counted_by_hand(small: IndexSummary) -> None:
    counts = {split: array.tolist() for split, array in small.counts.items()}
    assert list(counts) == ["train", "val", "extra"]
    assert counts == {  # label -> ok, missing, broken
        "train": [[4, 1, 2], [1, 0, 1], [0, 0, 0]],
        "val": [[0, 1, 0], [2, 0, 0], [0, 0, 0]],
        "extra": [[0, 0, 1], [0, 0, 0], [0, 0, 0]],
    }
    assert small.usable == 7
    assert small.seconds == {"train": pytest.approx(33.8), "val": 20.0, "extra": 0.0}
    assert small.bytes == {"train": 3100, "val": 2000, "extra": 0}
    assert small.short == {"train": 1, "val": 0, "extra": 0}  # 8 x 8 frames end with frame 56
    assert sorted(small.numbers["frames"]) == [56, 57, 250, 250, 250, 250, 250]
    assert sorted(small.numbers["fps"]) == [25, 25, 25, 25, 25, 30, 30]
    assert sorted(small.numbers["seconds"]) == [1.9, 1.9, 10, 10, 10, 10, 10]
    assert small.sizes == {(340, 256): 4, (256, 340): 1, (128, 96): 2}
    assert small.kinds == {
        "resolution": {"340x256": 4, "256x340": 1, "128x96": 2},
        "container": {".mp4": 4, ".webm": 1, ".mkv": 1, "no extension": 1},
        "decoders": {"pyav decord": 6, "pyav": 1},
        "seekable": {"yes": 6, "no": 1},
        "orientation": {"as stored": 6, "turned by 270°": 1},
    }
    assert small.reasons == {
        "ok": {"also in train": 2, "decoding stops early": 1},
        "missing": {"no such file": 2},
        "broken": {"empty file": 2, "encrypted": 1, "no reason given": 1},
    }
    assert small.rare("train", 4) == [("wave", 0), ("kick", 1)]
    assert small.rare("val", 1) == [("hug", 0), ("wave", 0)]


def test_without_a_clip_no_video_is_short(tmp_path: Path) -> None:
    found = summarize_index(write(tmp_path, ROWS))
    assert found.short == {"train": 0, "val": 0, "extra": 0}


@pytest.mark.parametrize(
    ("clip", "short"),
    [
        (ClipConfig(frames=1, stride=99), 0),
        (ClipConfig(frames=8, stride=8), 1),
        (ClipConfig(frames=2, stride=57), 2),
        (ClipConfig(frames=2, stride=28, target_fps=15), 1),  # 56 frames at 30 fps, 46.7 at 25
        (ClipConfig(frames=2, stride=250), 7),
    ],
)
def test_short_is_what_repeats_its_last_frame(tmp_path: Path, clip: ClipConfig, short: int) -> None:
    assert sum(summarize_index(write(tmp_path, ROWS), clip).short.values()) == short


def test_indexes_that_cannot_be_counted(tmp_path: Path) -> None:
    with pytest.raises(SnvideoError, match=r"index\.csv: it has no videos"):
        summarize_index(write(tmp_path, []))
    with pytest.raises(SnvideoError, match="no index at"):
        summarize_index(tmp_path / "none.csv")


def test_rows_are_not_kept(tmp_path: Path) -> None:
    peaks = []
    for number in (1_500, 4_500):
        names = (f"some_class_name/{k:011d}_000000_000010.mp4" for k in range(number))
        path = write(tmp_path, (ROW._replace(path=name) for name in names))
        tracemalloc.start()
        found = summarize_index(path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert found.usable == number
        peaks.append(peak)
    assert peaks[1] - peaks[0] < 60 * 3_000  # 24 bytes a row, and a buffer may move as it grows
    assert peaks[1] < 3e6
