"""Tables of an index's summary."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from rich import filesize
from rich.table import Table
from rich.text import Text

from snvideo.data.index import STATUSES
from snvideo.data.indexing.build import BuildSummary
from snvideo.data.indexing.summary import IndexSummary
from snvideo.report.console import new_table
from snvideo.text import shorten


def build_tables(summary: BuildSummary) -> Iterator[Table]:
    """Tables of what an index was built from: status by split, and reasons."""
    table = new_table("split", *STATUSES)
    for split, counts in summary.counts.items():
        table.add_row(split, *(str(counts[status]) for status in STATUSES))
    yield table
    reasons = new_table("status", "reason", "videos", text=2)
    for status, found in (*summary.reasons.items(), ("skipped", summary.skipped)):
        for reason, number in found.items():
            reasons.add_row(status, Text(reason), str(number))
    if reasons.row_count:
        yield reasons


def index_tables(summary: IndexSummary, few: int = 10, most: int = 8) -> list[Table]:
    """Tables for a terminal of 100 columns, what matters most first; empty ones are left out.

    Args:
        summary: of an index.
        few: classes with fewer usable videos than this are named.
        most: values that a list has before it says how many more there are.
    """
    tables = [
        _split_table(summary),
        _reason_table(summary, most),
        _class_table(summary, few),
        _rare_table(summary, few, most),
        _number_table(summary),
        _kind_table(summary),
    ]
    return [table for table in tables if table.row_count]


def _split_table(summary: IndexSummary) -> Table:
    columns = ["split", "videos", *STATUSES, "lost", "hours", "size"]
    if summary.clip is not None:
        columns.append("short")
    table = new_table(*columns, title=shorten(str(summary.path), 90))
    if summary.clip is not None:
        length = f"{summary.clip.frames} x {summary.clip.stride} frames"
        rate = f" at {summary.clip.target_fps:g} fps" if summary.clip.target_fps else ""
        table.caption = f"short: usable videos shorter than a clip of {length}{rate}"
        table.caption_justify = "left"

    def add(name: str, counts: np.ndarray, splits: Iterable[str]) -> None:
        statuses = counts.sum(axis=0)
        cells = [shorten(name, 24), *(f"{n:,}" for n in (statuses.sum(), *statuses))]
        cells.append(_share(statuses[1:].sum(), statuses.sum()))
        cells.append(f"{sum(summary.seconds[split] for split in splits) / 3600:,.2f}")
        cells.append(filesize.decimal(sum(summary.bytes[split] for split in splits)))
        if summary.clip is not None:
            cells.append(f"{sum(summary.short[split] for split in splits):,}")
        table.add_row(*map(Text, cells))

    for split, counts in summary.counts.items():
        add(split, counts, [split])
    if len(summary.counts) > 1:
        table.add_section()
        add("all", np.sum(list(summary.counts.values()), axis=0), list(summary.counts))
    return table


def _reason_table(summary: IndexSummary, most: int) -> Table:
    table = new_table(
        "status", "reason", "videos", title="Reasons, and remarks on usable videos", text=2
    )
    for status, reason, number in summary.commonest_reasons(most):
        table.add_row(status, Text(shorten(reason, 72)), f"{number:,}")
    return table


def _class_table(summary: IndexSummary, few: int) -> Table:
    columns = ("split", "classes", "least", "median", "most", f"below {few}", "absent")
    table = new_table(*columns, title="Usable videos per class")
    for split, counts in summary.counts.items():
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


def _rare_table(summary: IndexSummary, few: int, most: int) -> Table:
    table = new_table(
        "split", "", "classes", title=f"Classes with fewer than {few} usable videos", text=3
    )
    for split in summary.counts:
        rare = summary.rare(split, few)
        absent = [shorten(label, 32) for label, number in rare if not number]
        present = [f"{shorten(label, 32)} ({number})" for label, number in rare if number]
        for what, names in (("absent", absent), (f"below {few}", present)):
            if names:
                table.add_row(Text(shorten(split, 24)), what, Text(_listed(names, most)))
    return table


def _number_table(summary: IndexSummary) -> Table:
    columns = ("", "least", "5 %", "median", "95 %", "most", "most common")
    table = new_table(*columns, title="Usable videos: numbers")
    if not summary.usable:
        return table
    sides = np.repeat(list(summary.sizes), list(summary.sizes.values()), axis=0)
    values = {**summary.numbers, "width": sides[:, 0], "height": sides[:, 1]}
    for name, found in values.items():
        exact, number = np.unique(found.round(2), return_counts=True)
        top = np.argsort(-number, kind="stable")[:3]
        common = ", ".join(f"{exact[k]:,.7g} ({_share(number[k], summary.usable)})" for k in top)
        quantiles = np.quantile(found, (0, 0.05, 0.5, 0.95, 1), method="inverted_cdf")
        table.add_row(name, *(f"{value:,.7g}" for value in quantiles.round(2)), common)
    return table


def _kind_table(summary: IndexSummary) -> Table:
    table = new_table("", "most common", title="Usable videos: kinds", text=2)
    for name, found in summary.kinds.items():
        if found:
            named = [
                f"{shorten(value, 24)} ({_share(number, summary.usable)})"
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
