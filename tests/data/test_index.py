import csv
import json
import multiprocessing
import os
import time
import tracemalloc
from collections.abc import Iterable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest

from snvideo.data.index import COLUMNS, ClipIndex, IndexRow, Video, read_rows
from snvideo.data.index_meta import VERSION
from snvideo.data.indexing.summary import summarize_index
from snvideo.errors import SnvideoError

SEEN = {"width": 64, "height": 48, "seconds": 0.96, "bytes": 3000, "seekable": 1}
ROW = IndexRow("a.mp4", 0, "hug", "train", frames=24, fps=25.0, decoders="pyav decord", **SEEN)
ROWS = [
    ROW,
    ROW._replace(path="b, c.avi", label=1, label_name="kick", decoders="pyav", orientation=6),
    ROW._replace(path="gone.mp4", status="missing", reason="no such file", frames=0, fps=0.0),
    ROW._replace(path="dé.mp4", label=1, label_name="kick", first_frame=7, fps=29.97),
    ROW._replace(path="v.mp4", split="val", label=1, label_name="kick"),
    ROW._replace(path="t.mp4", split="test", status="broken", reason="empty file", frames=0),
]


LARGE = 100_000
LABELS = ["hug", "kick", "wave"]


def write(
    folder: Path, rows: Iterable[IndexRow] = ROWS, labels: Sequence[str] = LABELS, root: str = "."
) -> Path:
    path = folder / "index.csv"
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    path.with_suffix(".json").write_text(
        json.dumps({"root": root, "labels": labels, "version": VERSION})
    )
    return path


def test_usable_videos_of_a_split_in_order(tmp_path: Path) -> None:
    index = ClipIndex.load(write(tmp_path), "train")
    assert len(index) == 3
    assert [video.name for video in index] == ["a.mp4", "b, c.avi", "dé.mp4"]
    assert index[0] == Video(
        tmp_path / "a.mp4", 0, 0, 24, 25.0, 64, 48, 1, True, "pyav decord", "a.mp4", 3000
    )
    assert (index[1].decoders, index[1].orientation) == ("pyav", 6)
    assert index[-1] == index[2]
    assert index[2].first_frame == 7
    assert index[2].fps == pytest.approx(29.97)
    assert index[np.int64(2)].path.is_absolute()
    with pytest.raises(IndexError):
        index[3]
    assert index.labels == ["hug", "kick", "wave"]


def test_root_is_stated_beside_the_index_or_given(tmp_path: Path) -> None:
    for name in ("videos", "elsewhere"):
        (tmp_path / name).mkdir()
    path = write(tmp_path, root="videos")
    assert ClipIndex.load(path, "val")[0].path == tmp_path / "videos" / "v.mp4"
    assert ClipIndex.load(path, "val", tmp_path / "elsewhere").root == tmp_path / "elsewhere"
    absolute = write(tmp_path, root=str(tmp_path / "elsewhere"))
    assert ClipIndex.load(absolute, "val").root == tmp_path / "elsewhere"
    with pytest.raises(SnvideoError, match=r"no video folder at .*/gone: set data\.root"):
        ClipIndex.load(path, "val", tmp_path / "gone")


def test_hash_tells_what_decides_a_run(tmp_path: Path) -> None:
    def digest(rows: list[IndexRow], **meta: object) -> str:
        return ClipIndex.load(write(tmp_path, rows, **meta), "train").hash

    before = digest(ROWS)
    assert len(before) == 64
    assert before == ClipIndex.load(tmp_path / "index.csv", "val").hash
    irrelevant = [row._replace(bytes=1, start=3.0) for row in ROWS]
    irrelevant[2] = irrelevant[2]._replace(path="other.mp4")  # not usable
    (tmp_path / "v").mkdir()
    assert digest(irrelevant, root="v") == before
    changes = {"path": "x", "label": 2, "split": "test", "first_frame": 1, "frames": 9}
    for name, value in changes.items():  # of a validation video, too
        changed = ROWS[4]._replace(**{name: value}, label_name="")
        assert digest([*ROWS[:4], changed]) != before
    assert digest([ROWS[1], ROWS[0], *ROWS[2:]]) != before
    assert digest(ROWS, labels=["hug", "kick", "nod"]) != before


def test_missing_files_say_how_to_make_them(tmp_path: Path) -> None:
    path = tmp_path / "index.csv"
    with pytest.raises(SnvideoError, match=r"no index at .*index\.csv: build it with 'snvideo "):
        ClipIndex.load(path, "train")
    write(tmp_path).with_suffix(".json").unlink()
    with pytest.raises(SnvideoError, match=r"no index at .*index\.json: build it with"):
        ClipIndex.load(path, "train")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"root": "."}', '{"root": ".", "labels": [1]}'])
