"""A part of the training videos held out for validation."""

import hashlib
from collections import defaultdict
from dataclasses import replace

from snvideo.data.index import IndexRow
from snvideo.data.indexing.sources import Listing


def hold_out(listing: Listing, fraction: float) -> Listing:
    """Move a part of the training videos of each class into the split val.

    Each class of two videos or more gives the nearest whole number, at least one, and keeps at
    least one. Which ones is decided by hashes of their paths.

    Args:
        listing: from `snvideo.data.indexing.sources`.
        fraction: part of the videos of each class, 0 to 1.
    """
    classes: defaultdict[int, list[IndexRow]] = defaultdict(list)
    for row in listing.rows:
        if row.split == "train":
            classes[row.label].append(row)
    held: set[IndexRow] = set()
    for rows in classes.values():
        count = min(max(1, round(fraction * len(rows))), len(rows) - 1)
        held.update(sorted(rows, key=_digest)[:count])
    return replace(
        listing, rows=[row._replace(split="val") if row in held else row for row in listing.rows]
    )


def _digest(row: IndexRow) -> bytes:
    return hashlib.sha256(row.path.encode("utf-8", "surrogateescape")).digest()
