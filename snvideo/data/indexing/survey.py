"""What an index holds: counted in one pass, and told in tables and in a picture."""

import math
import posixpath
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from rich import box, filesize
from rich.table import Table
from rich.text import Text

from snvideo.data.config import ClipConfig
from snvideo.data.index import STATUSES, IndexRow, read_meta, read_rows
from snvideo.data.indexing.listing import SPLITS
from snvideo.data.sampling import frame_step
from snvideo.errors import SnvideoError
from snvideo.report.index_figure import (
    STYLE,
    draw_classes,
    draw_durations,
    draw_reasons,
    draw_sizes,
    draw_splits,
)
from snvideo.report.style import png, shorten, styled

Tally = Counter[str]
_LEAST = {"frames": 1, "width": 1, "height": 1, "fps": 1e-3, "seconds": 0}
"""The least value of a usable video's numbers that makes sense."""


@dataclass(frozen=True)
class Survey:
    """What an index holds. Usable videos are those whose status is `ok`."""

    path: Path
    labels: list[str]
    clip: ClipConfig | None
    counts: dict[str, np.ndarray]
    """Split -> int64 (labels, statuses): videos of each label, statuses as in `STATUSES`."""
    seconds: dict[str, float]
    """Split -> seconds of usable video."""
    bytes: dict[str, int]
    """Split -> size of usable files."""
    short: dict[str, int]
    """Split -> usable videos in which a clip must repeat the last frame; 0 without a clip."""
    numbers: dict[str, np.ndarray]
    """`seconds`, `frames`, `fps` -> float64 (usable videos,)."""
    sizes: Counter[tuple[int, int]]
    """Width and height -> usable videos."""
    kinds: dict[str, Tally]
    """`resolution`, `container`, `decoder`, `seekable`, `rotation` -> value -> usable videos."""
    reasons: dict[str, Tally]
    """Status -> reason -> videos. A lost video counts once, a usable one once for each remark."""

    @property
    def usable(self) -> int:
        """Usable videos of all splits."""
        return len(self.numbers["seconds"])

    def rare(self, split: str, below: int) -> list[tuple[str, int]]:
        """Labels with fewer usable videos in a split than that, and how many: rarest first."""
        videos = self.counts[split][:, 0]
        order = np.argsort(videos, kind="stable")
        return [(self.labels[k], int(videos[k])) for k in order if videos[k] < below]

    def commonest_reasons(self, most: int) -> list[tuple[str, str, int]]:
        """Status, reason and videos: so many reasons of each status, and how many more."""
        found = []
        for status in ("missing", "broken", "ok"):
            reasons = self.reasons[status].most_common()
            found += [(status, reason, number) for reason, number in reasons[:most]]
            if rest := reasons[most:]:
                found.append((status, f"and {len(rest):,} more", sum(n for _, n in rest)))
        return found


def survey(path: Path, clip: ClipConfig | None = None) -> Survey:
    """Counts what an index holds, row by row: of the rows, only three numbers each are kept.

    Args:
        path: the CSV file.
        clip: the clip that videos are compared with; None for no comparison.

    Raises:
        SnvideoError: if a file is missing or malformed, or the index has no rows.
    """
    labels = read_meta(path)[1]
    videos: Counter[tuple[str, int, str]] = Counter()
    seconds: defaultdict[str, float] = defaultdict(float)
    size, short = Tally(), Tally()
    numbers = {name: array("d") for name in ("seconds", "frames", "fps")}
    sizes: Counter[tuple[int, int]] = Counter()
    kinds = {name: Tally() for name in ("container", "decoder", "seekable", "rotation")}
    reasons = {status: Tally() for status in STATUSES}
    for line, row in enumerate(read_rows(path), 2):
        if problem := _problem(row, len(labels)):
            raise SnvideoError(f"index {path} line {line}: {problem}: correct it or build it again")
        videos[row.split, row.label, row.status] += 1
        if row.status != "ok":
            reasons[row.status][row.reason or "no reason given"] += 1
            continue
        reasons["ok"].update(filter(None, row.reason.split("; ")))
        seconds[row.split] += row.seconds
        size[row.split] += row.bytes
        short[row.split] += clip is not None and _is_short(row, clip)
        for name, values in numbers.items():
            values.append(getattr(row, name))
        sizes[row.width, row.height] += 1
        kinds["container"][posixpath.splitext(row.path)[1].lower() or "no extension"] += 1
        kinds["decoder"][row.decoder] += 1
        kinds["seekable"]["yes" if row.seekable else "no"] += 1
        kinds["rotation"][f"{row.rotation}°"] += 1
    if not videos:
        raise SnvideoError(f"index {path}: it has no videos: build it again")
    counts = _arrays(videos, len(labels))
    return Survey(
        path=path,
        labels=labels,
        clip=clip,
        counts=counts,
        seconds={split: seconds[split] for split in counts},
        bytes={split: size[split] for split in counts},
        short={split: short[split] for split in counts},
        numbers={name: np.frombuffer(values) for name, values in numbers.items()},
        sizes=sizes,
        kinds={"resolution": Tally({f"{w}x{h}": n for (w, h), n in sizes.items()}), **kinds},
        reasons=reasons,
    )


