"""Where an index's rows come from: annotation files, class folders, lists of paths and labels."""

import csv
import hashlib
import io
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from snvideo.data.indexing.listing import (
    SPLITS,
    Ids,
    Listing,
    Row,
    note_repeats,
    plain,
    read_text,
    scan,
    split_name,
)
from snvideo.errors import SnvideoError


def kinetics(csvs: Sequence[Path], videos: Path, labels: Sequence[str] | None = None) -> Listing:
    """Kinetics 400, 600 or 700: annotation files and a folder of clips.

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
    for path in scan(videos):
        files.setdefault(PurePosixPath(path).stem, []).append(path)
    entries: list[tuple[str, _Clip]] = []
    skipped = Counter[str]()
    for file in csvs:
        for where, clip in _clips(file):
            if clip.label:
                entries.append((where, clip))
            else:
                skipped["without a label"] += 1
    ids = Ids({clip.label for _, clip in entries}, labels)
    rows = (
        Row(clip.find(files), ids(clip.label, where), clip.split, clip.start, clip.end)
        for where, clip in entries
    )
    rows = note_repeats(rows, skipped, key=lambda path: PurePosixPath(path).stem)
    listed = {row.path for row in rows}
    unlisted = sum(path not in listed for paths in files.values() for path in paths)
    if unlisted:
        skipped["files that no row names"] = unlisted
    source = f"kinetics {' '.join(file.name for file in csvs)}"
    return Listing(rows, ids.names, source, dict(skipped))


class _Clip(NamedTuple):
    label: str
    youtube_id: str
    start: float
    end: float
    split: str

    def find(self, files: Mapping[str, Sequence[str]]) -> str:
        """Its file; if there is none, the name that it should have."""
        stem = f"{self.youtube_id}_{int(self.start):06d}_{int(self.end):06d}"
        short = f"{self.youtube_id}_{int(self.start)}_{int(self.end)}"
        found = files.get(stem) or files.get(short) or files.get(self.youtube_id)
        return max(found, key=self._fit) if found else f"{stem}.mp4"

    def _fit(self, path: str) -> int:
        folders = PurePosixPath(path).parts[:-1]
        splits = [SPLITS.get(folder.lower()) for folder in folders]
        return 2 * (self.split in splits) + (plain(self.label) in map(plain, folders))


def _clips(path: Path) -> Iterator[tuple[str, _Clip]]:
    """Rows of an annotation file, each with its place for error messages."""
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""))
    missing = {"youtube_id", "time_start", "time_end"} - set(reader.fieldnames or ())
    if missing:
        raise SnvideoError(
            f"annotations {path} line 1: no column {', '.join(sorted(missing))}: expected "
            "label,youtube_id,time_start,time_end,split"
        )
    for row in reader:
        where = f"annotations {path} line {reader.line_num}"
        try:
            start, end = float(row["time_start"]), float(row["time_end"])
            int(start), int(end)  # not infinite, not NaN
        except (TypeError, ValueError, OverflowError):
            raise SnvideoError(
                f"{where}: times {row['time_start']!r} to {row['time_end']!r}: expected seconds"
            ) from None
        split = split_name(row.get("split") or _split_of(path))
        label = (row.get("label") or "").strip()
        yield where, _Clip(label, row["youtube_id"].strip(), start, end, split)


def _split_of(path: Path) -> str:
    """The split that a file's name tells, as in kinetics400_val.csv; else the name."""
    words = re.split("[^a-z]+", path.stem.lower())
    return next((word for word in words if word in SPLITS), path.stem)


def folders(
    videos: Path,
    split: str = "train",
    val_fraction: float = 0.0,
    labels: Sequence[str] | None = None,
) -> Listing:
    """Class folders: `videos/<split>/<class>/...` or `videos/<class>/...`.

    Args:
        videos: its subfolders are splits if all are called train, val, test or the like (those
            without a video do not count); else they are classes.
        split: what class folders without split folders are.
        val_fraction: part (0 to 1) of these that becomes the split `val` instead. Each file's
            path alone decides, so that new files move no others.
        labels: names in the order of their ids; by default all class folders, sorted.

    Raises:
        SnvideoError: if the folder cannot be read, mixes splits and classes, or holds a class that
            is not in `labels`.
    """
    skipped = Counter[str]()
    paths = [PurePosixPath(path) for path in scan(videos)]
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
    if len(inside) < len(paths):
        skipped["files outside class folders"] = len(paths) - len(inside)
    ids = Ids({path.parts[depth] for path in inside}, labels)
    rows = []
    for path in inside:
        if splits:
            chosen = SPLITS[path.parts[0].lower()]
        else:
            chosen = "val" if _fraction(str(path)) < val_fraction else split_name(split)
        where = f"videos {videos / path}"
        rows.append(Row(str(path), ids(path.parts[depth], where), chosen))
    return Listing(rows, ids.names, "class folders", dict(skipped))


def lists(files: Mapping[str, Path], videos: Path, labels: Sequence[str] | None = None) -> Listing:
    """Lists as PySlowFast and mmaction2 read them: a path and a label id a line.

    The last space, tab or comma of a line separates, so paths may hold some.

    Args:
        files: split -> list.
        videos: folder that relative paths start from.
        labels: names in the order of their ids; by default the ids themselves.

    Raises:
        SnvideoError: if a list cannot be read, or a line is not a path and a known label.
    """
    skipped = Counter[str]()
    found: list[Row] = []
    for split, file in files.items():
        for number, line in enumerate(read_text(file).split("\n"), 1):
            if not line.strip():
                continue
            where = f"list {file} line {number}"
            match = re.fullmatch(r"\s*(.*[^\s,])\s*[\s,]\s*(-?\d+)\s*", line)
            if match is None:
                raise SnvideoError(f"{where}: {line.strip()[:80]!r}: expected path and label id")
            label = int(match[2])
            if label < 0:  # how test lists say that nobody knows
                skipped["without a label"] += 1
                continue
            if labels is not None and label >= len(labels):
                raise SnvideoError(
                    f"{where}: label {label}, but the label file has {len(labels)} names (0 to "
                    f"{len(labels) - 1})"
                )
            found.append(Row(_relative(match[1], videos), label, split_name(split)))
    if labels is None:
        labels = [str(label) for label in range(max((row.label for row in found), default=-1) + 1)]
    source = f"lists {' '.join(file.name for file in files.values())}"
    return Listing(note_repeats(found, skipped), list(labels), source, dict(skipped))


def _fraction(path: str) -> float:
    """A number from 0 to 1 that depends on a path alone."""
    digest = hashlib.sha256(path.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _relative(path: str, videos: Path) -> str:
    given, root = Path(path), videos.absolute()
    return (given.relative_to(root) if given.is_relative_to(root) else given).as_posix()
