"""Rows that a source lists, and what all sources do with their labels and repeats."""

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from snvideo.data.image_sequences import is_sequence
from snvideo.data.index import IndexRow
from snvideo.errors import SnvideoError

log = logging.getLogger(__name__)

SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "validate", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""Usual names of splits -> the names that an index has."""

LABELLED = ("train", "val")
"""Splits whose videos have a label; in any other, as `test`, they may do without."""

UNLABELLED = "without a label"
"""Remark on such a video; in `Listing.skipped` it counts those of `LABELLED` splits."""


@dataclass(frozen=True)
class Listing:
    """Videos and labels that a source lists."""

    rows: list[IndexRow]  # columns up to `end`, `fps` of image sequences, remarks in `reason`
    labels: list[str]  # names in the order of their ids
    source: str  # description of the source
    skipped: dict[str, int] = field(default_factory=dict)  # why there is no row -> entries
    namesakes: dict[str, list[str]] = field(default_factory=dict)
    """Path of a row -> further files of its clip; the best of all is taken."""
    groups: dict[str, str] = field(default_factory=dict)
    """Path of a row -> what annotations have in a column that names related videos."""

    def at_rate(self, fps: float) -> "Listing":
        """The same with image sequences of so many frames a second."""

        def rated(row: IndexRow) -> IndexRow:
            return row._replace(fps=fps) if any(map(is_sequence, self.files(row))) else row

        return replace(self, rows=[rated(row) for row in self.rows])

    def files(self, row: IndexRow) -> list[str]:
        """All files of a row's clip, likeliest first."""
        return [row.path, *self.namesakes.get(row.path, ())]


def with_labels(row: IndexRow, labels: Sequence[int]) -> IndexRow:
    """A row with labels, each once."""
    ids = list(dict.fromkeys(labels))
    several = " ".join(map(str, ids)) if len(ids) > 1 else ""
    return row._replace(label=ids[0] if ids else -1, labels=several)


def join_rows(rows: Iterable[IndexRow]) -> list[IndexRow]:
    """Rows of videos that may have several labels, those of one video and split in one."""
    first: dict[tuple[str, str], IndexRow] = {}
    for row in rows:
        same = first.setdefault((row.path, row.split), row)
        joined = with_labels(same, [*same.label_ids, *row.label_ids])
        all_labels = " ".join(map(str, joined.label_ids))  # also of a single one
        first[row.path, row.split] = joined._replace(labels=all_labels)
    return list(first.values())


def label_ids(
    found: Mapping[str, str], labels: Sequence[str] | None
) -> tuple[list[str], dict[str, int]]:
    """Label names, and the id of each that is `found`, which says where, for an error message.

    Of names that are spelled alike, the first counts, unless a label file tells them apart.
    """
    if labels is None:
        first: dict[str, str] = {}
        for name in sorted(found):
            if (other := first.setdefault(as_in_folders(name), name)) != name:
                log.warning(
                    "labels %r and %r are taken for one: --labels keeps them apart", other, name
                )
        labels = list(first.values())
    names = list(labels)
    ids = {as_in_folders(name): number for number, name in enumerate(names)}
    ids |= {name: number for number, name in enumerate(names)}
    for name, where in found.items():
        number = ids.setdefault(name, ids.get(as_in_folders(name), -1))
        if number < 0:
            raise SnvideoError(
                f"{where}: label {name!r} is not one of the {len(names)} in the label file"
            )
    return names, ids


def note_repeats(
    rows: Iterable[IndexRow], skipped: Counter[str], key: Callable[[str], str] = str
) -> list[IndexRow]:
    """Drop and count repeated rows; note other labels and splits of a video, whose `key` is one."""
    first: dict[str, IndexRow] = {}
    seen: defaultdict[tuple[str, str], set[tuple[int, ...]]] = defaultdict(set)
    kept: list[IndexRow] = []
    for row in sorted(rows, key=lambda row: not row.label_ids):  # a repeat without loses no label
        video, labels = key(row.path), tuple(row.label_ids)
        other, before = first.setdefault(video, row), seen[video, row.split]
        if labels in before or (before and not labels):
            skipped["repeated rows"] += 1
            continue
        before.add(labels)
        remarks = [f"also in {other.split}"] * (other.split != row.split)
        known = other.label_ids and labels
        remarks += ["also has another label"] * bool(known and other.label_ids != row.label_ids)
        kept.append(row._replace(reason="; ".join(filter(None, [row.reason, *remarks]))))
    return kept


def as_in_folders(name: str) -> str:
    """A label as it may be spelled in a folder name."""
    return name.replace("_", " ").strip().casefold()


def is_replacement(folder: str) -> bool:
    """True for folders as `replacement` and `replacement_for_corrupted_k400`."""
    return folder.lower().startswith("replacement")


def split_name(name: str) -> str:
    """A split as the index calls it."""
    return SPLITS.get(name.strip().lower(), name.strip())


def read_text(path: Path) -> str:
    """Text of a file; a `SnvideoError` if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise SnvideoError(f"cannot read {path}: {error.strerror}") from None
