"""Recognition of how a folder says which video is of which class."""

import csv
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from snvideo.data.files import EXTENSIONS, scan_videos
from snvideo.data.index import COLUMNS, IndexRow
from snvideo.data.indexing.sources import (
    SPLITS,
    Listing,
    read_class_folders,
    read_kinetics,
    read_labels,
    read_lists,
)
from snvideo.data.remote import Place
from snvideo.errors import SnvideoError
from snvideo.text import shorten_list

_HEAD = 50  # lines of a table that are looked at
_LINE = re.compile(r"""\s*["']?(.+?)["']?(?:\s*[\s,]\s*["']?(-?\d+)["']?)?[\s,]*""")
"""A path, perhaps in quotation marks, and a label id, which lists of a test split may lack."""
_LISTS = "lists of paths and label ids"
_TABLES = (".csv", ".txt")


class Recognized(NamedTuple):
    """A folder's videos and labels, and what was taken for them."""

    listing: Listing
    kind: str
    remarks: list[str]
    """What else was there, and why it was not taken; a line each."""


def recognize(videos: Place) -> Recognized:
    """List the videos of a folder by the first of these that it has.

    Annotations of Kinetics; lists of paths and label ids, as PySlowFast and mmaction2 have; class
    folders. The first two are looked for in the folder, in those in it, and in the one that it lies
    in, but not behind a URL; they count if they name at least one of the videos.

    Raises:
        SnvideoError: if there is none, saying what was looked for, or one class alone.
    """
    paths = scan_videos(videos)
    remarks: list[str] = []
    found = _first_of(videos, paths, remarks) if isinstance(videos, Path) else None
    if found is None:
        flat = all("/" not in path for path in paths)
        found = None if flat else Recognized(read_class_folders(videos), "class folders", remarks)
    if found is None or not found.listing.labels:
        raise SnvideoError(
            f"videos {videos}: {len(paths)} videos, and nothing that names their classes: looked "
            "for class folders (<class>/* or <split>/<class>/*), Kinetics annotations (CSV files "
            "with youtube_id, time_start, time_end) and lists of paths and label ids (.csv, .txt): "
            "put the videos of each class into a folder, or see 'snvideo index build --help'"
        )
    if len(labels := found.listing.labels) == 1:
        deep = any(len(PurePosixPath(path).parts) > 2 for path in paths)
        hint = f", or give {videos / labels[0]} if the classes are its folders" if deep else ""
        raise SnvideoError(
            f"videos {videos}: one class, {labels[0]!r}, by {found.kind}: there is nothing to tell "
            f"apart; add videos of another class{hint}"
        )
    return found


def _first_of(videos: Path, paths: Sequence[str], remarks: list[str]) -> Recognized | None:
    """Kinetics annotations or lists that name videos of the folder; what is passed over is noted
    in `remarks`."""
    tables = [(table, _head(table)) for table in _tables(videos)]
    folders = any("/" in path for path in paths)
    kinds: tuple[tuple[str, Callable[[Path, list[str]], bool], _Reader], ...] = (
        ("Kinetics annotations", _is_kinetics, _read_kinetics),
        (_LISTS, _is_list, _read_lists),
    )
    for kind, matches, read in kinds:
        files = [table for table, head in tables if matches(table, head)]
        chosen, others = _one_a_split(files)
        if not chosen:
            continue
        names = shorten_list([str(file) for file in chosen.values()])
        listing = read(chosen, videos, paths, [table for table, _ in tables])
        if not {row.path for row in listing.rows}.intersection(paths):
            remarks.append(f"{names}: passed over, as none of the videos is named there")
            continue
        ids = {label for row in listing.rows for label in row.label_ids}
        if kind == _LISTS and len(listing.rows) > 10 and 2 * len(ids) > len(listing.rows):
            numbers = f"{len(ids)} numbers for {len(listing.rows)} videos"
            remarks.append(f"{names}: passed over, as {numbers} are no labels")
            continue
        if others:
            left = shorten_list([str(file) for file in others])
            remarks.append(f"{left}: left out, as there is one of the same split already")
        if folders:
            remarks.append(f"classes and splits are those of {names}, whatever folders are called")
        return Recognized(listing, f"{kind} {names}", remarks)
    return None


def _tables(videos: Path) -> Iterator[Path]:
    """Text files that may list videos: nearest first."""
    inside = [folder for folder in sorted(videos.iterdir()) if folder.is_dir()]
    for folder in (
        videos,
        *(one for one in inside if one.name[0] != "."),
        videos.absolute().parent,
    ):
        try:
            files = sorted(file for file in folder.iterdir() if file.suffix.lower() in _TABLES)
        except OSError:  # a folder that may not be read has been named while scanning
            continue
        yield from (file for file in files if file.name[0] != "." and file.is_file())


