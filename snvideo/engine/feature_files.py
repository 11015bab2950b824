"""Folders of features: parts of whole videos, and a table of what their rows are of.

A part, `features-00000.safetensors`, holds the features of some videos and, in its metadata, what
its rows are. It is written whole, so what is there when a process ends is done for a later call.
"""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from snvideo.atomic import atomic_path, write_atomic
from snvideo.data.files import claim_folder, unique_files
from snvideo.data.image_sequences import FPS
from snvideo.data.index import ClipIndex
from snvideo.data.remote import Place, as_place
from snvideo.data.source import Source
from snvideo.engine.features import FeatureExtractor, FeatureRow, VideoFeatures
from snvideo.errors import SnvideoError
from snvideo.lock import locked_output

RECORD, TABLE, ARRAY = "features.json", "features.csv", "features.npy"
"""Files of a folder: settings; a line for each row of features; all rows as one array."""
COLUMNS = (
    *("row", "file", "file_row", "video", "clip", "crop", "start", "end"),
    *("label", "label_name", "reason", "remark"),
)
"""Of the table. `row` counts all rows of the folder's table, `file_row` those of its file."""

_VIDEOS, _BYTES, _SECONDS = 256, 64 << 20, 60.0  # after any of which a part is written
_KEY = "snvideo.features"
_CODING = ("utf-8", "surrogateescape")  # file names are bytes; some are not UTF-8


class FeatureSummary(NamedTuple):
    """Result of writing the features of videos to a folder."""

    out: Path
    videos: int  # each file once
    kept: int  # done by an earlier call
    rows: int
    channels: int
    failures: dict[str, str]  # video -> why there are no features


class _Source(NamedTuple):
    """A video to be read."""

    name: str  # in the table
    path: Place
    state: tuple[int, int]  # bytes of the file and time of its last change, ns
    labels: tuple[int, ...] = ()
    row: int = 0  # of the index, if it is of one


class _Entry(NamedTuple):
    """A video in the metadata of a part."""

    state: tuple[int, int]  # of its file when it was read, as in `_Source`
    begin: int  # its first row in the part
    rows: list[FeatureRow]
    remark: str


