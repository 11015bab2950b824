"""Atomic file writes: a file is the old one or the new one, never half of both."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

_numbers = count()


_TEMPORARY = re.compile(r"\..{0,40}\.\d+-\d+(\.[^.]+)?", re.DOTALL)
"""Names of temporary files."""


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Temporary path, which becomes `path` at the end of the block.

    It lies in the same folder, which is made if it is missing, and has the same suffix. If the
    block or the disk fails, nothing is left behind, and a file that was there is as it was.

    Raises:
        OSError: if the disk does not take the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Cut short: a name may be as long as the file system allows.
    temporary = path.with_name(f".{path.stem[:40]}.{os.getpid()}-{next(_numbers)}{path.suffix}")
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
        _sync_folder(path.parent)
    finally:
        with suppress(OSError):  # which would hide the first error
            temporary.unlink(missing_ok=True)


def is_unfinished(path: Path) -> bool:
    """True for the temporary file of `atomic_path`, which a process that was killed leaves."""
    return bool(_TEMPORARY.fullmatch(path.name))


def remove_unfinished(folder: Path, recursive: bool = False) -> None:
    """Remove what processes that were killed had begun to write, where no other writes now."""
    for file in folder.rglob(".*") if recursive else folder.glob(".*"):
        if is_unfinished(file):
            file.unlink(missing_ok=True)


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write a file as `atomic_path` does; text is encoded as UTF-8, its line ends as they are."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def sync(path: Path) -> None:
    """Put a file's content on the disk, safe from a loss of power."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Put renames in a folder on the disk, where the file system can."""
    try:
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EACCES):
            raise
