"""The JSON file beside an index: its root, label names and version."""

import json
from pathlib import Path

from snvideo.errors import SnvideoError

VERSION = 2
"""Of an index. Before 2 nobody had tried `seekable`, nor what `decoders` rests on: both are read as
if nothing were known."""
CODING = ("utf-8", "surrogateescape")
"""Of names: those of files are bytes, and some are not UTF-8."""


def read_meta(path: Path) -> tuple[str, list[str]]:
    """Root as stated, and label names, from the JSON file beside an index's CSV file."""
    beside = path.with_suffix(".json")
    for file in (path, beside):
        if not file.is_file():
            # A run may be begun in another folder than its paths are relative to.
            seen = (
                "" if file.is_absolute() else f" (or start elsewhere, it is seen from {Path.cwd()})"
            )
            raise SnvideoError(f"no index at {file}: build it with 'snvideo index build'{seen}")
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
    return root, [as_text(name) for name in labels]


def as_text(name: str) -> str:
    """A label that may have been the name of a folder in bytes, to a system without UTF-8."""
    try:
        content = name.encode(*CODING)
    except UnicodeEncodeError:  # half a character of UTF-16
        content = name.encode("utf-8", "backslashreplace")
    return content.decode("utf-8", "backslashreplace")


def is_proven(path: Path) -> bool:
    """True if an index is of this version, or not yet finished, with no JSON file beside it."""
    try:
        return int(json.loads(path.with_suffix(".json").read_bytes())["version"]) >= VERSION
    except OSError:
        return True
    except (ValueError, KeyError, TypeError):  # `read_meta` tells what is wrong with it
        return False
