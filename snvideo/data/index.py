"""The clip index: one CSV row a video, and beside it a JSON file with its labels and root.

The CSV keeps missing and broken files, with the reason. The JSON file states the folder that the
paths start from, the label names in the order of their ids, the source, and `VERSION`.
"""

import csv
import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import islice
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from snvideo.data.index_meta import CODING, as_text, is_proven, read_meta
from snvideo.data.memory_file import SharedArray
from snvideo.data.remote import Place, RemotePath, as_place, join, require_remote
from snvideo.data.source import Source
from snvideo.errors import SnvideoError

log = logging.getLogger(__name__)

STATUSES = ("ok", "missing", "broken")
DECODERS = ("pyav", "decord", "torchcodec")


class IndexRow(NamedTuple):
    """A row of the CSV, its columns in order: a video as a source lists it and as its file is.

    A frame is *shown* unless its packet is flagged to be discarded, which is how an edit list hides
    the start of a clip cut without re-encoding. Shown frame k is

    - in PyAV: the k-th output frame (frames to be discarded never come out, so there is no number
      to add);
    - in decord: number `first_frame + k`, as it numbers packets, hidden ones included. Files whose
      numbers mean different frames by where decord last sought to are not for it (`decoders`);
    - in torchcodec: number k, as it numbers packets that are not flagged to be discarded.
    """

    path: str = ""  # POSIX, relative to the root (absolute for a video outside it)
    label: int = 0  # -1: it is not known
    label_name: str = ""
    split: str = ""
    start: float | None = None
    """Seconds into the source video where the clip was cut out, if known."""
    end: float | None = None
    first_frame: int = 0  # leading frames in decord's numbering that are hidden
    frames: int = 0  # shown frames that can be decoded
    fps: float = 0.0  # shown frames a second
    width: int = 0  # pixels, of the upright frame
    height: int = 0
    orientation: int = 1
    """How PyAV's frames are turned and mirrored to be upright, by the numbers of EXIF (1 to 8);
    decord turns its own."""
    seconds: float = 0.0  # length of what is shown
    bytes: int = 0
    seekable: int = 0
    """1 if a decoder may begin at any key frame: every packet is a shown frame, and a trial gave
    the frames of decoding from the start."""
    decoders: str = "pyav"
    """Which of `DECODERS` are known to show the right frames, in that order; PyAV always does."""
    status: str = "ok"  # `ok`, `missing` or `broken`
    reason: str = ""
    """Why it is not ok, or what is odd about it; a few words, the same for all like cases."""
    labels: str = ""
    """In an index of several labels a video: all label ids, with a space between, of which `label`
    is the first; else empty."""
    offset: int | None = None
    """Of a member of a tar file, whose name ends the path of that file: byte where its header
    begins."""

    @property
    def label_ids(self) -> list[int]:
        """All labels of the video; none if they are not known."""
        return [int(label) for label in self.labels.split()] or [self.label] * (self.label >= 0)


COLUMNS = IndexRow._fields
_OPTIONAL = {"labels", "offset"}  # columns that older indexes have not
_PARSE: dict[str, Any] = {
    **IndexRow.__annotations__,
    **dict.fromkeys(("start", "end"), lambda text: float(text) if text else None),
    "offset": lambda text: int(text) if text else None,
}
_FORMER: dict[str, tuple[str, Any]] = {
    # Degrees to turn pictures counter-clockwise.
    "orientation": ("rotation", lambda text: {0: 1, 90: 8, 180: 3, 270: 6}.get(int(text), 0)),
    "decoders": ("decoder", lambda text: {"decord": "pyav decord"}.get(text, text)),
}
"""Column -> what it was in older indexes: name, and how its values are read."""