def _problem(row: IndexRow, labels: int) -> str:
    """What is wrong with a row; nothing for most."""
    if row.status not in STATUSES:
        return f"status is {row.status!r}, expected one of {', '.join(STATUSES)}"
    if not 0 <= row.label < labels:
        return f"label is {row.label}, expected 0 to {labels - 1}"
    if row.status == "ok":
        for name, least in _LEAST.items():
            if not least <= (value := getattr(row, name)) < math.inf:
                return f"{name} of a usable video is {value}"
    return ""


def _is_short(row: IndexRow, clip: ClipConfig) -> bool:
    """Whether a clip that begins with frame 0 goes on, rounded to frames, beyond the last."""
    return math.floor((clip.frames - 1) * frame_step(clip, row.fps) + 0.5) >= row.frames


def _arrays(videos: Counter[tuple[str, int, str]], labels: int) -> dict[str, np.ndarray]:
    """Splits to counts by label and status, the usual splits first."""
    usual = list(dict.fromkeys(SPLITS.values()))
    splits = {split for split, _, _ in videos}
    order = [split for split in usual if split in splits] + sorted(splits - {*usual})
    counts = {split: np.zeros((labels, len(STATUSES)), np.int64) for split in order}
    for (split, label, status), number in videos.items():
        counts[split][label, STATUSES.index(status)] = number
    return counts


# Tables -----------------------------------------------------------------------------------------


def survey_tables(survey: Survey, few: int = 10, most: int = 8) -> list[Table]:
    """Tables for a terminal of 100 columns, what matters most first; empty ones are left out.

    Args:
        survey: of an index.
        few: classes with fewer usable videos than this are named.
        most: values that a list has before it says how many more there are.
    """
    tables = [
        _split_table(survey),
        _reason_table(survey, most),
        _class_table(survey, few),
        _rare_table(survey, few, most),
        _number_table(survey),
        _kind_table(survey),
    ]
    return [table for table in tables if table.row_count]


def _table(title: str, *columns: str, text: int = 1) -> Table:
    """An empty table whose first columns are text and the others numbers."""
    table = Table(
        title=Text(title, "bold"), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False
    )
    for number, column in enumerate(columns):
        table.add_column(
            Text(column),
            justify="left" if number < text else "right",
            overflow="fold",
            no_wrap=number >= text,
        )
    return table


def _split_table(survey: Survey) -> Table:
    columns = ["split", "videos", *STATUSES, "lost", "hours", "size"]
    if survey.clip is not None:
        columns.append("short")
    table = _table(shorten(str(survey.path), 90), *columns)
    if survey.clip is not None:
        length = f"{survey.clip.frames} x {survey.clip.stride} frames"
        rate = f" at {survey.clip.target_fps:g} fps" if survey.clip.target_fps else ""
        table.caption = f"short: usable videos shorter than a clip of {length}{rate}"
        table.caption_justify = "left"

    def add(name: str, counts: np.ndarray, splits: Iterable[str]) -> None:
        statuses = counts.sum(axis=0)
        cells = [shorten(name, 24), *(f"{n:,}" for n in (statuses.sum(), *statuses))]
        cells.append(_share(statuses[1:].sum(), statuses.sum()))
        cells.append(f"{sum(survey.seconds[split] for split in splits) / 3600:,.2f}")
        cells.append(filesize.decimal(sum(survey.bytes[split] for split in splits)))
        if survey.clip is not None:
            cells.append(f"{sum(survey.short[split] for split in splits):,}")
        table.add_row(*map(Text, cells))

    for split, counts in survey.counts.items():
        add(split, counts, [split])
    if len(survey.counts) > 1:
        table.add_section()
        add("all", sum(survey.counts.values()), list(survey.counts))
    return table


