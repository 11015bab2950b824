"""Files that are either the old or the new ones, never half of both."""

import os
from pathlib import Path


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write a file beside its place and move it there, making the folder if it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        if isinstance(content, str):
            beside.write_text(content, encoding="utf-8", newline="")
        else:
            beside.write_bytes(content)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
