"""Videos whose labels are not known: test splits to predict."""

import shutil
from pathlib import Path

import pytest

from snvideo.data.index import ClipIndex, read_rows
from snvideo.data.indexing import build
from snvideo.data.indexing.build import build_index
from snvideo.data.indexing.hold_out import hold_out
from snvideo.data.indexing.listing import UNLABELLED, Listing
from snvideo.data.indexing.sources import read_class_folders, read_kinetics, read_lists
from snvideo.data.indexing.summary import summarize_index
from snvideo.errors import SnvideoError
from snvideo.report.index_report import index_tables
from tests.data.videos import write_video

NAMES = ["hug", "kick"]


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data") / "videos"
    write_video(root / "train/hug/a_000000_000010.mp4", frames=4)
    for name in ("train/kick/b", "test/c", "test/d", "test/e"):
        path = root / f"{name}_000000_000010.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / "train/hug/a_000000_000010.mp4", path)
    (root / "test/e_000000_000010.mp4").write_bytes(b"")
    return root


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def labels_in(listing: Listing, split: str) -> list[tuple[str, int, str]]:
    return [(row.path, row.label, row.labels) for row in listing.rows if row.split == split]


def test_kinetics_test_sets_without_a_column_of_labels(videos, tmp_path):
    train = write(
        tmp_path / "k_train.csv", "label,youtube_id,time_start,time_end\nhug,a,0,10\nkick,b,0,10\n"
    )
    test = write(tmp_path / "k_test.csv", "youtube_id,time_start,time_end\nc,0,10\nd,0,10\n")
    for multi_label in (False, True):
        listing = read_kinetics([train, test], videos, multi_label=multi_label)
        assert listing.labels == NAMES
        assert labels_in(listing, "test") == [
            ("test/c_000000_000010.mp4", -1, ""),
            ("test/d_000000_000010.mp4", -1, ""),
        ]
        assert UNLABELLED not in listing.skipped
    # Once with a label and once without: it has that one, whichever comes first.
    labelled = write(
        tmp_path / "more_test.csv", "label,youtube_id,time_start,time_end\nkick,d,0,10"
    )
    for files in ([train, test, labelled], [labelled, test, train]):
        listing = read_kinetics(files, videos)
        assert sorted(labels_in(listing, "test")) == [
            ("test/c_000000_000010.mp4", -1, ""),
            ("test/d_000000_000010.mp4", 1, ""),
        ]
        assert listing.skipped["repeated rows"] == 1
        assert not any(row.reason for row in listing.rows)


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize(
    "text", ["c.mp4\nmy d.MKV\n", "c.mp4 -1\nmy d.MKV\t-1", '"c.mp4",\n"my d.MKV",']
)
def test_lists_of_paths_alone(tmp_path, text, multi_label):
    train = write(tmp_path / "train.csv", "a.mp4 0\nb.mp4 1\n")
    test = write(tmp_path / "test.csv", text)
    listing = read_lists({"train": train, "test": test}, tmp_path, NAMES, multi_label)
    assert labels_in(listing, "test") == [("c.mp4", -1, ""), ("my d.MKV", -1, "")]
    assert labels_in(listing, "train")[0][:2] == ("a.mp4", 0)


@pytest.mark.parametrize(
    ("split", "text", "line"),
    [
        ("test", "c.mp4 1\nd.mp4\n", 2),  # forgotten in one line
        ("test", "c.mp4\nd.mp4 1\n", 1),
        ("test", "c.mp4 -1\nd.mp4\n", 2),
        ("test", "c.mp4 hug\nd.mp4 kick\n", 1),  # names are no ids
        ("val", "c.mp4\nd.mp4\n", 1),
        ("train", "c.mp4\nd.mp4\n", 1),
    ],
)
def test_a_label_that_is_missing_among_others_is_an_error(tmp_path, split, text, line):
    file = write(tmp_path / "l.csv", text)
    with pytest.raises(SnvideoError, match=rf"l.csv line {line}: .* expected path and label id"):
        read_lists({split: file}, tmp_path, NAMES)


def test_files_outside_class_folders(videos, tmp_path):
    listing = read_class_folders(videos)
    assert [path for path, label, _ in labels_in(listing, "test") if label == -1] == [
        f"test/{name}_000000_000010.mp4" for name in "cde"
    ]
    assert len(labels_in(listing, "train")) == 2 and not listing.skipped
    flat = videos / "test"
    for split, kept in (("test", 3), ("train", 0), ("val", 0), ("validation", 0)):
        listing = read_class_folders(flat, split, labels=NAMES)
        assert len(listing.rows) == kept
        assert listing.skipped.get("files outside class folders", 0) == 3 - kept
    # A part for validation is one of videos with labels.
    with pytest.raises(SnvideoError):
        hold_out(read_class_folders(flat, "test", labels=NAMES), 0.9)


def test_an_index_of_videos_without_labels_alone_needs_their_names(videos, tmp_path):
    listing = read_class_folders(videos / "test", "test")
    with pytest.raises(SnvideoError, match=r"no label is known: give the label names.*--labels"):
        build_index(listing, videos / "test", tmp_path / "index.csv")
    assert not list(tmp_path.iterdir())


def test_an_interrupted_build_goes_on_and_says_what_it_found(videos, tmp_path, monkeypatch):
    listing = read_class_folders(videos)
    whole = build_index(listing, videos, tmp_path / "whole.csv")
    assert whole.reasons["ok"] == {UNLABELLED: 2} and whole.reasons["broken"] == {"empty file": 1}

    def stop(done: int) -> None:
        if done == 2:  # the second row of the test split is under way
            raise KeyboardInterrupt

    out = tmp_path / "index.csv"
    with pytest.raises(KeyboardInterrupt):
        build_index(listing, videos, out, progress=stop)
    assert list(tmp_path.glob(".index.csv.*.part"))
    probed = []
    probe_all = build.probe_all
    monkeypatch.setattr(
        build, "probe_all", lambda paths, *more: probe_all(probed_of(paths, probed), *more)
    )
    assert build_index(listing, videos, out) == whole
    assert len(probed) == 3
    assert out.read_text() == (tmp_path / "whole.csv").read_text()
    index = ClipIndex.load(out, "test")
    assert [(video.label, len(index.labels_of(k))) for k, video in enumerate(index)] == [
        (-1, 0)
    ] * 2
    assert index.labelled.tolist() == [] and index.label_counts().tolist() == [0, 0]
    assert ClipIndex.load(out, "train").labelled.tolist() == [0, 1]
    row = next(row for row in read_rows(out) if row.label < 0)
    assert (row.label_name, row.label_ids, row.reason) == ("", [], UNLABELLED)


def probed_of(paths, probed):
    for path in paths:
        probed.append(path)
        yield path


def test_the_report_names_no_class_of_a_split_without_labels(videos, tmp_path):
    build_index(read_class_folders(videos), videos, tmp_path / "index.csv")
    summary = summarize_index(tmp_path / "index.csv")
    assert summary.videos["test"].tolist() == [2, 0, 1]
    tables = {str(table.title): table for table in index_tables(summary)}
    columns = {
        title: [[str(cell) for cell in column.cells] for column in table.columns]
        for title, table in tables.items()
    }
    assert columns["Usable videos per class"][0] == ["train"]
    assert set(columns["Classes with fewer than 10 usable videos"][0]) == {"train"}
    assert UNLABELLED in columns["Reasons, and remarks on usable videos"][1]