class Video(NamedTuple):
    """A video that can be decoded; see `IndexRow` for what is not explained."""

    path: Place  # absolute; of a member of a tar file through that
    label: int  # the first one, or -1
    first_frame: int
    frames: int
    fps: float
    width: int
    height: int
    orientation: int
    seekable: bool
    decoders: str
    name: str  # the path as the index has it
    bytes: int = 0  # 0: not known
    offset: int | None = None

    @classmethod
    def of(cls, row: IndexRow, path: Place) -> "Video":
        """Video of a row, and where its file is."""
        fields = {name: getattr(row, name) for name in cls._fields if name not in ("path", "name")}
        return cls(path=path, name=row.path, **fields)

    @property
    def source(self) -> Source:
        """Place that it is read from."""
        return Source(self.path, self.offset, self.bytes)


_TABLE = np.dtype(
    [(name, np.int32) for name in ("label", "first_frame", "frames", "width", "height")]
    + [("orientation", np.uint8), ("fps", np.float32), ("bytes", np.int64)]
    + [("seekable", np.bool_)]
    + [("decoders", np.uint8)]  # a bit for each of `DECODERS`
)


@cache
def _bits(decoders: str) -> int:
    return sum(1 << DECODERS.index(name) for name in set(decoders.split()))


@cache
def _names(bits: int) -> str:
    return " ".join(name for place, name in enumerate(DECODERS) if bits >> place & 1)


LEAST_FPS = 1e-3
_LEAST = {"first_frame": 0, "frames": 1, "fps": LEAST_FPS, "width": 1, "height": 1, "seconds": 0}
"""Least values of a usable video that make sense."""
_CHUNK = 1 << 14  # rows that are Python objects at one time


