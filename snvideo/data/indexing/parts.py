"""Parts of an index, built on several machines, and their merger into one index.

Part 3 of 16 of `index.csv` is itself an index, `index.3-of-16.csv`, of every sixteenth video. Its
JSON file says in addition which run it belongs to.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from snvideo.data.decoding import software
from snvideo.data.index_meta import VERSION
from snvideo.data.indexing.listing import Listing
from snvideo.data.remote import Place
from snvideo.errors import SnvideoError

MOST = 1000
"""Parts at most: to be merged they are all open at once."""


class Part(NamedTuple):
    """One of several parts, as `3/16`."""

    number: int  # from 1
    parts: int

    @classmethod
    def parse(cls, text: str) -> "Part":
        """Read `i/n`; a `SnvideoError` if it is none."""
        match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text.strip(), re.ASCII)
        part = cls(*map(int, match.groups())) if match else cls(0, 0)
        if not 1 <= part.number <= part.parts <= MOST:
            raise SnvideoError(
                f"part {text!r}: expected i/n, as 1/16 to 16/16, with n at most {MOST}"
            )
        return part

    def __str__(self) -> str:
        return f"{self.number}/{self.parts}"

    def path(self, out: Path) -> Path:
        """Path of this part of a file, beside it."""
        return out.with_name(f"{out.stem}.{self.number}-of-{self.parts}{out.suffix}")


def parts_beside(out: Path) -> list[Part]:
    """Parts of a file that lie beside it, in order, those of other numbers of parts, too."""
    name = rf"{re.escape(out.stem)}\.([1-9]\d*)-of-([1-9]\d*){re.escape(out.suffix)}"
    matches = (re.fullmatch(name, path.name, re.ASCII) for path in out.parent.iterdir())
    return sorted(Part(int(match[1]), int(match[2])) for match in matches if match)


def part_numbers(paths: Iterable[str], parts: int) -> Iterator[int]:
    """Number of the part that each row belongs to: videos go to the parts in turn, and all rows of
    one video to the same."""
    order: dict[str, int] = {}
    return (order.setdefault(path, len(order)) % parts + 1 for path in paths)


def take_part(listing: Listing, part: Part | None) -> Listing:
    """The rows of a part, in order; all of them if there is none."""
    if part is None:
        return listing
    numbers = part_numbers((row.path for row in listing.rows), part.parts)
    rows = [row for row, number in zip(listing.rows, numbers, strict=True) if number == part.number]
    return replace(listing, rows=rows)


def listing_digest(listing: Listing, videos: Place, check: str, *, remarks: bool) -> str:
    """Hex SHA-256 of all that the rows of an index depend on, beside the files themselves."""
    digest = hashlib.sha256()
    for fact in (VERSION, videos.absolute(), check, listing.labels):
        digest.update(repr(fact).encode())
    for row in listing.rows:
        row = row if remarks else row._replace(reason="")
        digest.update(repr((row, listing.namesakes.get(row.path))).encode())
    return digest.hexdigest()


def part_facts(listing: Listing, videos: Place, check: str, part: Part) -> dict[str, Any]:
    """Facts that the JSON file beside a part has in addition to that of an index: part, rows of all
    parts, and the software that looked into the files."""
    return {
        "part": str(part),
        # Without remarks, in which preparing has failures of its own part alone.
        "listing": listing_digest(listing, videos, check, remarks=False),
        "software": software(),
    }


def is_finished(out: Path, facts: dict[str, Any]) -> bool:
    """True if a part is there that was built as these facts say."""
    return out.exists() and not differing_facts(read_facts(out), facts)


def read_facts(out: Path) -> dict[str, Any]:
    """Facts in the JSON file beside an index; none if it is missing or malformed."""
    try:
        found = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def differing_facts(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """Names of the facts that are not as expected."""
    return [name for name, fact in expected.items() if found.get(name) != fact]
