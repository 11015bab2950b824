"""Contents of the files that a config names and that decide a run, as hashes."""

import hashlib
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

from snvideo.data.index import ClipIndex, read_rows
from snvideo.data.index_meta import read_meta
from snvideo.data.quarantine import Quarantine
from snvideo.engine.config import RunConfig
from snvideo.errors import SnvideoError
from snvideo.models.pretrained.name_mapping import read_classes

INDEX = "data.index"


def content_hashes(config: RunConfig) -> dict[str, str]:
    """Hash of what the files at a config's keys hold, but for its index.

    Missing are keys that name no file: one that is not there (any more), or a library's download.
    """
    weights, quarantine = config.model.weights, config.data.quarantine
    if quarantine is None:  # the same as an empty list
        found = {"data.quarantine": _digest(b"")}
    else:
        found = _hashed("data.quarantine", quarantine, _quarantine_hash)
    if weights is not None:
        found |= _hashed("model.weights.source", Path(weights.source), file_hash)
        if weights.classes is not None:
            found |= _hashed("model.weights.classes", weights.classes, _classes_hash)
    return found


def index_content(config: RunConfig) -> dict[str, str]:
    """Hash of a config's index under its key; nothing if it cannot be read."""
    path = config.data.index
    return _hashed(INDEX, path, _index_hash, path.with_suffix(".json"))


def _hashed(key: str, path: Path, hash_of: Callable[[Path], str], *beside: Path) -> dict[str, str]:
    try:
        stats = [file.stat() for file in (path, *beside)]
        return {key: _cached(hash_of, path, *((s.st_mtime_ns, s.st_size) for s in stats))}
    except (OSError, SnvideoError):  # whoever needs it says so
        return {}


@cache
def _cached(hash_of: Callable[[Path], str], path: Path, *versions: tuple[int, int]) -> str:
    # A study asks for the same files for each of its runs.
    return hash_of(path)


def _index_hash(path: Path) -> str:
    labels = read_meta(path)[1]
    # That of all splits, whichever are there, and wherever the videos are.
    return ClipIndex(read_rows(path, labels), "", labels, path.parent).hash


def _quarantine_hash(path: Path) -> str:
    # Reasons decide nothing, nor does the order.
    names = sorted(Quarantine.read(path).closed)
    return _digest("\n".join(names).encode("utf-8", "surrogateescape"))


def file_hash(path: Path) -> str:
    """Hex SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _classes_hash(path: Path) -> str:
    return _digest(json.dumps(read_classes(path)).encode())


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
