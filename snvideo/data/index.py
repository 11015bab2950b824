"""The clip index: one CSV row a video, and beside it a JSON file with its labels and root.

The CSV keeps missing and broken files, with the reason. The JSON file states the folder that the
paths start from, the label names in the order of their ids, and the source.
"""

import csv
import hashlib
import json
import mmap
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from itertools import chain, islice
from multiprocessing import reduction
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from snvideo.errors import SnvideoError

STATUSES = ("ok", "missing", "broken")
DECODERS = ("decord", "pyav")


class IndexRow(NamedTuple):
    """A row of the CSV, its columns in order."""

    path: str
    """POSIX, relative to the root (absolute for a video outside it)."""
    label: int
    label_name: str
    split: str
    start: float | None
    """Seconds into the source video where the clip was cut out, if known."""
    end: float | None
    first_frame: int
    """This and the columns up to `reason`: see `snvideo.data.indexing.probe.Probe`."""
    frames: int
    fps: float
    width: int
    height: int
    rotation: int
    seconds: float
    bytes: int
    seekable: int
    decoder: str
    status: str
    reason: str


COLUMNS = IndexRow._fields
_PARSE: dict[str, Callable[[str], Any]] = {
    name: (lambda text: float(text) if text else None) if kind == float | None else kind
    for name, kind in IndexRow.__annotations__.items()
}


class Video(NamedTuple):
    """A video that can be decoded."""

    path: Path
    """Absolute."""
    label: int
    first_frame: int
    """Hidden frames that decord counts before shown frame 0."""
    frames: int
    """Shown frames."""
    fps: float
    width: int
    """Pixels, of the upright frame."""
    height: int
    rotation: int
    """Degrees (0, 90, 180, 270) to turn PyAV's frames counter-clockwise; decord turns its own."""
    seekable: bool
    """Packets are frames, and those before a key frame need not be decoded."""
    decoder: str
    """`decord` where it shows the right frames (PyAV does too), else `pyav`."""
    name: str
    """The path as the index has it."""


# Columns of the table in memory: how a value is read and stored, and the least that makes sense.
_NUMBERS: dict[str, tuple[Callable[[str], float], type, float]] = {
    "label": (int, np.int32, 0),
    "first_frame": (int, np.int32, 0),
    "frames": (int, np.int32, 1),
    "fps": (float, np.float32, 1e-3),
    "width": (int, np.int32, 1),
    "height": (int, np.int32, 1),
    "rotation": (int, np.int16, 0),
    "seekable": (int, np.bool_, 0),
    "decoder": (DECODERS.index, np.uint8, 0),
}
_TABLE = np.dtype([(name, kind) for name, (_, kind, _) in _NUMBERS.items()])
_CODING = ("utf-8", "surrogateescape")
"""File names are bytes; some are not UTF-8."""
_CHUNK = 1 << 14
"""Rows that are Python objects at one time."""


class ClipIndex:
    """The usable videos of one split, in the order of the index: `len(index)`, `index[i]`.

    Ten million rows take less than a gigabyte, once for all worker processes: numbers lie in one
    table, paths in one string of bytes, and a `Video` is made when it is looked up.
    """

    def __init__(self, root: Path, split: str, labels: list[str], reader: "_Reader") -> None:
        """Takes what a reader has read; `load` and `from_rows` are the ways in."""
        self.root = root
        """Absolute folder that the paths start from."""
        self.split = split
        self.labels = labels
        """Label names in the order of their ids, of all splits."""
        self._paths, self._ends, self._table = reader.paths, reader.ends, reader.table
        self.hash = reader.digest.hexdigest()
        """Hex SHA-256 of what decides a run: label names, and path, label, split, first frame and
        frames of all usable rows of all splits, in order. The root does not matter."""

    @classmethod
    def load(cls, path: Path | str, split: str, root: Path | None = None) -> "ClipIndex":
        """Read the usable videos of a split.

        Args:
            path: the CSV file.
            split: `train`, `val`, `test`, or whatever the index calls it.
            root: folder that the paths start from, instead of the one stated beside the index.

        Raises:
            SnvideoError: if a file is missing or malformed, or nothing of the split is usable.
        """
        path = Path(path)
        stated, labels = read_meta(path)
        root = Path(root or path.parent / stated).absolute()
        if not root.is_dir():
            raise SnvideoError(
                f"index {path}: no video folder at {root}: set data.root to where the videos are"
            )
        reader = _Reader(path, split, labels)
        reader.read()
        return cls(root, split, labels, reader)

    @classmethod
    def from_rows(cls, rows: Sequence[IndexRow], labels: list[str], root: Path) -> "ClipIndex":
        """Make an index of usable rows of one split in memory, without files.

        Args:
            rows: at least one.
            labels: label names in the order of their ids.
            root: absolute folder that relative paths start from.
        """
        reader = _Reader(Path("index"), rows[0].split, labels)
        reader.add(COLUMNS, [["" if v is None else str(v) for v in row] for row in rows])
        return cls(root, rows[0].split, labels, reader)

    def __len__(self) -> int:
        return len(self._table.values)

    def __getitem__(self, number: int) -> Video:
        number = range(len(self))[number]  # negative numbers and IndexError as usual
        start, stop = self._ends.values[number : number + 2]
        name = self._paths.values[start:stop].tobytes().decode(*_CODING)
        values = dict(zip(_NUMBERS, self._table.values[number].item(), strict=True))
        values["decoder"] = DECODERS[values["decoder"]]
        return Video(path=self.root / name, name=name, **values)

    @property
    def class_counts(self) -> np.ndarray:
        """int64 (number of labels,): videos of each label in this split."""
        return np.bincount(self._table.values["label"], minlength=len(self.labels))


