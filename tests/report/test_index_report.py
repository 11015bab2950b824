"""Tables and figures of an index: numbers counted by hand, and odd indexes."""

import io
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from rich.console import Console

from snvideo.data.config import ClipConfig
from snvideo.data.index import IndexRow
from snvideo.data.indexing.summary import IndexSummary, summarize_index
from snvideo.report.index_figure import draw_classes, draw_durations, draw_splits, index_png
from snvideo.report.index_report import index_tables
from tests.data.indexing.test_summary import BROKEN, GONE, ROW, ROWS
from tests.data.test_index import LABELS, write


@pytest.fixture
def small(tmp_path: Path) -> IndexSummary:
    return summarize_index(write(tmp_path, ROWS), ClipConfig(frames=8, stride=8))


def printed(found: IndexSummary, **options: int) -> str:
    console = Console(width=100, file=io.StringIO(), color_system=None)
    for table in index_tables(found, **options):
        console.print(table)
    return console.file.getvalue()


def cells(text: str) -> list[list[str]]:
    """Lines of printed tables, cut where two or more spaces are."""
    return [
        [cell.strip() for cell in line.split("  ") if cell.strip()] for line in text.split("\n")
    ]


def picture(found: IndexSummary) -> Image.Image:
    return Image.open(io.BytesIO(index_png(found)))


def test_tables_state_them(small: IndexSummary) -> None:
    text = printed(small, few=4)
    lines = cells(text)
    # videos, ok, missing, broken, lost, hours, size, shorter than a clip
    assert ["train", "9", "5", "1", "3", "44.4 %", "0.01", "3.1 kB", "1"] in lines
    assert ["val", "3", "2", "1", "0", "33.3 %", "0.01", "2.0 kB", "0"] in lines
    assert ["extra", "1", "0", "0", "1", "100 %", "0.00", "0 bytes", "0"] in lines
    assert ["all", "13", "7", "2", "4", "46.2 %", "0.01", "5.1 kB", "1"] in lines
    assert "shorter than a clip of 8 x 8 frames" in text
    assert ["missing", "no such file", "2"] in lines
    assert ["broken", "empty file", "2"] in lines
    assert ["ok", "also in train", "2"] in lines
    # classes, least, median, most, fewer than 4, absent
    assert ["train", "2 of 3", "0", "1", "4", "2", "1"] in lines
    assert ["val", "1 of 3", "0", "0", "2", "3", "2"] in lines
    assert ["train", "below 4", "kick (1)"] in lines
    assert ["val", "absent", "hug, wave"] in lines
    # least, 5 %, median, 95 %, most
    assert ["frames", "56", "56", "250", "250", "250"] in lines
    assert ["fps", "25", "25", "25", "30", "30"] in lines
    assert ["resolution", "340x256 (57.1 %), 128x96 (28.6 %), 256x340 (14.3 %)"] in lines
    assert ["orientation", "as stored (85.7 %), turned by 270° (14.3 %)"] in lines


def test_lists_say_how_many_more(tmp_path: Path) -> None:
    rows = [ROW, *(BROKEN._replace(reason=f"reason {k:02}") for k in range(20))]
    text = printed(
        summarize_index(write(tmp_path, rows, [f"class {k:02}" for k in range(30)])), most=6
    )
    lines = cells(text)
    assert ["broken", "and 14 more", "14"] in lines
    assert "reason 05" in text and "reason 06" not in text
    assert "class 06" in text and "class 07" not in text  # class 00 has a video
    assert "and 23 more" in text


def test_without_a_clip_nothing_is_said_of_short_videos(tmp_path: Path) -> None:
    assert "short" not in printed(summarize_index(write(tmp_path, ROWS)))


def test_shares_are_none_or_all_only_where_they_are(tmp_path: Path) -> None:
    path = write(tmp_path, [GONE, *[ROW] * 2999, ROW._replace(decoders="pyav")])
    lines = cells(printed(summarize_index(path)))
    assert next(line for line in lines if line[:1] == ["train"])[5] == "0.1 %"
    assert ["decoders", "pyav decord (99.9 %), pyav (0.1 %)"] in lines
    assert ["seekable", "yes (100 %)"] in lines


def kinetics(number: int, splits: list[str], classes: int) -> Iterable[IndexRow]:
    rng = np.random.default_rng(0)
    reasons = ["no such file", "no video header: not a video, or cut off before it" * 3, "x" * 500]
    for k in range(number):
        row = ROW._replace(split=splits[k % len(splits)], label=int(rng.integers(classes)))
        lost = row._replace(status=("missing", "broken")[k % 2], reason=reasons[k % 3])
        size = rng.integers(100, 2000, 2).tolist()
        usable = row._replace(width=size[0], height=size[1], seconds=float(rng.exponential(10)))
        yield lost if rng.random() < 0.1 else usable