def test_malformed_json(tmp_path: Path, text: str) -> None:
    path = write(tmp_path)
    path.with_suffix(".json").write_text(text)
    with pytest.raises(SnvideoError, match=r"index\.json: expected"):
        ClipIndex.load(path, "train")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": "one"}, r"line 3: label is 'one', expected a whole number: correct it, or"),
        ({"label": 3}, r"line 3: label is 3, expected 0 to 2, as in the \.json file"),
        ({"label": -2}, r"line 3: label is -2, expected 0 to 2, as .*, or -1 for none"),
        ({"label": -1, "labels": "1"}, r"line 3: labels is '1', expected label ids"),
        ({"status": "fine"}, r"line 3: status is 'fine', expected one of ok, missing, broken"),
        ({"frames": 0}, r"line 3: frames of a usable video is 0, expected at least 1"),
        ({"frames": 2.5}, r"line 3: frames is '2.5', expected a whole number"),
        ({"frames": 1 << 40}, r"line 3: frames of a usable video is 1099511627776"),
        ({"fps": "nan"}, r"line 3: fps of a usable video is nan"),
        ({"seconds": "inf"}, r"line 3: seconds of a usable video is inf"),
        ({"fps": ""}, r"line 3: fps is '', expected a number"),
        ({"decoders": "x"}, r"line 3: decoders is 'x', expected some of pyav decord torchcodec: "),
        ({"decoders": ""}, r"line 3: decoders is '', expected some of"),
    ],
)
@pytest.mark.parametrize("read", [lambda path: ClipIndex.load(path, "train"), summarize_index])
def test_bad_values_are_named_by_line(tmp_path: Path, change: dict, message: str, read) -> None:
    path = write(tmp_path, [ROW, ROW._replace(**change)])
    with pytest.raises(SnvideoError, match=message):
        read(path)


def test_bad_tables(tmp_path: Path) -> None:
    path = write(tmp_path)
    text = path.read_text()
    path.write_text(text.replace("label_name,", "name,").replace("fps", "rate"))
    with pytest.raises(
        SnvideoError, match="line 1: no column label_name, fps: correct it, or build it again"
    ):
        ClipIndex.load(path, "train")
    path.write_text(text + "a.mp4,0\n")
    with pytest.raises(SnvideoError, match="line 8: it has 2 values, expected 20"):
        ClipIndex.load(path, "train")


def test_empty_splits(tmp_path: Path) -> None:
    path = write(tmp_path)
    message = r"no split 'valid': it has train \(4 videos\), val \(1 videos\), test \(1 videos\)"
    with pytest.raises(SnvideoError, match=message):
        ClipIndex.load(path, "valid")
    with pytest.raises(SnvideoError, match=r"split 'test' is usable \(1 broken\)"):
        ClipIndex.load(path, "test")
    with pytest.raises(SnvideoError, match="it has no videos"):
        ClipIndex.load(write(tmp_path, []), "train")


def many(folder: Path, number: int) -> Path:
    names = (f"some_class_name/{i:011d}_000000_000010.mp4" for i in range(number))
    rows = (
        ROW._replace(path=name, label=i % 3, label_name=LABELS[i % 3])
        for i, name in enumerate(names)
    )
    return write(folder, rows)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return many(tmp_path_factory.mktemp("large"), LARGE)


def test_many_rows_load_in_seconds(large: Path) -> None:
    started = time.process_time()
    index = ClipIndex.load(large, "train")
    assert time.process_time() - started < 5  # of the processor, however busy the machine is
    assert len(index) == LARGE
    assert index[LARGE - 1].name == f"some_class_name/{LARGE - 1:011d}_000000_000010.mp4"


def _read_in_worker(index: ClipIndex, pipe: Connection) -> None:
    private = _private_memory()
    names = [index[i].name for i in range(0, len(index), 1000)]
    pipe.send((names, _private_memory() - private))


