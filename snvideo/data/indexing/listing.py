"""What a source of videos lists, and the tools to list it: file names, labels, splits."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from snvideo.errors import SnvideoError

# fmt: off
EXTENSIONS = (
    ".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".ts", ".3gp",
)
# fmt: on
SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "validate": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
"""What people call a split -> what an index calls it."""


class Row(NamedTuple):
    """A video that a source lists, whether or not the file is there."""

    path: str
    """POSIX, relative to the video folder; absolute if outside it."""
    label: int
    split: str
    start: float | None = None
    """Seconds into the source video, where it was cut out."""
    end: float | None = None
    note: str = ""
    """What is odd about it."""


@dataclass(frozen=True)
class Listing:
    """What a source lists."""

    rows: list[Row]
    labels: list[str]
    """Names in the order of their ids."""
    source: str
    """Where this comes from, in words."""
    skipped: dict[str, int] = field(default_factory=dict)
    """Why entries gave no row -> how many."""


def read_labels(path: Path) -> list[str]:
    """Label names from a file with one name a line, in the order of their ids.

    Raises:
        SnvideoError: if the file cannot be read, or a name is empty or comes twice.
    """
    names = [line.strip() for line in read_text(path).rstrip().splitlines()]
    for number, name in enumerate(names, 1):
        if not name:
            raise SnvideoError(f"labels {path} line {number}: empty: give one label name a line")
        if name in names[: number - 1]:
            raise SnvideoError(f"labels {path} line {number}: {name!r} comes twice")
    if not names:
        raise SnvideoError(f"labels {path}: no names: give one label name a line")
    return names


def scan(videos: Path) -> list[str]:
    """All video files below a folder, by extension: POSIX paths relative to it, sorted.

    Links are followed; hidden files and folders are not looked at.

    Raises:
        SnvideoError: if a folder cannot be read, or there is no video.
    """

    def fail(error: OSError) -> None:
        raise SnvideoError(f"videos {error.filename}: {error.strerror}") from None

    found: list[str] = []
    for folder, subfolders, names in os.walk(videos, onerror=fail, followlinks=True):
        here = Path(folder)
        subfolders[:] = sorted(
            name for name in subfolders if not name.startswith(".") and not _leads_back(here / name)
        )
        inside = here.relative_to(videos)
        found += [
            (inside / name).as_posix()
            for name in names
            if name.lower().endswith(EXTENSIONS) and not name.startswith(".")
        ]
    if not found:
        raise SnvideoError(f"videos {videos}: no video file in it: give the folder of the videos")
    return sorted(found)


def _leads_back(folder: Path) -> bool:
    """Whether a folder is a link to one that holds it, which would never end."""
    return folder.is_symlink() and folder.parent.resolve().is_relative_to(folder.resolve())


class Ids:
    """Label names to ids: of a label file, or of the names found, sorted."""

    def __init__(self, found: Iterable[str], labels: Sequence[str] | None) -> None:
        self.names = sorted(found) if labels is None else list(labels)
        self._loose = {plain(name): number for number, name in enumerate(self.names)}
        self._exact = {name: number for number, name in enumerate(self.names)}

    def __call__(self, name: str, where: str) -> int:
        """Raises `SnvideoError`, which begins with `where`, if the name is not among them."""
        number = self._exact.get(name, self._loose.get(plain(name)))
        if number is None:
            raise SnvideoError(
                f"{where}: label {name!r} is not one of the {len(self.names)} in the label file"
            )
        return number


def note_repeats(
    rows: Iterable[Row], skipped: Counter[str], key: Callable[[str], str] = str
) -> list[Row]:
    """Drops repeated rows, and notes where one video has two labels or is in two splits.

    Args:
        rows: in the order of the source.
        skipped: counts what is dropped.
        key: from a path to what tells that two are one video.
    """
    first: dict[str, Row] = {}
    kept: list[Row] = []
    for row in rows:
        other = first.setdefault(key(row.path), row)
        if other is not row:
            if (other.split, other.label) == (row.split, row.label):
                skipped["repeated rows"] += 1
                continue
            split = f"also in {other.split}" if other.split != row.split else ""
            label = "also has another label" if other.label != row.label else ""
            row = row._replace(note="; ".join(filter(None, (split, label))))
        kept.append(row)
    return kept


def plain(name: str) -> str:
    """A label as it may be spelled in a folder name."""
    return name.replace("_", " ").strip().casefold()


def split_name(name: str) -> str:
    """What an index calls a split."""
    return SPLITS.get(name.strip().lower(), name.strip())


def read_text(path: Path) -> str:
    """Raises `SnvideoError` if the file cannot be read."""
    try:
        return path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise SnvideoError(f"cannot read {path}: {error.strerror}") from None