def read_rows(path: Path) -> Iterator[IndexRow]:
    """Read all rows of an index one by one, whatever their split and status.

    Raises:
        SnvideoError: if the file is missing, or a row is malformed.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig", errors=_CODING[1]) as file:
            rows = csv.DictReader(file, strict=True)
            missing = [name for name in COLUMNS if name not in (rows.fieldnames or ())]
            if missing:
                raise SnvideoError(f"index {path} line 1: no column {', '.join(missing)}")
            for row in rows:
                values = {name: _PARSE.get(name, str)(row[name]) for name in COLUMNS}
                yield IndexRow(**values)
    except OSError as error:
        raise SnvideoError(f"no index at {path}: {error.strerror}") from None
    except (csv.Error, ValueError, TypeError) as error:
        where = f"index {path} line {rows.line_num}"
        raise SnvideoError(f"{where}: {error}: correct it or build it again") from None


def read_meta(path: Path) -> tuple[str, list[str]]:
    """Root as stated, and label names, from the JSON file beside an index's CSV file."""
    beside = path.with_suffix(".json")
    for file in (path, beside):
        if not file.is_file():
            raise SnvideoError(f"no index at {file}: build it with 'snvideo index build'")
    try:
        meta = json.loads(beside.read_text(encoding="utf-8"))
        root, labels = meta["root"], meta["labels"]
        if not isinstance(root, str) or not all(isinstance(name, str) for name in labels):
            raise TypeError
    except (ValueError, KeyError, TypeError):
        raise SnvideoError(
            f'index {beside}: expected {{"root": folder, "labels": [names], ...}}: '
            "build it again with 'snvideo index build'"
        ) from None
    return root, labels


class _SharedArray:
    """Array that worker processes share, however they start.

    Values are appended to a file without a name, which is then mapped: neither a fork nor a pickle
    to a spawned worker copies them.
    """

    def __init__(self, dtype: Any, file: Any = None, size: int = 0) -> None:
        self._dtype, self.size = dtype, size
        self._file = file or tempfile.TemporaryFile()  # noqa: SIM115

    def append(self, values: np.ndarray) -> None:
        """Add values at the end, before the first look at them."""
        self._file.write(values.tobytes())
        self.size += len(values)

    @cached_property
    def values(self) -> np.ndarray:
        """All of it, read-only, (size,)."""
        if not self.size:
            return np.empty(0, self._dtype)
        self._file.flush()
        return np.frombuffer(
            mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ), self._dtype
        )

    def __reduce__(self) -> tuple[Any, ...]:
        self._file.flush()
        return _attach, (self._dtype, reduction.DupFd(self._file.fileno()), self.size)


def _attach(dtype: Any, descriptor: Any, size: int) -> _SharedArray:
    return _SharedArray(dtype, os.fdopen(descriptor.detach(), "rb"), size)