def _private_memory() -> int:
    """Bytes of memory that belong to no file, and so to this process alone."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Anonymous:"))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_share_what_they_read(large: Path, method: str) -> None:
    """Of 8 MB of index a worker owns next to nothing, even after reading all over it."""
    index = ClipIndex.load(large, "train")
    context = multiprocessing.get_context(method)
    receiver, sender = context.Pipe(duplex=False)
    worker = context.Process(target=_read_in_worker, args=(index, sender))
    worker.start()
    names, private = receiver.recv()
    worker.join()
    assert names == [index[i].name for i in range(0, len(index), 1000)]
    assert private < 1_500_000


def test_many_rows_never_are_objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("snvideo.data.index._CHUNK", 500)
    peaks = []
    for number in (2_000, 6_000):
        path = many(tmp_path, number)
        tracemalloc.start()
        index = ClipIndex.load(path, "train")
        kept, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert len(index) == number
        assert kept < 100_000
        peaks.append(peak)
    assert peaks[1] - peaks[0] < 20 * 4_000  # of a row as an object it would be 1000


def test_all_rows_one_by_one(tmp_path: Path) -> None:
    path = write(tmp_path)
    assert list(read_rows(path)) == ROWS
    with pytest.raises(SnvideoError, match="no index at"):
        list(read_rows(tmp_path / "none.csv"))


def test_an_older_index_is_read_but_what_nobody_tried_is_not_believed(tmp_path, caplog) -> None:
    path = write(tmp_path)
    new = ClipIndex.load(path, "train")
    assert (new[0].seekable, new[0].decoders, caplog.text) == (True, "pyav decord", "")
    path.with_suffix(".json").write_text(json.dumps({"root": ".", "labels": LABELS}))
    old = ClipIndex.load(path, "train")
    assert [(video.seekable, video.decoders) for video in old] == [(False, "pyav")] * 3
    assert old.hash == new.hash and old[0]._replace(seekable=True, decoders="pyav decord") == new[0]
    assert len(caplog.messages) == 1 and "build it again" in caplog.text
    assert not any(row.seekable for row in read_rows(path))


def test_degrees_of_older_indexes_are_orientations(tmp_path: Path) -> None:
    path = write(tmp_path)
    for degrees, number in ((0, 1), (90, 8), (180, 3), (270, 6)):
        lines = path.read_text().replace("orientation", "rotation").splitlines()
        place = lines[0].split(",").index("rotation")
        cells = lines[1].split(",")
        cells[place] = str(degrees)
        (tmp_path / "old.csv").write_text(f"{lines[0]}\n{','.join(cells)}\n")
        assert next(read_rows(tmp_path / "old.csv")).orientation == number
    cells[place] = "45"
    (tmp_path / "old.csv").write_text(f"{lines[0]}\n{','.join(cells)}\n")
    with pytest.raises(SnvideoError, match="orientation is 0, expected 1 to 8"):
        list(read_rows(tmp_path / "old.csv"))


def test_a_relative_index_is_looked_for_in_the_working_directory(tmp_path, monkeypatch):
    write(tmp_path)
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    with pytest.raises(
        SnvideoError, match=f"start elsewhere, it is seen from {tmp_path / 'other'}"
    ):
        ClipIndex.load("index.csv", "train")
    with pytest.raises(SnvideoError, match=r"build it with 'snvideo index build'$"):
        ClipIndex.load(tmp_path / "other/index.csv", "train")


def test_names_of_a_system_without_utf_8(tmp_path, monkeypatch):
    """Paths are those that it opens, and labels the text that all other systems see."""
    labels = [name.encode().decode("ascii", "surrogateescape") for name in ("größer", "b", "c")]
    write(tmp_path, [row._replace(label_name="") for row in ROWS], labels)
    monkeypatch.setattr(os, "fsdecode", lambda path: path.decode("ascii", "surrogateescape"))
    index = ClipIndex.load(tmp_path / "index.csv", "train")
    video = next(video for video in map(index.__getitem__, range(3)) if "d" in video.name)
    assert video.name == "dé.mp4"
    assert video.path == tmp_path / "d\udcc3\udca9.mp4"
    assert index.labels == ["größer", "b", "c"]


@pytest.mark.parametrize("labels", [["kick", "hug", "wave"], ["hug", "kicks", "wave"]])
def test_names_of_labels_that_are_not_those_of_the_file_beside_it_are_told(
    tmp_path, caplog, labels
):
    """As with a .json of another index, or a name that was corrected without its number."""
    index = ClipIndex.load(write(tmp_path, labels=labels), "train")
    line, name = (2, "hug") if labels[0] == "kick" else (3, "kick")
    (told,) = caplog.messages
    assert f"line {line}: label_name is '{name}', and label" in told
    assert index.labels == labels
    caplog.clear()
    unnamed = [row._replace(label_name="") for row in ROWS]
    assert len(ClipIndex.load(write(tmp_path, unnamed, labels), "train")) == 3 and not caplog.text
