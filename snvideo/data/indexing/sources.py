"""Sources of an index's rows: annotation files, class folders, lists of paths and labels.

What cannot be read or makes no sense is a `SnvideoError` that names the file and line.
"""

import csv
import io
import logging
import os
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from snvideo.data.files import EXTENSIONS, scan_videos
from snvideo.data.image_sequences import (
    find_sequence,
    is_sequence,
    list_images,
    without_pattern,
)
from snvideo.data.index import IndexRow
from snvideo.data.indexing.listing import (
    LABELLED,
    SPLITS,
    UNLABELLED,
    Listing,
    as_in_folders,
    is_replacement,
    join_rows,
    label_ids,
    note_repeats,
    read_text,
    split_name,
    with_labels,
)
from snvideo.data.remote import Place, RemotePath, as_place, is_web
from snvideo.data.tar import split_member
from snvideo.errors import SnvideoError

log = logging.getLogger(__name__)


def read_labels(path: Path) -> list[str]:
    """Label names from a file with one name a line, in the order of their ids."""
    names = [line.strip() for line in read_text(path).rstrip().splitlines()] or [""]
    for number, name in enumerate(names, 1):
        if not name or name in names[: number - 1]:
            problem = f"{name!r} comes twice" if name else "empty"
            raise SnvideoError(
                f"labels {path} line {number}: {problem}: give one label name a line"
            )
    return names


OTHER_NUMBER = "its list states another number of images"


def read_kinetics(
    csvs: Sequence[Path],
    videos: Place,
    labels: Sequence[str] | None = None,
    multi_label: bool = False,
    group_column: str | None = None,
) -> Listing:
    """List Kinetics 400, 600 or 700: annotation files and a folder of clips.

    Files are called `{youtube_id}_{start:06d}_{end:06d}` or just `{youtube_id}`, with any video
    extension, in any subfolders. Of several, the best is taken; of as good ones that whose folders
    say that it is a replacement, or name the split and label. Rows without a label (the test sets
    as first published) are skipped in the splits train and val alone. A web server lists no files:
    there they are flat, and `.mp4`.

    Args:
        csvs: files with the columns label, youtube_id, time_start, time_end (seconds) and split;
            where there is no column split, the file's name tells it.
        videos: folder with the clips.
        labels: names in the order of their ids; by default all names found, sorted.
        multi_label: a clip may have several labels, with `;` or `|` between, or several rows.
        group_column: becomes `Listing.groups`, if there is such a column.
    """
    files: defaultdict[str, list[str]] = defaultdict(list)
    for path in [] if is_web(videos) else scan_videos(videos):
        files[without_pattern(path).stem].append(path)
    found: list[tuple[list[str], IndexRow]] = []
    places: dict[str, str] = {}
    skipped = Counter[str]()
    namesakes: dict[str, list[str]] = {}
    groups: dict[str, str] = {}
    for file in csvs:
        for where, row in _annotations(file):
            try:
                start, end = float(row["time_start"]), float(row["time_end"])
                times = int(start), int(end)  # not infinite, not NaN
            except (TypeError, ValueError, OverflowError):
                raise SnvideoError(
                    f"{where}: times {row['time_start']!r} to {row['time_end']!r}: expected seconds"
                ) from None
            label, split = (row.get("label") or "").strip(), split_name(row["split"])
            if not label and split in LABELLED:
                skipped[UNLABELLED] += 1
                continue
            several = re.split(r"\s*[;|]\s*", label) if multi_label else [label]
            several = several if label else []
            for one in several:
                places.setdefault(one, where)
            path, *others = _clip_paths(files, row["youtube_id"].strip(), *times, split, label)
            if others:
                namesakes[path] = others
            if group_column in row:
                groups[path] = row[group_column]
            found.append((several, IndexRow(path, split=split, start=start, end=end)))
    names, ids = label_ids(places, labels)
    labelled = (with_labels(video, [ids[label] for label in several]) for several, video in found)
    rows = note_repeats(
        join_rows(labelled) if multi_label else labelled,
        skipped,
        key=lambda path: without_pattern(path).stem,
    )
    listed = {row.path for row in rows}
    spare = {path for others in namesakes.values() for path in others} - listed
    skipped["further files of clips"] = len(spare)
    known = listed | spare
    skipped["files that no row names"] = sum(
        path not in known for paths in files.values() for path in paths
    )
    source = f"kinetics {' '.join(file.name for file in csvs)}"
    return Listing(rows, names, source, dict(+skipped), namesakes, groups)


