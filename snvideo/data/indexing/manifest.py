"""Manifests of copies of a data set: names, sizes and frame counts, and what two copies differ in.

A manifest has a line a video, sorted, and nothing that depends on folders or on the time, so that
equal copies have equal files: the SHA-256 of one can be published with a result.
"""

import csv
import io
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from snvideo.atomic import write_atomic
from snvideo.data.image_sequences import without_pattern
from snvideo.data.index import IndexRow, read_rows
from snvideo.data.index_meta import CODING
from snvideo.errors import SnvideoError

_CUT = re.compile(r"(.+)_(\d+)_(\d+)")  # as in QgjMcOKaH9I_000004_000014


class ManifestEntry(NamedTuple):
    """A line of a manifest; the columns are these, in this order."""

    name: str  # see `video_name`
    split: str
    label: str  # label names, with `;` between
    bytes: int
    frames: int  # shown frames that can be decoded; 0 of a video that is not usable
    status: str  # `ok`, `missing` or `broken`


DIFFERENCES = (
    "only in the first",
    "only in the second",
    "unusable in the first",
    "unusable in the second",
    "another split",
    "another label",
    "another number of frames",
    "another file with as many frames",
    "the same size with another number of frames",
)
"""What a video of two copies can differ in, the first that is true. The last comes of an index that
was built with another `--check`, or of damage inside a file."""


@dataclass(frozen=True)
class CopyComparison:
    """Comparison of two copies."""

    same: Counter[str] = field(default_factory=Counter)
    """Split -> videos that are usable in both, of the same size, frames and label."""
    differences: defaultdict[str, list[tuple[str, str]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    """One of `DIFFERENCES` -> split (in the first copy, if it is there) and name of each video."""

    @property
    def equal(self) -> bool:
        """True if nothing differs."""
        return not any(self.differences.values())


def video_name(row: IndexRow) -> str:
    """Name of a video that no folder decides where its own name will do.

    `{youtube_id}_{start:06d}_{end:06d}` of a clip whose cut is known from annotations, or whose
    file is called so; else its path, without the ending.
    """
    path = without_pattern(row.path)
    cut = _CUT.fullmatch(path.stem)
    if row.start is not None and row.end is not None:
        return f"{cut[1] if cut else path.stem}_{int(row.start):06d}_{int(row.end):06d}"
    if cut and len(cut[1]) == 11 and len(cut[2]) == len(cut[3]) == 6:
        return path.stem
    return str(path.with_suffix(""))


def manifest_entries(index: Path) -> list[ManifestEntry]:
    """Entries of all rows of an index, sorted."""
    return sorted(
        ManifestEntry(
            *(video_name(row), row.split, row.label_name, row.bytes),
            *(row.frames if row.status == "ok" else 0, row.status),
        )
        for row in read_rows(index)
    )


def write_manifest(entries: Iterable[ManifestEntry], path: Path) -> None:
    """Write a manifest, a CSV file with a header."""
    _write_csv(path, ManifestEntry._fields, entries)


def write_differences(compared: CopyComparison, path: Path) -> None:
    """Write all that differs, a CSV file with a line for each video."""
    rows = (
        (split, name, difference)
        for difference in DIFFERENCES
        for split, name in compared.differences.get(difference, ())
    )
    _write_csv(path, ("split", "name", "difference"), rows)


def _write_csv(path: Path, header: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    try:
        write_atomic(path, text.getvalue().encode(*CODING))
    except OSError as error:
        raise SnvideoError(f"cannot write {path}: {error.strerror or error}") from None


def read_entries(path: Path) -> list[ManifestEntry]:
    """Entries of a manifest or of an index; a `SnvideoError` if the file is neither."""
    try:
        with path.open(newline="", encoding=CODING[0], errors=CODING[1]) as file:
            reader = csv.reader(file, strict=True)
            if tuple(next(reader, [])) != ManifestEntry._fields:
                return manifest_entries(path)
            return [
                ManifestEntry(name, split, label, int(size), int(frames), status)
                for name, split, label, size, frames, status in reader
            ]
    except OSError as error:
        raise SnvideoError(f"no index or manifest at {path}: {error.strerror}") from None
    except (ValueError, csv.Error) as error:
        line = f"{path} line {reader.line_num}"
        raise SnvideoError(f"manifest {line}: {error}: write it again") from None


def compare_copies(
    first: Iterable[ManifestEntry], second: Iterable[ManifestEntry]
) -> CopyComparison:
    """Compare two copies video by video, by their names.

    A name that a copy has several times, as in several splits, is compared entry by entry, those
    of the same split first.
    """
    compared = CopyComparison()
    others: defaultdict[str, list[ManifestEntry]] = defaultdict(list)
    for entry in second:
        others[entry.name].append(entry)
    left: list[ManifestEntry] = []
    for entry in first:  # those in the same split first
        found = [other for other in others[entry.name] if other.split == entry.split]
        if found:
            others[entry.name].remove(found[0])
            _note(compared, entry, found[0])
        else:
            left.append(entry)
    for entry in left:
        remaining = others[entry.name]
        _note(compared, entry, remaining.pop(0) if remaining else None)
    for entries in others.values():
        for entry in entries:
            compared.differences["only in the second"].append((entry.split, entry.name))
    for videos in compared.differences.values():
        videos.sort()
    return compared


def _note(compared: CopyComparison, one: ManifestEntry, other: ManifestEntry | None) -> None:
    difference = _difference(one, other)
    if difference is not None:
        compared.differences[difference].append((one.split, one.name))
    elif one.status == "ok":
        compared.same[one.split] += 1


def _difference(one: ManifestEntry, other: ManifestEntry | None) -> str | None:
    """One of `DIFFERENCES` of two entries of a name; none if both are not usable."""
    if other is None:
        return "only in the first"
    if one.split != other.split:
        return "another split"
    if one.label != other.label:
        return "another label"
    if one.status != other.status and "ok" in (one.status, other.status):
        return f"unusable in the {'second' if one.status == 'ok' else 'first'}"
    if one.status != "ok" or (one.bytes, one.frames) == (other.bytes, other.frames):
        return None
    if one.bytes == other.bytes:
        return "the same size with another number of frames"
    if one.frames == other.frames:
        return "another file with as many frames"
    return "another number of frames"
