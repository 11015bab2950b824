"""Merger of the parts of an index, into the bytes that one build alone would have written."""

import csv
import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from snvideo.atomic import atomic_path
from snvideo.data.index import COLUMNS, IndexRow, read_rows
from snvideo.data.indexing.build import BuildSummary, check_usable, index_facts, write_facts
from snvideo.data.indexing.listing import Listing
from snvideo.data.indexing.parts import (
    Part,
    differing_facts,
    part_facts,
    part_numbers,
    parts_beside,
    read_facts,
)
from snvideo.data.indexing.probe import Check
from snvideo.data.remote import Place
from snvideo.errors import SnvideoError
from snvideo.lock import locked_output
from snvideo.text import shorten_list

log = logging.getLogger(__name__)


def merge_parts(
    listing: Listing, videos: Place, out: Path, check: Check = "packets"
) -> BuildSummary:
    """Write an index from the parts that lie beside it, and remove them.

    Args:
        listing, videos, out, check: as the parts were built with by
            `snvideo.data.indexing.build.build_index`.

    Raises:
        SnvideoError: naming the parts that are not finished, or that belong to another run; if no
            video is usable, or the index cannot be written. The parts stay.
    """
    with locked_output(out, f"index {out}"):
        facts = index_facts(listing, videos, out, check)
        parts = _all_parts(out)
        _check_same_run(out, parts, facts | part_facts(listing, videos, check, parts[0]))
        with atomic_path(out) as merged:
            with merged.open("w", newline="", encoding="utf-8", errors="surrogateescape") as table:
                writer = csv.writer(table, lineterminator="\n")
                writer.writerow(COLUMNS)
                writer.writerows(_merged_rows(listing, out, parts))
            summary = BuildSummary.of(read_rows(merged), listing.skipped)
            check_usable(summary, videos)
        write_facts(out, facts, summary)
        for path in (part.path(out) for part in parts):
            path.with_suffix(".json").unlink()
            path.unlink()
    return summary


def _all_parts(out: Path) -> list[Part]:
    """Parts beside an index, once all of them are finished, in order."""
    found = parts_beside(out.with_suffix(".json"))  # which is written last
    numbers = sorted({part.parts for part in found})
    if not numbers:
        raise SnvideoError(f"index {out}: no finished part is beside it: make them with --part")
    if len(numbers) > 1:
        raise SnvideoError(
            f"index {out}: parts of {' and of '.join(map(str, numbers))} are beside it: delete "
            f"those of another run, as {found[-1].path(out)}"
        )
    parts = [Part(number, numbers[0]) for number in range(1, numbers[0] + 1)]
    missing = [str(part) for part in parts if part not in found or not part.path(out).exists()]
    if missing:
        raise SnvideoError(
            f"index {out}: not finished: {shorten_list(missing, 10)}: make each with --part"
        )
    return parts


def _check_same_run(out: Path, parts: list[Part], facts: dict[str, Any]) -> None:
    """Raises `SnvideoError` if a part was not made as `facts` say, or with other software than the
    first one."""
    software = read_facts(parts[0].path(out)).get("software")
    for part in parts:
        path = part.path(out)
        found = read_facts(path)
        expected = {**facts, "part": str(part), "software": software}
        if names := differing_facts(found, expected):
            raise SnvideoError(
                f"index {path}: of another run, which differs in {', '.join(names)}: delete it, "
                f"and make it again with --part {part}"
            )
        statuses = sum(map(Counter, found["counts"].values()), Counter[str]())
        if statuses.total() and not statuses["ok"]:
            log.warning(
                "index %s: none of its %d videos is usable: were they there where it was built?",
                path,
                statuses.total(),
            )


def _merged_rows(listing: Listing, out: Path, parts: list[Part]) -> Iterator[IndexRow]:
    """Rows of the parts in the order of the listing."""
    readers = [read_rows(part.path(out)) for part in parts]
    numbers = part_numbers((row.path for row in listing.rows), len(parts))
    for row, number in zip(listing.rows, numbers, strict=True):
        found = next(readers[number - 1], IndexRow())
        if found.path not in listing.files(row) or found.split != row.split:
            raise _other_rows(parts[number - 1].path(out))
        yield found
    for part, reader in zip(parts, readers, strict=True):
        if next(reader, None) is not None:
            raise _other_rows(part.path(out))


def _other_rows(path: Path) -> SnvideoError:
    return SnvideoError(
        f"index {path}: not the rows that were written there: delete it, and make it again"
    )
