"""Split of a listing's training videos, of which related ones stay together."""

import hashlib
import logging
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import replace

from snvideo.data.indexing.listing import Listing
from snvideo.errors import SnvideoError
from snvideo.text import shorten_list

log = logging.getLogger(__name__)


def hold_out(listing: Listing, fraction: float, group_by: str | None = None) -> Listing:
    """Move a part of the training videos of each class into the split val.

    Each class gives whole groups, by the hashes of their names, until it has given the fraction, at
    least one, and keeps at least one. So all classes are in both splits, and no group is.

    Args:
        listing: from `snvideo.data.indexing.sources`.
        fraction: part of the videos of each class, 0 to 1.
        group_by: as for `video_groups`; by default each file is a group of its own.

    Raises:
        SnvideoError: if there are videos of the split val already, or none to train on; for a path
            without a group.
    """
    splits = Counter(row.split for row in listing.rows)
    if splits["val"]:
        raise SnvideoError(
            f"{splits['val']} videos are of the split val already: drop the fraction"
        )
    if not splits["train"]:
        found = ", ".join(splits) or "no videos"
        raise SnvideoError(f"no video of the split train to take a fraction from: found {found}")
    groups = video_groups(listing, group_by)
    classes: defaultdict[int, Counter[str]] = defaultdict(Counter)  # videos of each group
    for row in listing.rows:
        if row.split == "train":
            classes[row.label][groups[row.path]] += 1
    held: set[str] = set()
    for _, sizes in sorted(classes.items()):
        _hold_groups(sizes, fraction, held)
    alone = [listing.labels[k] for k, sizes in classes.items() if held.isdisjoint(sizes)]
    gone = [listing.labels[k] for k, sizes in classes.items() if held.issuperset(sizes)]
    for names, where in ((alone, "val"), (gone, "train")):
        if names:
            log.warning("no video in split %s of %s", where, shorten_list(names))
    rows = [
        row._replace(split="val") if row.split == "train" and groups[row.path] in held else row
        for row in listing.rows
    ]
    return replace(listing, rows=rows)


def _hold_groups(sizes: Counter[str], fraction: float, held: set[str]) -> None:
    """Add to the groups that are held out as many of a class as make the fraction of its videos."""
    total = sizes.total()
    wanted = max(1, round(fraction * total))
    count = sum(size for group, size in sizes.items() if group in held)
    for group in sorted(sizes.keys() - held, key=_digest):
        if count >= wanted:
            return
        if count + sizes[group] < total:
            held.add(group)
            count += sizes[group]


def video_groups(listing: Listing, group_by: str | None) -> Mapping[str, str]:
    """Group of each video, by its path.

    Args:
        listing: from `snvideo.data.indexing.sources`.
        group_by: a regular expression, as `v_\\w+_g\\d+`, whose match in a path is the group, or
            what its brackets enclose; a column of annotations, for videos with
            `Listing.groups`. None: each path is a group.

    Raises:
        SnvideoError: if a path does not match, or this is no regular expression.
    """
    paths = {row.path for row in listing.rows}
    if group_by is None:
        return {path: path for path in paths}
    try:
        pattern = re.compile(group_by)
    except re.error as error:
        raise SnvideoError(f"--group-by {group_by!r}: no regular expression: {error}") from None
    found = {path: listing.groups.get(path) or _match(pattern, path) for path in paths}
    if lost := sorted(path for path, group in found.items() if group is None):
        raise SnvideoError(
            f"--group-by {group_by!r}: no column of the annotations, and not found in the path of "
            f"{len(lost)} videos, as {lost[0]}"
        )
    return {path: group or "" for path, group in found.items()}


def _match(pattern: re.Pattern[str], path: str) -> str | None:
    match = pattern.search(path)
    if match is None:
        return None
    return " ".join(part or "" for part in match.groups()) if match.groups() else match[0]


def warn_of_leaks(listing: Listing, group_by: str) -> None:
    """Warn of groups that are in several splits."""
    groups = video_groups(listing, group_by)
    splits: defaultdict[str, set[str]] = defaultdict(set)
    for row in listing.rows:
        splits[groups[row.path]].add(row.split)
    shared = sorted(group for group, found in splits.items() if len(found) > 1)
    if shared:
        log.warning(
            "%d of %d groups are in several splits: %s",
            *(len(shared), len(splits), shorten_list(shared)),
        )


def _digest(name: str) -> bytes:
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
