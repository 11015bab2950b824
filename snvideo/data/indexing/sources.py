"""Sources of an index's rows: annotation files, class folders, lists of paths and labels."""

import csv
import hashlib
import io
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from snvideo.data.files import scan_videos
from snvideo.errors import SnvideoError

SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "validate", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""Usual names of splits -> the names that an index has."""


class ListedVideo(NamedTuple):
    """A video that a source lists, be the file there or not."""

    path: str  # POSIX, relative to the video folder; absolute if outside it
    label: int
    split: str
    start: float | None = None  # seconds into the source video, where it was cut out
    end: float | None = None
    note: str = ""
    """Remark for the column `reason`."""


@dataclass(frozen=True)
class Listing:
    """Videos and labels that a source lists."""

    rows: list[ListedVideo]
    labels: list[str]  # names in the order of their ids
    source: str  # description of the source
    skipped: dict[str, int] = field(default_factory=dict)
    """Why entries gave no row -> number of entries."""


def read_labels(path: Path) -> list[str]:
    """Label names from a file with one name a line, in the order of their ids.

    Raises:
        SnvideoError: if the file cannot be read, or a name is empty or comes twice.
    """
    names = [line.strip() for line in _read_text(path).rstrip().splitlines()]
    for number, name in enumerate(names, 1):
        if not name:
            raise SnvideoError(f"labels {path} line {number}: empty: give one label name a line")
        if name in names[: number - 1]:
            raise SnvideoError(f"labels {path} line {number}: {name!r} comes twice")
    if not names:
        raise SnvideoError(f"labels {path}: no names: give one label name a line")
    return names


# Kinetics ---------------------------------------------------------------------------------------


def read_kinetics(
    csvs: Sequence[Path], videos: Path, labels: Sequence[str] | None = None
) -> Listing:
    """List Kinetics 400, 600 or 700: annotation files and a folder of clips.

    Files are called `{youtube_id}_{start:06d}_{end:06d}` or just `{youtube_id}`, with any video
    extension, in any subfolders; of several, the one whose folders name the split and label is
    taken. Rows without a label (the test sets as first published) are skipped.

    Args:
        csvs: files with the columns label, youtube_id, time_start, time_end (seconds) and split;
            where there is no column split, the file's name tells it.
        videos: folder with the clips.
        labels: names in the order of their ids; by default all names found, sorted.

    Raises:
        SnvideoError: if a file or folder cannot be read, or a row makes no sense.
    """
    files: dict[str, list[str]] = {}
    for path in scan_videos(videos):
        files.setdefault(PurePosixPath(path).stem, []).append(path)
    entries = [entry for file in csvs for entry in _kinetics_entries(file)]
    skipped = Counter[str]()
    if unlabelled := sum(not clip.label for _, clip in entries):
        skipped["without a label"] = unlabelled
    entries = [(where, clip) for where, clip in entries if clip.label]
    ids = _LabelIds({clip.label for _, clip in entries}, labels)
    found = [
        ListedVideo(clip.find(files), ids(clip.label, where), clip.split, clip.start, clip.end)
        for where, clip in entries
    ]
    rows = _note_repeats(found, skipped, key=lambda path: PurePosixPath(path).stem)
    listed = {row.path for row in rows}
    if unlisted := sum(path not in listed for paths in files.values() for path in paths):
        skipped["files that no row names"] = unlisted
    source = f"kinetics {' '.join(file.name for file in csvs)}"
    return Listing(rows, ids.names, source, dict(skipped))


class _KineticsClip(NamedTuple):
    label: str
    youtube_id: str
    start: float
    end: float
    split: str

    def find(self, files: Mapping[str, Sequence[str]]) -> str:
        """Path of its file; if there is none, the name that it should have."""
        stem = f"{self.youtube_id}_{int(self.start):06d}_{int(self.end):06d}"
        short = f"{self.youtube_id}_{int(self.start)}_{int(self.end)}"
        found = files.get(stem) or files.get(short) or files.get(self.youtube_id)

        def fit(path: str) -> tuple[bool, bool]:
            folders = PurePosixPath(path).parts[:-1]
            return (
                self.split in (SPLITS.get(folder.lower()) for folder in folders),
                _as_in_folders(self.label) in map(_as_in_folders, folders),
            )

        return max(found, key=fit) if found else f"{stem}.mp4"


def _kinetics_entries(path: Path) -> Iterator[tuple[str, _KineticsClip]]:
    """Rows of an annotation file, each with its place for error messages."""
    reader = csv.DictReader(io.StringIO(_read_text(path), newline=""))
    missing = {"youtube_id", "time_start", "time_end"} - set(reader.fieldnames or ())
    if missing:
        raise SnvideoError(
            f"annotations {path} line 1: no column {', '.join(sorted(missing))}: expected "
            "label,youtube_id,time_start,time_end,split"
        )
    words = re.split("[^a-z]+", path.stem.lower())  # as in kinetics400_val.csv
    split = next((word for word in words if word in SPLITS), path.stem)
    for row in reader:
        where = f"annotations {path} line {reader.line_num}"
        try:
            start, end = float(row["time_start"]), float(row["time_end"])
            int(start), int(end)  # not infinite, not NaN
        except (TypeError, ValueError, OverflowError):
            raise SnvideoError(
                f"{where}: times {row['time_start']!r} to {row['time_end']!r}: expected seconds"
            ) from None
        label, split_here = (row.get("label") or "").strip(), _split_name(row.get("split") or split)
        yield where, _KineticsClip(label, row["youtube_id"].strip(), start, end, split_here)


# Class folders ----------------------------------------------------------------------------------


def read_class_folders(
    videos: Path,
    split: str = "train",
    val_fraction: float = 0.0,
    labels: Sequence[str] | None = None,
) -> Listing:
    """List class folders: `videos/<split>/<class>/...` or `videos/<class>/...`.

    Args:
        videos: its subfolders are splits if all are called train, val, test or the like (those
            without a video do not count); else they are classes.
        split: of class folders without split folders.
        val_fraction: part (0 to 1) of these that becomes the split `val` instead, by a hash of
            each path, so that new files move no others.
        labels: names in the order of their ids; by default all class folders, sorted.

    Raises:
        SnvideoError: if the folder cannot be read, mixes splits and classes, or holds a class that
            is not in `labels`.
    """
    paths = [PurePosixPath(path) for path in scan_videos(videos)]
    tops = {path.parts[0] for path in paths if len(path.parts) > 1}
    splits = {top for top in tops if top.lower() in SPLITS}
    if splits and splits != tops:
        raise SnvideoError(
            f"videos {videos}: folders {', '.join(sorted(splits))} look like splits, but "
            f"{sorted(tops - splits)[0]} like a class: keep either splits or classes there"
        )
    if splits and val_fraction:
        raise SnvideoError(
            f"videos {videos}: it has the splits {', '.join(sorted(splits))}: drop the fraction"
        )
    depth = 1 if splits else 0
    inside = [path for path in paths if len(path.parts) > depth + 1]
    outside = len(paths) - len(inside)
    ids = _LabelIds({path.parts[depth] for path in inside}, labels)
    rows = []
    for path in inside:
        if splits:
            chosen = SPLITS[path.parts[0].lower()]
        else:
            chosen = "val" if _path_fraction(str(path)) < val_fraction else _split_name(split)
        label = ids(path.parts[depth], f"videos {videos / path}")
        rows.append(ListedVideo(str(path), label, chosen))
    skipped = {"files outside class folders": outside} if outside else {}
    return Listing(rows, ids.names, "class folders", skipped)


def _path_fraction(path: str) -> float:
    """A number from 0 to 1 that depends on a path alone."""
    digest = hashlib.sha256(path.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


# Lists ------------------------------------------------------------------------------------------


def read_lists(
    files: Mapping[str, Path], videos: Path, labels: Sequence[str] | None = None
) -> Listing:
    """List videos from files as PySlowFast and mmaction2 read them: a path and a label id a line.

    The last space, tab or comma of a line separates, so paths may hold some.

    Args:
        files: split -> list.
        videos: folder that relative paths start from.
        labels: names in the order of their ids; by default the ids themselves.

    Raises:
        SnvideoError: if a list cannot be read, or a line is not a path and a known label.
    """
    skipped = Counter[str]()
    found: list[ListedVideo] = []
    root = videos.absolute()
    for split, file in files.items():
        for number, line in enumerate(_read_text(file).split("\n"), 1):
            if not line.strip():
                continue
            where = f"list {file} line {number}"
            match = re.fullmatch(r"\s*(.*[^\s,])\s*[\s,]\s*(-?\d+)\s*", line)
            if match is None:
                raise SnvideoError(f"{where}: {line.strip()[:80]!r}: expected path and label id")
            path, label = Path(match[1]), int(match[2])
            if label < 0:  # test lists whose labels are secret
                skipped["without a label"] += 1
                continue
            if labels is not None and label >= len(labels):
                raise SnvideoError(
                    f"{where}: label {label}, but the label file has {len(labels)} names (0 to "
                    f"{len(labels) - 1})"
                )
            path = path.relative_to(root) if path.is_relative_to(root) else path
            found.append(ListedVideo(path.as_posix(), label, _split_name(split)))
    if labels is None:
        labels = [str(label) for label in range(max((row.label for row in found), default=-1) + 1)]
    source = f"lists {' '.join(file.name for file in files.values())}"
    return Listing(_note_repeats(found, skipped), list(labels), source, dict(skipped))


# Shared by the sources --------------------------------------------------------------------------


class _LabelIds:
    """Label names to ids: of a label file, or of the names found, sorted."""

    def __init__(self, found: Iterable[str], labels: Sequence[str] | None) -> None:
        self.names = sorted(found) if labels is None else list(labels)
        self._loose = {_as_in_folders(name): number for number, name in enumerate(self.names)}
        self._exact = {name: number for number, name in enumerate(self.names)}

    def __call__(self, name: str, where: str) -> int:
        number = self._exact.get(name, self._loose.get(_as_in_folders(name)))
        if number is None:
            raise SnvideoError(
                f"{where}: label {name!r} is not one of the {len(self.names)} in the label file"
            )
        return number


def _note_repeats(
    rows: Iterable[ListedVideo], skipped: Counter[str], key: Callable[[str], str] = str
) -> list[ListedVideo]:
    """Drop and count repeated rows; note one video's other labels and splits.

    Two paths of one video have the same `key`.
    """
    first: dict[str, ListedVideo] = {}
    kept: list[ListedVideo] = []
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


def _as_in_folders(name: str) -> str:
    """A label as it may be spelled in a folder name."""
    return name.replace("_", " ").strip().casefold()


def _split_name(name: str) -> str:
    return SPLITS.get(name.strip().lower(), name.strip())


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise SnvideoError(f"cannot read {path}: {error.strerror}") from None
