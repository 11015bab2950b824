"""The clip index: one CSV row a video, and beside it a JSON file with its labels and root.

`index.csv` says of every video where it is, what it shows and what the file really holds; missing
and broken files are kept, with the reason. `index.json` states the folder that the paths start
from, the label names in the order of their ids, and where all this came from. `build.py` writes
both; here they are read.
"""

import csv
import hashlib
import json
import mmap
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, compress, islice
from multiprocessing import reduction
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

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
    **dict.fromkeys(("label", "first_frame", "frames", "width", "height", "rotation"), int),
    **dict.fromkeys(("bytes", "seekable"), int),
    **dict.fromkeys(("fps", "seconds"), float),
    **dict.fromkeys(("start", "end"), lambda text: float(text) if text else None),
}
"""How columns that are not text are read."""


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
    """Pixels, of the upright picture."""
    height: int
    rotation: int
    """Degrees (0, 90, 180, 270) to turn PyAV's pictures counter-clockwise; decord turns its own."""
    seekable: bool
    """Whether packets are frames, and those before a key frame need not be decoded."""
    decoder: str
    """`decord` where it shows the right frames (PyAV does too), else `pyav`."""
    name: str
    """The path as the index has it."""


# The number columns that training needs, with the least value that makes sense.
_NUMBERS: dict[str, tuple[type, type, float]] = {
    "label": (int, np.int32, 0),
    "first_frame": (int, np.int32, 0),
    "frames": (int, np.int32, 1),
    "fps": (float, np.float32, 1e-3),
    "width": (int, np.int32, 1),
    "height": (int, np.int32, 1),
    "rotation": (int, np.int16, 0),
    "seekable": (int, np.bool_, 0),
}
_TABLE = np.dtype([(name, kind) for name, (_, kind, _) in _NUMBERS.items()] + [("decoder", "u1")])
_CODING = ("utf-8", "surrogateescape")
"""File names are bytes; some are not UTF-8."""
_CHUNK = 1 << 14
"""Rows that are Python objects at one time."""


class ClipIndex:
    """The usable videos of one split, in the order of the index: `len(index)`, `index[i]`.

    Ten million rows take less than a gigabyte, once for all worker processes: numbers lie in one
    table, paths in one string of bytes, and a `Video` exists only while somebody looks at it.
    """

    def __init__(self, root: Path, split: str, labels: list[str], reader: "_Reader") -> None:
        """Takes what a reader has read; `load` and `from_rows` are the ways in."""
        self.root = root
        """Absolute folder that the paths start from."""
        self.split = split
        self.labels = labels
        """Label names in the order of their ids, of all splits."""
        self._shared = (reader.paths, reader.ends, reader.table)
        self._map()
        self.hash = reader.digest.hexdigest()
        """Hex SHA-256 of what decides a run: label names, and path, label, split, first frame and
        frames of all usable rows of all splits, in order. The root does not matter."""

    def _map(self) -> None:
        paths, ends, table = self._shared
        self._paths = paths.array(np.uint8)
        self._ends = ends.array(np.int64)
        self._table = table.array(_TABLE)

    def __getstate__(self) -> dict[str, Any]:
        """What goes to a worker: the way to the shared memory, not what is in it."""
        arrays = ("_paths", "_ends", "_table")
        return {name: value for name, value in vars(self).items() if name not in arrays}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._map()

    @classmethod
    def load(cls, path: Path | str, split: str, root: Path | None = None) -> "ClipIndex":
        """Reads the usable videos of a split.

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
        """An index of usable rows of one split in memory, without files.

        Args:
            rows: at least one.
            labels: label names in the order of their ids.
            root: absolute folder that relative paths start from.
        """
        reader = _Reader(Path("index"), rows[0].split, labels)
        reader.add(COLUMNS, [["" if v is None else str(v) for v in row] for row in rows])
        return cls(root, rows[0].split, labels, reader)

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, number: int) -> Video:
        number = range(len(self))[number]  # negative numbers and IndexError as usual
        start, stop = self._ends[number : number + 2]
        name = self._paths[start:stop].tobytes().decode(*_CODING)
        *numbers, decoder = self._table[number].item()
        values = dict(zip(_NUMBERS, numbers, strict=True))
        return Video(path=self.root / name, name=name, decoder=DECODERS[decoder], **values)

    @property
    def class_counts(self) -> np.ndarray:
        """int64 (number of labels,): videos of each label in this split."""
        return np.bincount(self._table["label"], minlength=len(self.labels))


def read_rows(path: Path) -> Iterator[IndexRow]:
    """All rows of an index one by one, whatever their split and status.

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


