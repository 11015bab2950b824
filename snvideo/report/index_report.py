"""Tables of an index's summary, and of two copies of a data set."""

from collections.abc import Iterator, Sequence

import numpy as np
from rich import filesize
from rich.table import Table

from snvideo.data.index import STATUSES
from snvideo.data.indexing.build import BuildSummary
from snvideo.data.indexing.manifest import DIFFERENCES, CopyComparison
from snvideo.data.indexing.summary import IndexSummary
from snvideo.report.console import new_table
from snvideo.text import shorten


def build_tables(summary: BuildSummary) -> Iterator[Table]:
    """Tables of what an index was built from: status by split, and reasons."""
    splits = ((split, *(str(n[s]) for s in STATUSES)) for split, n in summary.counts.items())
    yield new_table("split", *STATUSES, rows=splits)
    reasons = [
        (status, reason, str(number))
        for status, found in (*summary.reasons.items(), ("skipped", summary.skipped))
        for reason, number in found.items()
    ]
    if reasons:
        yield new_table("status", "reason", "videos", rows=reasons, text=2)


def index_tables(summary: IndexSummary, few: int = 10, most: int = 8) -> list[Table]:
    """Tables for a terminal of 100 columns, what matters most first; empty ones are left out.

    Classes with fewer than `few` usable videos are named, and lists show `most` values.
    """
    reasons = [
        (status, shorten(reason, 72), f"{number:,}")
        for status, reason, number in summary.commonest_reasons(most)
    ]
    title = "Reasons, and remarks on usable videos"
    classes = ("split", "classes", "least", "median", "most", f"below {few}", "absent")
    counts = [_class_row(split, n[:, 0], few) for split, n in summary.counts.items() if n.any()]
    rare = f"Classes with fewer than {few} usable videos"
    numbers = ("", "least", "5 %", "median", "95 %", "most")
    tables = [
        _split_table(summary),
        new_table("status", "reason", "videos", rows=reasons, title=title, text=2),
        new_table(*classes, rows=counts, title="Usable videos per class"),
        new_table("split", "", "classes", rows=_rare_rows(summary, few, most), title=rare, text=3),
        new_table(*numbers, rows=_number_rows(summary), title="Usable videos: numbers"),
        new_table(
            "", "most common", rows=_kind_rows(summary), title="Usable videos: kinds", text=2
        ),
    ]
    return [table for table in tables if table.row_count]


def copy_tables(compared: CopyComparison, most: int = 2) -> list[Table]:
    """Tables of what two copies have alike, and of what they differ in with `most` examples."""
    same = [(split, f"{number:,}") for split, number in sorted(compared.same.items())]
    found = ((one, compared.differences.get(one, [])) for one in DIFFERENCES)
    rows = [
        (difference, _listed([shorten(name, 28) for _, name in videos], most), f"{len(videos):,}")
        for difference, videos in found
        if videos
    ]
    tables = [
        new_table("split", "videos", rows=same, title="The same in both"),
        new_table("difference", "as in", "videos", rows=rows, title="Not the same", text=2),
    ]
    return [table for table in tables if table.row_count]


def _split_table(summary: IndexSummary) -> Table:
    clip, rows = summary.clip, []
    groups = {split: [split] for split in summary.counts}
    if len(groups) > 1:
        groups["all"] = list(summary.counts)
    for name, splits in groups.items():
        statuses = np.sum([summary.videos[split] for split in splits], axis=0)
        cells = [shorten(name, 24), *(f"{n:,}" for n in (statuses.sum(), *statuses))]
        cells.append(_share(statuses[1:].sum(), statuses.sum()))
        cells.append(f"{sum(summary.seconds[split] for split in splits) / 3600:,.2f}")
        cells.append(filesize.decimal(sum(summary.bytes[split] for split in splits)))
        cells += [f"{sum(summary.short[split] for split in splits):,}"] * (clip is not None)
        rows.append(cells)
    columns = ["split", "videos", *STATUSES, "lost", "hours", "size"]
    columns += ["short"] * (clip is not None)
    table = new_table(*columns, rows=rows, title=shorten(str(summary.path), 90))
    if clip is not None:
        length = f"{clip.frames} x {clip.stride} frames"
        table.caption = f"short: usable videos shorter than a clip of {length}"
        table.caption_justify = "left"
    return table


def _class_row(split: str, videos: np.ndarray, few: int) -> list[str]:
    present = f"{np.count_nonzero(videos):,} of {len(videos):,}"
    least, median, most = np.quantile(videos, (0, 0.5, 1))
    numbers = (least, median, most, np.count_nonzero(videos < few), np.sum(videos == 0))
    return [shorten(split, 24), present, *(f"{n:,.7g}" for n in numbers)]


def _rare_rows(summary: IndexSummary, few: int, most: int) -> Iterator[tuple[str, str, str]]:
    for split in (split for split, videos in summary.counts.items() if videos.any()):
        rare = [(shorten(label, 32), number) for label, number in summary.rare(split, few)]
        absent = [label for label, number in rare if not number]
        present = [f"{label} ({number})" for label, number in rare if number]
        for what, names in (("absent", absent), (f"below {few}", present)):
            if names:
                yield shorten(split, 24), what, _listed(names, most)


def _number_rows(summary: IndexSummary) -> Iterator[list[str]]:
    for name, found in summary.numbers.items():
        if summary.usable:
            quantiles = np.quantile(found, (0, 0.05, 0.5, 0.95, 1), method="inverted_cdf")
            yield [name, *(f"{value:,.7g}" for value in quantiles.round(2))]


def _kind_rows(summary: IndexSummary) -> Iterator[tuple[str, str]]:
    for name, found in summary.kinds.items():
        named = [
            f"{shorten(value, 24)} ({_share(number, summary.usable)})"
            for value, number in found.most_common()
        ]
        if named:
            yield name, _listed(named, 4)


def _listed(names: Sequence[str], most: int) -> str:
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest:,} more" if rest > 0 else "")


def _share(part: int, whole: int) -> str:
    """Per cent; neither 0 nor 100 unless it is none or all."""
    if part in (0, whole):
        return "100 %" if part else "0 %"
    return f"{min(max(100 * part / whole, 0.1), 99.9):.1f} %"