class ClipIndex:
    """The usable videos of one split, in the order of the index: `len(index)`, `index[i]`.

    Ten million rows take less than a gigabyte, once for all worker processes: numbers lie in one
    table, paths in one string of bytes, and a `Video` is made when it is looked up.

    Args:
        rows: of all splits, usable or not.
        split: whose videos these are.
        labels: label names in the order of their ids, of all splits.
        root: absolute folder, or URL, that the paths start from.
    """

    def __init__(
        self, rows: Iterable[IndexRow], split: str, labels: list[str], root: Place
    ) -> None:
        self.root, self.split, self.labels = root, split, labels
        self._table, self._paths = SharedArray(_TABLE), SharedArray(np.uint8)
        self._ends, end = SharedArray(np.int64), 0
        """End of each path in `_paths`, after a 0: path i lies between values i and i + 1."""
        self._ends.append([0])
        # Likewise the labels of all videos.
        self._labels, self._label_ends = SharedArray(np.int32), SharedArray(np.int64)
        self._label_ends.append([0])
        # Of members of tar files alone: row, and offset.
        self._members, self._offsets = SharedArray(np.int32), SharedArray(np.int64)
        label_end = videos = 0
        self.multi_label = False
        """True if videos of any split may have several labels."""
        digest = hashlib.sha256(json.dumps(labels).encode())
        usable = (row for row in rows if row.status == "ok")
        numbers = attrgetter(*(_TABLE.names or ())[:-1])
        while chunk := list(islice(usable, _CHUNK)):
            decisive = (
                f"{r.path}\0{r.labels or r.label}\0{r.split}\0{r.first_frame}\0{r.frames}\0"
                for r in chunk
            )
            digest.update("".join(decisive).encode(*CODING))
            self.multi_label |= any(row.labels for row in chunk)
            chunk = [row for row in chunk if row.split == split]
            self._table.append([(*numbers(row), _bits(row.decoders)) for row in chunk])
            members = [(k, row) for k, row in enumerate(chunk, videos) if row.offset is not None]
            self._members.append([number for number, _ in members])
            self._offsets.append([row.offset for _, row in members])
            videos += len(chunk)
            paths = [row.path.encode(*CODING) for row in chunk]
            ends = np.cumsum([end, *map(len, paths)])
            end = ends[-1]
            self._ends.append(ends[1:])
            self._paths.append(np.frombuffer(b"".join(paths), np.uint8))
            label_sets = [row.label_ids for row in chunk]
            label_ends = np.cumsum([label_end, *map(len, label_sets)])
            label_end = label_ends[-1]
            self._label_ends.append(label_ends[1:])
            self._labels.append([label for labels in label_sets for label in labels])
        self.hash = digest.hexdigest()
        """Hex SHA-256 of what decides a run: label names, and path, label, split, first frame and
        frames of all usable rows of all splits, in order. The root does not matter."""

    @classmethod
    def load(cls, path: Path | str, split: str, root: Place | str | None = None) -> "ClipIndex":
        """Read the usable videos of a split.

        Args:
            path: the CSV file.
            split: `train`, `val`, `test`, or whatever the index calls it.
            root: folder or URL that the paths start from, instead of the one that is stated.

        Raises:
            SnvideoError: if a file is missing or malformed, or nothing of the split is usable.
        """
        path = Path(path)
        stated, labels = read_meta(path)
        root = as_place(root or join(path.parent, stated)).absolute()
        if isinstance(root, RemotePath):
            require_remote()
        elif not root.is_dir():
            raise SnvideoError(
                f"index {path}: no video folder at {root}: set data.root to where the videos are"
            )
        if not is_proven(path):
            log.warning(
                "index %s: from an older version, so videos are decoded from their start: build "
                "it again with 'snvideo index build', which is faster to read from",
                path,
            )
        counts: dict[str, Counter[str]] = {}

        def counted() -> Iterator[IndexRow]:
            for row in read_rows(path, labels):
                counts.setdefault(row.split, Counter())[row.status] += 1
                yield row

        index = cls(counted(), split, labels, root)
        if len(index):
            return index
        if split in counts:
            found = ", ".join(f"{n} {status}" for status, n in sorted(counts[split].items()))
            problem = f"no video of split {split!r} is usable ({found}): column `reason` says why"
        else:
            found = ", ".join(f"{name} ({n.total()} videos)" for name, n in counts.items())
            problem = f"no split {split!r}: it has {found or 'no videos'}"
        raise SnvideoError(f"index {path}: {problem}")

    def __len__(self) -> int:
        return len(self._table.values)

    @property
    def first_labels(self) -> np.ndarray:
        """Label, or first label, of each video, int32 (videos,); -1 where none is known."""
        return self._table.values["label"]

    @property
    def labelled(self) -> np.ndarray:
        """Rows of the videos with a known label, int64."""
        return np.flatnonzero(self.first_labels >= 0)

    def labels_of(self, number: int) -> np.ndarray:
        """All labels of a video, int32, in the order of the index."""
        start, stop = self._label_ends.values[number : number + 2]
        return self._labels.values[start:stop]

    def label_counts(self) -> np.ndarray:
        """Videos of each label, int64 (classes,)."""
        return np.bincount(self._labels.values, minlength=len(self.labels))

    def trusting(self, decoder: str) -> int:
        """Number of videos that one of `DECODERS` may be given."""
        return int(np.count_nonzero(self._table.values["decoders"] & _bits(decoder)))

    def __getitem__(self, number: int) -> Video:
        number = range(len(self))[number]  # negative numbers and IndexError as usual
        start, stop = self._ends.values[number : number + 2]
        stored = self._paths.values[start:stop].tobytes()
        name = stored.decode(*CODING)
        values = dict(zip(_TABLE.names or (), self._table.values[number].item(), strict=True))
        values["decoders"] = _names(values["decoders"])
        at = int(np.searchsorted(self._members.values, number))
        if at < len(self._members.values) and self._members.values[at] == number:
            values["offset"] = self._offsets.values[at].item()
        # The system's own text for these bytes, which is another one where it does not use UTF-8.
        return Video(path=join(self.root, os.fsdecode(stored)), name=name, **values)