class SharedBytes:
    """Read-only memory that worker processes share, however they start.

    Bytes are appended to a file without a name, then mapped: neither a fork nor a pickle to a
    spawned worker copies them.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 (in use as long as the object)
        self.size = 0

    def append(self, data: bytes) -> None:
        """Add bytes at the end, before the first `array`."""
        self._file.write(data)
        self.size += len(data)

    def array(self, dtype: Any) -> np.ndarray:
        """All of it as a read-only array (size / itemsize,)."""
        if not self.size:
            return np.empty(0, dtype)
        self._file.flush()
        pages = mmap.mmap(self._file.fileno(), self.size, access=mmap.ACCESS_READ)
        return np.frombuffer(pages, dtype)

    def __reduce__(self) -> tuple[Any, ...]:
        self._file.flush()
        return _attach, (reduction.DupFd(self._file.fileno()), self.size)


def _attach(descriptor: Any, size: int) -> SharedBytes:
    """The same bytes in the process that unpickles them."""
    attached = SharedBytes.__new__(SharedBytes)
    attached._file, attached.size = os.fdopen(descriptor.detach(), "rb"), size
    return attached


class _Reader:
    """One pass over the rows of an index, a chunk of rows at a time, into shared memory."""

    def __init__(self, path: Path, split: str, labels: list[str]) -> None:
        self.paths, self.table, self.ends = SharedBytes(), SharedBytes(), SharedBytes()
        self.ends.append(np.int64(0).tobytes())
        """Where each path ends in `paths`, after a 0: path i lies between values i and i + 1."""
        self.digest = hashlib.sha256(json.dumps(labels).encode())
        self._path, self._split, self._labels = path, split, labels
        self._counts: Counter[tuple[str, str]] = Counter()

    def read(self) -> None:
        """Reads the CSV file.

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
        """Adds rows of text, whose columns the header names."""
        self._column, rows, line = self._columns(header), iter(rows), 2
        while chunk := list(islice(rows, _CHUNK)):
            self._take(chunk, line)
            line += len(chunk)

    def _columns(self, header: Sequence[str]) -> dict[str, int]:
        missing = [name for name in COLUMNS if name not in header]
        if missing:
            raise SnvideoError(
                f"index {self._path} line 1: no column {', '.join(missing)}: "
                "build it again with 'snvideo index build'"
            )
        self._width = len(header)
        return {name: header.index(name) for name in COLUMNS}

    def _take(self, chunk: list[list[str]], line: int) -> None:
        """Adds rows, the first of them on this line (if no path holds a line break)."""
        for number, row in enumerate(chunk, line):
            if len(row) != self._width:
                self._fail(number, f"it has {len(row)} values, expected {self._width}")
        split, status = self._column["split"], self._column["status"]
        self._counts.update(map(itemgetter(split, status), chunk))
        usable = [(number, row) for number, row in enumerate(chunk, line) if row[status] == "ok"]
        if not usable:
            return
        lines, rows = zip(*usable, strict=True)
        table = np.empty(len(rows), _TABLE)
        for name, (parse, kind, least) in _NUMBERS.items():
            table[name] = self._convert(name, rows, lines, parse, kind)
            self._refuse(~(table[name] >= least), name, rows, lines, f"at least {least}")
        self._refuse(
            table["label"] >= len(self._labels),
            "label",
            rows,
            lines,
            f"below {len(self._labels)}, the number of classes in {self._path.stem}.json",
        )
        table["decoder"] = self._convert("decoder", rows, lines, DECODERS.index, np.uint8)
        decisive = ("path", "label", "split", "first_frame", "frames")
        values = map(itemgetter(*(self._column[name] for name in decisive)), rows)
        text = "".join(f"{value}\0" for value in chain.from_iterable(values))
        self.digest.update(text.encode(*_CODING))
        self._keep(rows, table)

    def _keep(self, rows: Sequence[list[str]], table: np.ndarray) -> None:
        """Stores the rows of the split that was asked for."""
        wanted = np.array([row[self._column["split"]] == self._split for row in rows])
        self.table.append(table[wanted].tobytes())
        column = self._column["path"]
        paths = [row[column].encode(*_CODING) for row in compress(rows, wanted)]
        ends = np.cumsum([len(path) for path in paths], dtype=np.int64) + self.paths.size
        self.paths.append(b"".join(paths))
        self.ends.append(ends.tobytes())

    def _convert(
        self,
        name: str,
        rows: Sequence[list[str]],
        lines: Sequence[int],
        parse: Callable[[str], float],
        kind: type,
    ) -> np.ndarray:
        column = self._column[name]
        try:
            return np.fromiter((parse(row[column]) for row in rows), kind, len(rows))
        except (ValueError, OverflowError):
            for line, row in zip(lines, rows, strict=True):
                try:
                    np.array([parse(row[column])], kind)
                except (ValueError, OverflowError):
                    expected = "a whole number" if parse is int else "a number"
                    expected = f"one of {', '.join(DECODERS)}" if name == "decoder" else expected
                    self._fail(line, f"{name} is {row[column]!r}, expected {expected}")
            raise

    def _refuse(
        self,
        bad: np.ndarray,
        name: str,
        rows: Sequence[list[str]],
        lines: Sequence[int],
        expected: str,
    ) -> None:
        if bad.any():
            first = int(bad.argmax())
            value = rows[first][self._column[name]]
            self._fail(lines[first], f"{name} is {value!r}, expected {expected}")

    def _fail(self, line: int, what: str) -> NoReturn:
        raise SnvideoError(f"index {self._path} line {line}: {what}: correct it or build it again")

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