class _Reader:
    """One pass over the rows of an index, a chunk of rows at a time, into shared memory."""

    def __init__(self, path: Path, split: str, labels: list[str]) -> None:
        self.paths, self.table = _SharedArray(np.uint8), _SharedArray(_TABLE)
        self.ends = _SharedArray(np.int64)
        """End of each path in `paths`, after a 0: path i lies between values i and i + 1."""
        self.ends.append(np.zeros(1, np.int64))
        self.digest = hashlib.sha256(json.dumps(labels).encode())
        self._path, self._split, self._labels = path, split, labels
        self._counts: Counter[tuple[str, str]] = Counter()

    def read(self) -> None:
        """Read the CSV file.

        Raises:
            SnvideoError: if it is malformed, or nothing of the split is usable.
        """
        path = self._path
        try:
            with path.open(newline="", encoding="utf-8-sig", errors=_CODING[1]) as file:
                rows = csv.reader(file)
                self.add(next(rows, []), rows)
        except csv.Error as error:
            raise SnvideoError(f"index {path}: not a CSV file: {error}: build it again") from None
        if not self.table.size:
            raise SnvideoError(self._why_empty())

    def add(self, header: Sequence[str], rows: Iterable[list[str]]) -> None:
        """Add rows of text, whose columns the header names."""
        if missing := [name for name in COLUMNS if name not in header]:
            raise SnvideoError(
                f"index {self._path} line 1: no column {', '.join(missing)}: "
                "build it again with 'snvideo index build'"
            )
        self._width = len(header)
        self._column = {name: header.index(name) for name in COLUMNS}
        rows, line = iter(rows), 2  # of the file, if no path holds a line break
        while chunk := list(islice(rows, _CHUNK)):
            self._add_chunk(chunk, line)
            line += len(chunk)

    def _add_chunk(self, chunk: list[list[str]], first_line: int) -> None:
        for line, row in enumerate(chunk, first_line):
            if len(row) != self._width:
                raise self._error(line, f"it has {len(row)} values, expected {self._width}")
        split, status = self._column["split"], self._column["status"]
        self._counts.update(map(itemgetter(split, status), chunk))
        rows = [row for row in chunk if row[status] == "ok"]
        try:
            table = self._parse(rows)
        except (ValueError, OverflowError):
            for line, row in enumerate(chunk, first_line):
                if row[status] == "ok":
                    self._check_row(line, row)
            raise
        decisive = ("path", "label", "split", "first_frame", "frames")
        values = map(itemgetter(*(self._column[name] for name in decisive)), rows)
        text = "".join(f"{value}\0" for value in chain.from_iterable(values))
        self.digest.update(text.encode(*_CODING))

        wanted = np.array([row[split] == self._split for row in rows], bool)
        self.table.append(table[wanted])
        path = self._column["path"]
        paths = [row[path].encode(*_CODING) for row in rows if row[split] == self._split]
        self.ends.append(np.cumsum([len(p) for p in paths], dtype=np.int64) + self.paths.size)
        self.paths.append(np.frombuffer(b"".join(paths), np.uint8))

    def _parse(self, rows: Sequence[list[str]]) -> np.ndarray:
        """The numbers of rows as a table, or a ValueError or OverflowError if one is wrong."""
        table = np.empty(len(rows), _TABLE)
        for name, (parse, kind, least) in _NUMBERS.items():
            column = self._column[name]
            table[name] = np.fromiter((parse(row[column]) for row in rows), kind, len(rows))
            if not (table[name] >= least).all():
                raise ValueError
        if (table["label"] >= len(self._labels)).any():
            raise ValueError
        return table

    def _check_row(self, line: int, row: list[str]) -> None:
        """Raises `SnvideoError` if a number of a row is wrong."""
        for name, (parse, kind, least) in _NUMBERS.items():
            text = row[self._column[name]]
            try:
                value = np.array([parse(text)], kind)[0]
            except (ValueError, OverflowError):
                expected = "a whole number" if parse is int else "a number"
                expected = f"one of {', '.join(DECODERS)}" if name == "decoder" else expected
            else:
                if not value >= least:
                    expected = f"at least {least}"
                elif name == "label" and value >= len(self._labels):
                    number = len(self._labels)
                    file = f"{self._path.stem}.json"
                    expected = f"below {number}, the number of classes in {file}"
                else:
                    continue
            raise self._error(line, f"{name} is {text!r}, expected {expected}")

    def _error(self, line: int, problem: str) -> SnvideoError:
        return SnvideoError(
            f"index {self._path} line {line}: {problem}: correct it or build it again"
        )

    def _why_empty(self) -> str:
        here = {status: n for (split, status), n in self._counts.items() if split == self._split}
        if here:
            found = ", ".join(f"{n} {status}" for status, n in sorted(here.items()))
            return (
                f"index {self._path}: no video of split {self._split!r} is usable ({found}): "
                "the column `reason` says why"
            )
        splits = Counter[str]()
        for (split, _), number in self._counts.items():
            splits[split] += number
        found = ", ".join(f"{split} ({number} videos)" for split, number in splits.items())
        return f"index {self._path}: no split {self._split!r}: it has {found or 'no videos'}"