def read_rows(path: Path, labels: Sequence[str] | None = None) -> Iterator[IndexRow]:
    """Read all rows of an index one by one, whatever their split and status; a `SnvideoError` if
    the CSV file is missing, a row is malformed, or a label is not one of `labels`, the names of the
    index. Rows of an older `VERSION` are not seekable, and PyAV's."""
    proven, told = is_proven(path), False
    where = f"index {path} line 1"
    try:
        with path.open(newline="", encoding="utf-8-sig", errors=CODING[1]) as file:
            reader = csv.reader(file, strict=True)
            header = next(reader, [])
            known = {name: (name, parse) for name, parse in _PARSE.items()}
            known |= {name: former for name, former in _FORMER.items() if name not in header}
            known = {n: k for n, k in known.items() if n not in _OPTIONAL or n in header}
            if missing := [name for name, (here, _) in known.items() if here not in header]:
                raise ValueError(f"no column {', '.join(missing)}")
            columns = [(*one, field, header.index(one[0])) for field, one in known.items()]
            for cells in reader:
                where = f"index {path} line {reader.line_num}"
                if len(cells) != len(header):
                    raise ValueError(f"it has {len(cells)} values, expected {len(header)}")
                values: dict[str, Any] = {}
                for name, parse, field, place in columns:
                    try:
                        values[field] = parse(cells[place])
                    except ValueError:
                        whole = parse is int or name == "offset"
                        kind = "a whole number" if whole else "a number"
                        raise ValueError(f"{name} is {cells[place]!r}, expected {kind}") from None
                row = IndexRow(**values)
                if row.status == "ok" and 0 <= row.fps < LEAST_FPS:  # older versions wrote such
                    row = row._replace(status="broken", reason="no frame rate")
                if problem := row_problem(row, None if labels is None else len(labels)):
                    raise ValueError(problem)
                if not told and (problem := _name_problem(row, labels)):
                    told = True
                    log.warning(
                        "%s: %s, which counts; further such lines are not named", where, problem
                    )
                yield row if proven else row._replace(seekable=0, decoders="pyav")
    except OSError as error:
        raise SnvideoError(f"no index at {path}: {error.strerror}") from None
    except (csv.Error, ValueError) as error:
        raise SnvideoError(
            f"{where}: {error}: correct it, or build it again with 'snvideo index build'"
        ) from None


def row_problem(row: IndexRow, classes: int | None = None) -> str:
    """Reason why a row makes no sense, or nothing."""
    if row.status not in STATUSES:
        return f"status is {row.status!r}, expected one of {', '.join(STATUSES)}"
    if row.label < -1 or (classes is not None and row.label >= classes):
        most = "" if classes is None else f" to {classes - 1}, as in the .json file beside it"
        return f"label is {row.label}, expected 0{most}, or -1 for none"
    if row.labels and not _are_labels(row.labels.split(), row.label, classes):
        return (
            f"labels is {row.labels!r}, expected label ids, each once, of which {row.label} is the "
            "first, as label says"
        )
    if row.status != "ok":
        return ""
    if not row.decoders or not set(row.decoders.split()) <= set(DECODERS):
        return f"decoders is {row.decoders!r}, expected some of {' '.join(DECODERS)}"
    if row.orientation not in range(1, 9):
        return f"orientation is {row.orientation}, expected 1 to 8"
    if row.offset is not None and row.offset < 0:
        return f"offset is {row.offset}, expected a place in a tar file, or nothing"
    for name, least in _LEAST.items():
        if not least <= (value := getattr(row, name)) < 2**31:
            return f"{name} of a usable video is {value}, expected at least {least}"
    return ""


def _name_problem(row: IndexRow, labels: Sequence[str] | None) -> str:
    """Reason why the name that a row gives its labels is another one than theirs, or nothing."""
    if labels is None or not row.label_name:
        return ""
    found, known = as_text(row.label_name), ";".join(labels[k] for k in row.label_ids)
    if found == known:
        return ""
    return (
        f"label_name is {found!r}, and label {row.labels or row.label} {known!r} in the .json file"
    )


def _are_labels(ids: list[str], first: int, classes: int | None) -> bool:
    """True for known label ids, each once, that begin with the first."""
    if not all(text.isascii() and text.isdigit() for text in ids):
        return False
    numbers = [int(text) for text in ids]
    known = classes is None or max(numbers) < classes
    return known and numbers[0] == first and len(set(numbers)) == len(numbers)