@pytest.mark.parametrize(
    ("rows", "labels"),
    [
        ([ROW], LABELS),
        ([ROW], ["hug", *(f"class {k}" for k in range(700))]),
        ([GONE, BROKEN, BROKEN], LABELS),
        (
            [ROW, GONE],
            ["$\\x$ [b]class[/b] with a\nvery long name " + "x" * 99, "kick", "\ud800"],
        ),
        ([ROW._replace(split="s" * 99, path="v.\udcff", seconds=0.0)], LABELS),
        (list(kinetics(500, ["train"], 6)), list("abcdef")),
        (list(kinetics(500, ["train", "val", "test", "x" * 60, "y"], 40)), ["class " * 20] * 40),
        (list(kinetics(3000, ["train", "val"], 700)), [f"class number {k}" for k in range(700)]),
    ],
    ids=["one", "absent", "lost", "names", "split", "6", "40", "700"],
)
def test_odd_indexes_can_be_shown(tmp_path: Path, rows: list, labels: list) -> None:
    found = summarize_index(write(tmp_path, rows, labels))
    text = printed(found)
    text.encode()  # no surrogates, which a terminal refuses
    assert max(map(len, text.split("\n"))) <= 100
    total = sum(int(counts.sum()) for counts in found.counts.values())
    assert total == len(rows)
    assert f"{found.usable:,}" in text
    image = picture(found)
    assert image.format == "PNG" and image.width == 1440 and 800 < image.height < 4000
    assert len(image.convert("RGB").getcolors(1 << 24)) > 10  # not blank


def test_colours_tell_the_share_that_is_lost(tmp_path: Path) -> None:
    def pixels(rows: list[IndexRow]) -> list[int]:
        image = np.asarray(picture(summarize_index(write(tmp_path, rows))).convert("RGB"))
        colours = [(0x00, 0x72, 0xB2), (0xE6, 0x9F, 0x00), (0xD5, 0x5E, 0x00)]
        return [int((image == colour).all(axis=-1).sum()) for colour in colours]

    legend = pixels([ROW])[1:]
    assert legend[0] == legend[1]
    ok, missing, broken = pixels([*[ROW] * 5, *[GONE] * 3, BROKEN])
    assert ok > missing > broken > 10 * legend[1]


def test_markup_in_names_is_text(tmp_path: Path) -> None:
    folder = tmp_path / "[red]f"
    folder.mkdir()
    found = summarize_index(write(folder, [ROW._replace(split="[red]t")], ["a", "[/b] [bold]c"]))
    text = printed(replace(found, path=Path("[red]f/index.csv")))
    assert "[red]t" in text and "[/b] [bold]c" in text and "[red]f/index.csv" in text


def panel() -> Axes:
    return Figure().subplots()


def test_bars_of_splits_are_shares_one_after_the_other() -> None:
    axes = panel()
    draw_splits(axes, {"train": [5, 3, 2], "val": [0, 0, 4]})
    bars = [(round(b.get_y() + 0.3), b.get_x(), b.get_width()) for b in axes.patches]
    assert bars == [(0, 0, 50), (1, 0, 0), (0, 50, 30), (1, 0, 0), (0, 80, 20), (1, 0, 100)]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["train\n10", "val\n4"]


def test_classes_are_sorted_and_their_statuses_stacked() -> None:
    axes = panel()
    draw_classes(axes, ["a", "b"], np.array([[1, 2, 0], [4, 0, 3]]))
    tops, edges, bottoms = zip(*(area.get_data() for area in axes.patches), strict=True)
    np.testing.assert_array_equal(tops, [[4, 1], [4, 3], [7, 3]])
    np.testing.assert_array_equal(bottoms, [[0, 0], [4, 1], [4, 3]])
    np.testing.assert_array_equal(edges, [[-0.5, 0.5, 1.5]] * 3)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["b", "a"]


def test_a_few_long_videos_are_put_into_the_last_bar() -> None:
    axes = panel()
    draw_durations(axes, np.array([5.0] * 100 + [10.0] * 300 + [3600.0] * 2))
    heights = [bar.get_height() for bar in axes.patches]
    assert (heights[0], heights[-1], sum(heights)) == (100, 302, 402)
    assert axes.get_xlabel() == "seconds (the last bar: 10 and more)"
    axes = panel()
    draw_durations(axes, np.array([5.0, 10.0]))
    assert axes.get_xlabel() == "seconds"