def write_features(
    extractor: FeatureExtractor,
    videos: Iterable[Place | str] | Place | str | ClipIndex,
    out: Path | str,
    *,
    array: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> FeatureSummary:
    """Write features of videos to a folder; called again, go on where it stopped.

    Videos whose files have changed since, and those that could not be read, are read again. The
    table has the videos of this call, in their order; features of others stay in their parts.

    Args:
        extractor: network, layer and views.
        videos: files, or one, of whatever kind; or the videos of an index.
        out: a new or empty folder, or one filled before with the same settings.
        array: write all rows of the table to `features.npy`, too, float32 (rows, C).
        progress: called with the number of videos that are done, and of all.

    Raises:
        SnvideoError: if the folder holds something else, features of other settings, or a part
            that is damaged, or if it cannot be written to.
    """
    out = Path(out)
    show = progress or (lambda done, total: None)
    with locked_output(out, f"features {out}"):
        claim_folder(out, RECORD, extractor.settings, {"fps": FPS})
        sources, parts = _sources(videos), _Parts(out)
        waiting = {key: one for key, one in sources.items() if not parts.has(key, one.state)}
        kept, failures = len(sources) - len(waiting), dict[str, str]()
        show(kept, len(sources))
        try:
            for done, found in enumerate(_extract(extractor, videos, waiting), kept + 1):
                key = str(found.video.absolute())
                if found.values is None:
                    failures[key] = found.reason
                else:
                    parts.add(key, waiting[key].state, found)
                show(done, len(sources))
        finally:
            parts.flush()
        names = videos.labels if isinstance(videos, ClipIndex) else []
        lines = partial(_lines, parts, sources, failures, names)
        rows = _write_table(out / TABLE, lines())
        if array or (out / ARRAY).exists():  # an old one would not be of the new table
            _write_array(out / ARRAY, parts, lines(), rows)
        named = {sources[key].name: reason for key, reason in failures.items()}
        return FeatureSummary(out, len(sources), kept, rows, parts.channels, named)


def load_features(out: Path | str) -> tuple[Tensor, list[dict[str, str]]]:
    """Load the features of a folder that `write_features` has filled.

    Returns:
        float32 (rows, C), and of each row the values of `COLUMNS`, as text. Videos without features
        are left out.

    Raises:
        SnvideoError: if the folder has no table yet, or lacks a part of it.
    """
    out = Path(out)
    try:
        with (out / TABLE).open(newline="", encoding=_CODING[0], errors=_CODING[1]) as file:
            lines = [line for line in csv.DictReader(file) if line["row"]]
    except FileNotFoundError:
        raise SnvideoError(
            f"{out} has no {TABLE}: 'snvideo features' writes it when all is done"
        ) from None
    rows: dict[str, list[int]] = {}
    for row, line in enumerate(lines):
        rows.setdefault(line["file"], []).append(row)
    values = torch.empty(0, 0)
    for name, here in rows.items():
        part = _read_tensor(out / name)
        if not len(values):
            values = part.new_empty(len(lines), part.shape[1])
        values[here] = part[[int(lines[row]["file_row"]) for row in here]]
    return values, lines


def _sources(videos: Iterable[Place | str] | Place | str | ClipIndex) -> dict[str, _Source]:
    """Videos by the absolute paths of their files, each once."""
    if isinstance(videos, ClipIndex):
        found: dict[str, _Source] = {}
        for row in range(len(videos)):
            video, labels = videos[row], tuple(videos.labels_of(row).tolist())
            source = _Source(video.name, video.path, _state(video.source), labels, row)
            found.setdefault(str(video.path), source)
        return found
    paths = unique_files(map(as_place, [videos] if isinstance(videos, Place | str) else videos))
    return {str(path.absolute()): _Source(str(path), path, _state(path)) for path in paths}


def _state(video: Source | Place) -> tuple[int, int]:
    try:
        return Source.of(video).state()
    except (OSError, ValueError, SnvideoError):  # it will not be read either
        return -1, -1


def _extract(
    extractor: FeatureExtractor, videos: Any, waiting: dict[str, _Source]
) -> Iterator[VideoFeatures]:
    """Features of the videos that have none yet."""
    if isinstance(videos, ClipIndex):
        return extractor.extract(videos, [source.row for source in waiting.values()])
    return extractor.extract([source.path for source in waiting.values()])


class _Parts:
    """The parts of a folder, and the videos that wait to be written."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._known: dict[str, tuple[Path, tuple[int, int]]] = {}
        """Video -> its last part, and the state of its file."""
        self.entries = lru_cache(4)(_read_entries)
        paths = sorted(out.glob("features-*.safetensors"))
        for path in paths:
            self._known |= {key: (path, one.state) for key, one in self.entries(path).items()}
        self.channels = len(_read_tensor(paths[-1])[0]) if paths else 0
        self._next = int(paths[-1].stem.rpartition("-")[2]) + 1 if paths else 0
        self._clear()

    def _clear(self) -> None:
        self._values: list[Tensor] = []
        self._waiting: dict[str, _Entry] = {}
        self._rows, self._bytes, self._since = 0, 0, time.monotonic()

    def has(self, key: str, state: tuple[int, int]) -> bool:
        """True if there are features of a video whose file has not changed since."""
        return key in self._known and self._known[key][1] == state

    def entry(self, key: str) -> tuple[Path, _Entry]:
        """Last part of a video, and its entry there."""
        path = self._known[key][0]
        return path, self.entries(path)[key]

    def add(self, key: str, state: tuple[int, int], found: VideoFeatures) -> None:
        """Add features of a video, and write a part if it is time."""
        assert found.values is not None
        self._values.append(found.values)
        self._waiting[key] = _Entry(state, self._rows, list(found.rows), found.remark)
        self._rows += len(found.rows)
        self._bytes += found.values.nbytes + 64 * len(found.rows)  # in the metadata
        late = time.monotonic() - self._since > _SECONDS
        if late or len(self._waiting) >= _VIDEOS or self._bytes >= _BYTES:
            self.flush()

    def flush(self) -> None:
        """Write the videos that wait as a part."""
        if not self._waiting:
            return
        values = torch.cat(self._values)
        path = self._out / f"features-{self._next:05}.safetensors"
        write_atomic(path, save({"features": values}, {_KEY: json.dumps(self._waiting)}))
        self._known |= {key: (path, one.state) for key, one in self._waiting.items()}
        self.channels = values.shape[1]
        self._next += 1
        self._clear()


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    """Errors of a part that was not written by this program, or is no longer whole, in one line."""
    try:
        yield
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError):
        raise SnvideoError(
            f"{path}: damaged or missing: delete it, and call 'snvideo features' again"
        ) from None


def _read_entries(path: Path) -> dict[str, _Entry]:
    """Videos of a part, by the absolute paths of their files."""
    with _damage_named(path), safe_open(path, "pt") as file:
        stored = json.loads(file.metadata()[_KEY])
        return {
            key: _Entry(tuple(state), begin, [FeatureRow(*row) for row in rows], remark)
            for key, (state, begin, rows, remark) in stored.items()
        }


def _read_tensor(path: Path) -> Tensor:
    with _damage_named(path):
        return load_file(path)["features"]


def _lines(
    parts: _Parts, sources: dict[str, _Source], failures: dict[str, str], names: list[str]
) -> Iterator[tuple[Any, ...]]:
    """Lines of the table, as in `COLUMNS`."""
    row = 0
    for key, source in sources.items():
        labels = " ".join(map(str, source.labels)), "; ".join(names[i] for i in source.labels)
        if key in failures:
            yield "", "", "", source.name, "", "", "", "", *labels, failures[key], ""
            continue
        path, entry = parts.entry(key)
        for place, (clip, crop, start, end) in enumerate(entry.rows, entry.begin):
            times = f"{start:.6f}", f"{end:.6f}"
            where = row, path.name, place, source.name, clip, crop
            yield *where, *times, *labels, "", entry.remark
            row += 1


def _write_table(path: Path, lines: Iterable[tuple[Any, ...]]) -> int:
    """Write a table; the number of its rows of features."""
    rows = 0
    with (
        atomic_path(path) as temporary,
        temporary.open("w", newline="", encoding=_CODING[0], errors=_CODING[1]) as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for line in lines:
            writer.writerow(line)
            rows += line[0] != ""
    return rows


def _write_array(path: Path, parts: _Parts, lines: Iterable[tuple[Any, ...]], rows: int) -> None:
    """Write the rows of a table as one array of numpy."""
    shape = rows, parts.channels
    read = lru_cache(1)(_read_tensor)  # neighbours mostly lie in one file
    with atomic_path(path) as temporary:
        if not rows:
            np.save(temporary, np.empty(shape, np.float32))
            return
        array = np.lib.format.open_memmap(temporary, "w+", np.float32, shape)
        for row, file, place, *_ in lines:
            if row != "":
                array[row] = read(path.with_name(file))[place]
        array.flush()