def _head(table: Path) -> list[str]:
    """The first lines of a table that are not empty; none of a file that is no text."""
    try:
        with table.open(encoding="utf-8-sig") as file:
            return list(islice((line.rstrip("\n") for line in file if line.strip()), _HEAD))
    except (OSError, UnicodeDecodeError):
        return []


def _is_kinetics(table: Path, head: list[str]) -> bool:
    columns = set(next(csv.reader(head[:1]), []))
    return {"youtube_id", "time_start", "time_end"} <= columns


def _is_list(table: Path, head: list[str]) -> bool:
    """True if lines are of video files, each with a label id; without any in a list for tests.

    Of many, one may be otherwise: whoever reads the list then says which.
    """
    if not head or head[0].startswith(",".join(COLUMNS[:4])):  # an index of ours
        return False
    if re.search("label|class", head[0].lower()):  # names of columns
        head = head[1:] or head
    lines = [_LINE.fullmatch(line) for line in head]
    named = [line for line in lines if line and line[1].lower().endswith(EXTENSIONS)]
    labelled = [line for line in named if line[2]]
    enough = 0.9 * len(lines)
    return len(labelled) >= enough or (len(named) >= enough and _split_of(table) == "test")


def _split_of(table: Path) -> str:
    """Split that a table's name tells, as in `kinetics400_val_list.txt` and `trainlist01.txt`; ""
    where it tells none."""
    found = re.search(r"(?:^|[^a-z])(train|val|test)", table.stem.lower())
    return SPLITS[found[1]] if found else ""


def _one_a_split(tables: Sequence[Path]) -> tuple[dict[str, Path], list[Path]]:
    """The table of each split, the nearest and shortest named, and the others."""
    chosen: dict[str, Path] = {}
    for table in sorted(tables, key=lambda one: (tables[0].parent != one.parent, len(one.name))):
        chosen.setdefault(_split_of(table), table)
    if len(chosen) > 1:
        chosen.pop("", None)
    order = [split for split in ("train", "val", "test", "") if split in chosen]
    return {split: chosen[split] for split in order}, [
        table for table in tables if table not in chosen.values()
    ]


_Reader = Callable[[dict[str, Path], Path, Sequence[str], Sequence[Path]], Listing]


def _read_kinetics(
    files: dict[str, Path], videos: Path, paths: Sequence[str], tables: Sequence[Path]
) -> Listing:
    return read_kinetics(list(files.values()), videos)


def _read_lists(
    files: dict[str, Path], videos: Path, paths: Sequence[str], tables: Sequence[Path]
) -> Listing:
    """Lists, whose paths may begin elsewhere, with names for the label ids where there are some."""
    found = read_lists({split or "train": file for split, file in files.items()}, videos)
    rows = _located(found.rows, paths)
    for table in tables:
        if re.search("label|class", table.stem.lower()) and table not in files.values():
            lines = _read_names(table)
            if len(lines) == len(found.labels):
                return replace(found, rows=rows, labels=lines)
    return replace(found, rows=rows, labels=_folder_names(rows, found.labels))


def _read_names(table: Path) -> list[str]:
    try:
        return read_labels(table)
    except SnvideoError:  # it is something else
        return []


def _located(rows: Sequence[IndexRow], paths: Sequence[str]) -> list[IndexRow]:
    """Rows whose paths are those of files, also where a list leaves out the first folders of a path
    or begins with further ones.

    A file is taken for a path if it is the only one that ends as the path does, or the other way
    round, and ends so for no other path.
    """
    files: defaultdict[str, list[str]] = defaultdict(list)
    for path in paths:
        files[PurePosixPath(path).name].append(path)
    known = set(paths)
    places: dict[str, str] = {}
    for row in rows:
        if row.path not in known:
            ends = [
                file
                for file in files[PurePosixPath(row.path).name]
                if f"/{file}".endswith(f"/{row.path}") or f"/{row.path}".endswith(f"/{file}")
            ]
            if len(ends) == 1:
                places[row.path] = ends[0]
    taken = Counter([*places.values(), *(row.path for row in rows)])
    return [
        row._replace(path=place)
        if (place := places.get(row.path)) is not None and taken[place] == 1
        else row
        for row in rows
    ]


def _folder_names(rows: Sequence[IndexRow], labels: list[str]) -> list[str]:
    """Names of label ids by the folders of their videos, where each id has one of its own."""
    folders: defaultdict[int, set[str]] = defaultdict(set)
    for row in rows:
        if row.label >= 0:
            folders[row.label].add(PurePosixPath(row.path).parent.name)
    names = {label: next(iter(found)) for label, found in folders.items() if len(found) == 1}
    distinct = len(set(names.values())) == len(names) == len(folders) and "" not in names.values()
    if not distinct or set(names.values()) & set(map(str, range(len(labels)))):
        return labels
    return [names.get(number, name) for number, name in enumerate(labels)]