def _annotations(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Rows of an annotation file with their split, each with its place for error messages."""
    # Strict: else an open quote swallows rows up to the next one, or the end, without a word.
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    words = re.split("[^a-z]+", path.stem.lower())  # as in kinetics400_val.csv
    split = next((word for word in words if word in SPLITS), path.stem)
    where = f"annotations {path} line 1"
    try:
        columns = next(reader, [])
        if missing := {"youtube_id", "time_start", "time_end"} - set(columns):
            raise SnvideoError(
                f"{where}: no column {', '.join(sorted(missing))}: expected "
                "label,youtube_id,time_start,time_end,split"
            )
        where = f"annotations {path} line {reader.line_num + 1}"
        for values in reader:
            if values:
                if len(values) < len(columns) or any(values[len(columns) :]):
                    number, expected = len(values), len(columns)
                    raise SnvideoError(f"{where}: it has {number} values, expected {expected}")
                row = dict(zip(columns, values, strict=False))
                yield where, {**row, "split": row.get("split") or split}
            where = f"annotations {path} line {reader.line_num + 1}"
    except csv.Error as error:
        raise SnvideoError(f"{where}: {error}: is a quotation mark left open?") from None


def _clip_paths(
    files: Mapping[str, list[str]], video: str, start: int, end: int, split: str, label: str
) -> list[str]:
    """Paths of a clip's files, likeliest first; if there is none, the name that it should have."""
    stem = f"{video}_{start:06d}_{end:06d}"
    found = files.get(stem, []) + files.get(f"{video}_{start}_{end}", [])

    def fit(path: str) -> tuple[bool, bool, bool]:
        folders = {as_in_folders(folder) for folder in PurePosixPath(path).parts[:-1]}
        replaces = any(map(is_replacement, folders))
        return replaces, split in map(SPLITS.get, folders), as_in_folders(label) in folders

    found = sorted(dict.fromkeys(found or files.get(video, [])), key=fit, reverse=True)
    return found or [f"{stem}.mp4"]


def read_class_folders(
    videos: Place,
    split: str = "train",
    labels: Sequence[str] | None = None,
) -> Listing:
    """List class folders: `videos/<split>/<class>/...` or `videos/<class>/...`.

    A tar file in them is as its content in its place. One that is called after a split, or has
    clips in no folder, is also a folder of its name: `train.tar`, `archery.tar`. Files that lie in
    no class folder have no label, and are skipped in the splits train and val. A folder
    `replacement` beside splits, as Kinetics-400 is downloaded, holds better files of videos in
    them. Labels that are spelled alike, as with `_` for spaces, are one.

    Args:
        videos: its subfolders are splits if all are called train, val, test or the like (those
            without a video do not count); else they are classes.
        split: of class folders without split folders.
        labels: names in the order of their ids; by default all class folders, sorted.
    """
    names_found = scan_videos(videos)
    flat = {tar for tar, name in map(split_member, names_found) if name and "/" not in name}
    found = [(_in_folders(path, flat), path) for path in names_found]
    tops = {at.parts[0] for at, _ in found if len(at.parts) > 1}
    splits = {top for top in tops if top.lower() in SPLITS}
    better = {top for top in tops if splits and is_replacement(top)}
    tops -= better
    if splits and splits != tops:
        raise SnvideoError(
            f"videos {videos}: folders {', '.join(sorted(splits))} look like splits, but "
            f"{sorted(tops - splits)[0]} like a class: keep either splits or classes there"
        )
    replacements: defaultdict[str, list[str]] = defaultdict(list)
    for at, path in found:
        if at.parts[0] in better:
            replacements[at.stem].append(path)
    found = [(at, path) for at, path in found if at.parts[0] not in better]
    depth = 1 if splits else 0

    def split_of(at: PurePosixPath) -> str:
        return SPLITS[at.parts[0].lower()] if splits else split_name(split)

    def in_class(at: PurePosixPath) -> bool:
        return len(at.parts) > depth + 1

    def is_listed(at: PurePosixPath) -> bool:
        return in_class(at) or (len(at.parts) > depth and split_of(at) not in LABELLED)

    listed = [(at, path) for at, path in found if is_listed(at)]
    endings = Counter(PurePosixPath(path).with_suffix("") for _, path in listed)
    places = Counter(at for at, _ in listed)
    named = {at.parts[depth]: f"videos {videos / path}" for at, path in found if in_class(at)}
    names, ids = label_ids(named, labels)
    rows = []
    namesakes: dict[str, list[str]] = {}
    for at, path in listed:
        label = ids[at.parts[depth]] if in_class(at) else -1
        several = endings[PurePosixPath(path).with_suffix("")] > 1
        remarks = ["also with another ending"] * several
        remarks += ["also in another tar file or beside it"] * (places[at] > 1)
        first, *others = [*replacements.pop(at.stem, []), path]
        if others:
            namesakes[first] = others
        rows.append(IndexRow(first, label, split=split_of(at), reason="; ".join(remarks)))
    skipped = Counter({"files outside class folders": len(found) - len(listed)})
    skipped["further files of clips"] = sum(map(len, namesakes.values()))
    skipped["replacements of no video"] = sum(map(len, replacements.values()))
    return Listing(rows, names, "class folders", dict(+skipped), namesakes)


def _in_folders(path: str, flat: Collection[str]) -> PurePosixPath:
    """A path without its tar file, or with a folder in the place of one that counts as such; of an
    image sequence its folder."""
    if is_sequence(path):
        return without_pattern(path)
    tar, name = split_member(path)
    at = PurePosixPath(tar)
    counts = tar in flat or at.stem.lower() in SPLITS
    return (at.with_suffix("") if counts else at.parent) / name if name else at


def read_lists(
    files: Mapping[str, Path],
    videos: Place,
    labels: Sequence[str] | None = None,
    multi_label: bool = False,
) -> Listing:
    """List videos from files as PySlowFast and mmaction2 read them: a path and a label id a line;
    of a folder of numbered images its number of images stands between.

    The last space, tab or comma of a line separates, so paths may hold some; they may stand in
    quotation marks, as pandas writes them then. Videos without a label, of lists of paths alone or
    with ids below 0, are skipped in the splits train and val.

    Args:
        files: split -> list.
        videos: folder that relative paths start from.
        labels: names in the order of their ids; by default the ids themselves.
        multi_label: lines may end in several label ids, with a space, `,`, `;` or `|` between, and
            a video may have several lines.
    """
    ids = r"-?\d+(?:\s*[\s,;|]\s*\d+)*" if multi_label else r"-?\d+"
    pattern = re.compile(rf"\s*(.*?[^\s,])\s*[\s,]\s*\"?({ids})\"?\s*")
    skipped = Counter[str]()
    found: list[IndexRow] = []
    root = videos.absolute()
    for split, file in ((split_name(name), file) for name, file in files.items()):
        for where, path, several in _listed(file, pattern, split in LABELLED):
            path, several, remark = _sequence(root, path, several)
            if (label := max(several, default=-1)) < 0 and split in LABELLED:
                skipped[UNLABELLED] += 1
                continue
            if labels is not None and label >= len(labels):
                raise SnvideoError(
                    f"{where}: label {label}, but the label file has {len(labels)} names (0 to "
                    f"{len(labels) - 1})"
                )
            path = _relative(path, root)
            several = several if label >= 0 else []  # test lists whose labels are secret
            row = IndexRow(path.as_posix(), split=split, reason=remark)
            found.append(with_labels(row, several))
    if labels is None:
        most = max((label for row in found for label in row.label_ids), default=-1)
        labels = [str(label) for label in range(most + 1)]
    source = f"lists {' '.join(file.name for file in files.values())}"
    rows = note_repeats(join_rows(found) if multi_label else found, skipped)
    return Listing(rows, list(labels), source, dict(skipped))


def _listed(
    file: Path, pattern: re.Pattern[str], labelled: bool
) -> Iterator[tuple[str, Place, list[int]]]:
    """Lines of a list: place for error messages, path and label ids, none in one of paths alone."""
    lines = [(n, line) for n, line in enumerate(read_text(file).split("\n"), 1) if line.strip()]
    matches = [pattern.fullmatch(line) for _, line in lines]
    paths = [_unquoted(line.strip().rstrip(", \t")) for _, line in lines]
    # A line without a label among others that have one is an oversight.
    alone = not labelled and not any(matches) and all(p.lower().endswith(EXTENSIONS) for p in paths)
    for (number, line), match, path in zip(lines, matches, paths, strict=True):
        where = f"list {file} line {number}"
        if match is not None:
            yield (
                where,
                as_place(_unquoted(match[1])),
                [int(n) for n in re.findall(r"-?\d+", match[2])],
            )
        elif alone:
            yield where, as_place(path), []
        else:
            raise SnvideoError(f"{where}: {line.strip()[:80]!r}: expected path and label id")


def _sequence(root: Place, path: Place, labels: list[int]) -> tuple[Place, list[int], str]:
    """Path, labels and a remark of a line that may name a folder of images, as `v 120 3`, in which
    the second is their number; the remark is that it is another one."""
    stated = None
    if isinstance(root, RemotePath) or isinstance(path, RemotePath):
        return path, labels, ""  # none is looked for: patterns name them
    if path.suffix.lower() not in EXTENSIONS and not (root / path).is_dir():
        folder, _, number = str(path).rpartition(" ")
        if number.isascii() and number.isdigit() and folder and (root / folder).is_dir():
            path, stated = Path(folder), int(number)
    elif len(labels) > 1 and (root / path).is_dir():  # of several labels, the first is none
        stated, *labels = labels
    if path.suffix.lower() in EXTENSIONS or not (root / path).is_dir():
        return path, labels, ""
    pattern, _ = find_sequence(file.name for file in (root / path).iterdir())
    if not pattern:
        return path, labels, ""
    images = len(list_images(root / path / pattern))
    return path / pattern, labels, OTHER_NUMBER if stated not in (None, images) else ""


def _relative(path: Place, root: Place) -> Place:
    """A path relative to the root, if it lies in it, without steps up and down again."""
    if isinstance(root, RemotePath) or isinstance(path, RemotePath):
        return path.relative_to(root) if path.is_relative_to(root) else path
    stated = root / path
    top, place = (Path(os.path.normpath(one)) for one in (root, stated))
    # Up from where a link leads is another place than up from the link.
    if ".." in stated.parts and os.path.realpath(stated) != os.path.realpath(place):
        return path
    return place.relative_to(top) if place.is_relative_to(top) else path


def _unquoted(text: str) -> str:
    """A path as it was before it was put into quotation marks, if it was."""
    if len(text) > 2 and text[0] == text[-1] in ("'", '"'):
        return text[1:-1].replace(2 * text[0], text[0])
    return text
