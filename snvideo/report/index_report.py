"""Tables of an index's summary."""

from collections.abc import Iterator, Sequence

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

    Classes with fewer than `few` usable videos are named, and lists show `most` values.
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
    clip = summary.clip
    if clip is not None:
        columns.append("short")
    table = new_table(*columns, title=shorten(str(summary.path), 90))
    if clip is not None:
        rate = f" at {clip.target_fps:g} fps" if clip.target_fps else ""
        length = f"{clip.frames} x {clip.stride} frames{rate}"
        table.caption = f"short: usable videos shorter than a clip of {length}"
        table.caption_justify = "left"
    groups = {split: [split] for split in summary.counts}
    if len(groups) > 1:
        groups["all"] = list(summary.counts)
    for name, splits in groups.items():
        statuses = sum(summary.counts[split].sum(axis=0) for split in splits)
        cells = [shorten(name, 24), *(f"{n:,}" for n in (statuses.sum(), *statuses))]
        cells.append(_share(statuses[1:].sum(), statuses.sum()))
        cells.append(f"{sum(summary.seconds[split] for split in splits) / 3600:,.2f}")
        cells.append(filesize.decimal(sum(summary.bytes[split] for split in splits)))
        if clip is not None:
            cells.append(f"{sum(summary.short[split] for split in splits):,}")
        table.add_row(*map(Text, cells))
    return table


def _reason_table(summary: IndexSummary, most: int) -> Table:
    title = "Reasons, and remarks on usable videos"
    table = new_table("status", "reason", "videos", title=title, text=2)
    for status, reason, number in summary.commonest_reasons(most):
        table.add_row(status, Text(shorten(reason, 72)), f"{number:,}")
    return table


def _class_table(summary: IndexSummary, few: int) -> Table:
    columns = ("split", "classes", "least", "median", "most", f"below {few}", "absent")
    table = new_table(*columns, title="Usable videos per class")
    for split, counts in summary.counts.items():
        videos = counts[:, 0]
        present = f"{np.count_nonzero(videos):,} of {len(videos):,}"
        least, median, most = np.quantile(videos, (0, 0.5, 1))
        numbers = (least, median, most, np.count_nonzero(videos < few), np.sum(videos == 0))
        table.add_row(Text(shorten(split, 24)), present, *(f"{n:,.7g}" for n in numbers))
    return table


def _rare_table(summary: IndexSummary, few: int, most: int) -> Table:
    title = f"Classes with fewer than {few} usable videos"
    table = new_table("split", "", "classes", title=title, text=3)
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
        named = [
            f"{shorten(value, 24)} ({_share(number, summary.usable)})"
            for value, number in found.most_common()
        ]
        if named:
            table.add_row(name, Text(_listed(named, 4)))
    return table


def _listed(names: Sequence[str], most: int) -> str:
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest:,} more" if rest > 0 else "")


def _share(part: int, whole: int) -> str:
    """Per cent; neither 0 nor 100 unless it is none or all."""
    if part in (0, whole):
        return "100 %" if part else "0 %"
    return f"{min(max(100 * part / whole, 0.1), 99.9):.1f} %"