def _reason_table(survey: Survey, most: int) -> Table:
    table = _table("Reasons, and remarks on usable videos", "status", "reason", "videos", text=2)
    for status, reason, number in survey.commonest_reasons(most):
        table.add_row(status, Text(shorten(reason, 72)), f"{number:,}")
    return table


def _class_table(survey: Survey, few: int) -> Table:
    columns = ("split", "classes", "least", "median", "most", f"below {few}", "absent")
    table = _table("Usable videos per class", *columns)
    for split, counts in survey.counts.items():
        videos = counts[:, 0]
        table.add_row(
            Text(shorten(split, 24)),
            f"{np.count_nonzero(videos):,} of {len(videos):,}",
            f"{videos.min():,}",
            f"{np.median(videos):,g}",
            f"{videos.max():,}",
            f"{np.count_nonzero(videos < few):,}",
            f"{np.count_nonzero(videos == 0):,}",
        )
    return table


def _rare_table(survey: Survey, few: int, most: int) -> Table:
    table = _table(f"Classes with fewer than {few} usable videos", "split", "", "classes", text=3)
    for split in survey.counts:
        rare = survey.rare(split, few)
        absent = [shorten(label, 32) for label, number in rare if not number]
        present = [f"{shorten(label, 32)} ({number})" for label, number in rare if number]
        for what, names in (("absent", absent), (f"below {few}", present)):
            if names:
                table.add_row(Text(shorten(split, 24)), what, Text(_listed(names, most)))
    return table


def _number_table(survey: Survey) -> Table:
    columns = ("", "least", "5 %", "median", "95 %", "most", "most common")
    table = _table("Usable videos: numbers", *columns)
    if not survey.usable:
        return table
    sides = np.repeat(list(survey.sizes), list(survey.sizes.values()), axis=0)
    values = {**survey.numbers, "width": sides[:, 0], "height": sides[:, 1]}
    for name, found in values.items():
        exact, number = np.unique(found.round(2), return_counts=True)
        top = np.argsort(-number, kind="stable")[:3]
        common = ", ".join(f"{exact[k]:,.7g} ({_share(number[k], survey.usable)})" for k in top)
        quantiles = np.quantile(found, (0, 0.05, 0.5, 0.95, 1), method="inverted_cdf")
        table.add_row(name, *(f"{value:,.7g}" for value in quantiles.round(2)), common)
    return table


def _kind_table(survey: Survey) -> Table:
    table = _table("Usable videos: kinds", "", "most common", text=2)
    for name, found in survey.kinds.items():
        if found:
            named = [
                f"{shorten(value, 24)} ({_share(number, survey.usable)})"
                for value, number in found.most_common()
            ]
            table.add_row(name, Text(_listed(named, 4)))
    return table


def _listed(names: Sequence[str], most: int) -> str:
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest:,} more" if rest > 0 else "")


def _share(part: int, whole: int) -> str:
    """Per cent; neither 0 nor 100 unless it is none or all."""
    percent = 100 * part / whole
    if percent in (0, 100):
        return f"{percent:.0f} %"
    return f"{min(max(percent, 0.1), 99.9):.1f} %"


# Picture ----------------------------------------------------------------------------------------


def survey_png(survey: Survey, most: int = 5) -> bytes:
    """A PNG: videos per class, durations, resolutions, status by split, reasons.

    Args:
        survey: of an index.
        most: reasons of each status that are drawn.
    """
    reasons = survey.commonest_reasons(most)
    heights = [3.4, 3.0, 0.9 + 0.45 * len(survey.counts), 0.9 + 0.4 * len(reasons)]
    shown = [True, survey.usable > 0, True, bool(reasons)]
    heights = list(compress(heights, shown))
    videos = sum(survey.counts.values())
    with styled(STYLE):
        figure = Figure(figsize=(9, 0.4 + sum(heights)), layout="constrained")
        found = f"{survey.usable:,} of {videos.sum():,} videos usable"
        title = f"{shorten(str(survey.path), 60)}: {found}"
        figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
        panels = iter(figure.subfigures(len(heights), 1, height_ratios=heights))
        draw_classes(next(panels).subplots(), survey.labels, videos)
        if survey.usable:
            left, right = next(panels).subplots(1, 2)
            draw_durations(left, survey.numbers["seconds"])
            draw_sizes(right, survey.sizes)
        splits = {split: n.sum(axis=0).tolist() for split, n in survey.counts.items()}
        draw_splits(next(panels).subplots(), splits)
        if reasons:
            draw_reasons(next(panels).subplots(), reasons)
        return png(figure)
