"""Videos behind URLs, by fsspec: `s3://bucket/videos`, `gs://...`, `https://...`.

A URL is a path like any other to the rest of the package; `snvideo.data.download_cache` has local
copies of what is opened.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import time
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple, TypeVar

from snvideo.data.unusable import Unusable
from snvideo.data.watchdog import report_progress
from snvideo.errors import SnvideoError
from snvideo.extras import require

log = logging.getLogger(__name__)

_SCHEME = re.compile(r"^([a-z][a-z0-9+.-]+):/+", re.IGNORECASE)
_SILENCE = 30.0
"""Seconds without a byte from an HTTP server after which a download has failed."""


PAUSES = (0.5, 1.0, 2.0)
"""Seconds before another try of a request that has failed."""
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)

Found = TypeVar("Found")


class RemotePath(PurePosixPath):
    """Path of a file or folder that is behind a URL."""

    def __str__(self) -> str:
        return _SCHEME.sub(r"\1://", super().__str__())  # a path has one slash there

    def absolute(self) -> RemotePath:
        """The path itself."""
        return self


Place = Path | RemotePath
"""Path of a file or folder, here or behind a URL."""


def as_place(path: Place | str) -> Place:
    """A path of this machine or behind a URL, by how it begins."""
    if isinstance(path, Path | RemotePath):
        return path
    return RemotePath(path) if is_url(path) else Path(path)


def is_url(text: str) -> bool:
    """True for `s3://bucket/a.mp4` and the like."""
    return "://" in text and bool(_SCHEME.match(text))


def join(root: Place, path: str) -> Place:
    """A path of an index, which starts from its root unless it is absolute."""
    return RemotePath(path) if is_url(path) else root / path


def is_object(text: str) -> bool:
    """True for the URL of a file that FFmpeg has no protocol for."""
    return bool(re.match(r"(s3a?|gc?s|az|abfss?|hf|memory)://", text, re.IGNORECASE))


def is_web(path: Place) -> bool:
    """True for a place on a web server, which lists no files."""
    return bool(re.match("https?:", str(path), re.IGNORECASE))


def require_remote() -> None:
    """Raises `MissingExtraError` where the packages for URLs are not installed."""
    require("remote", "videos at URLs")


class RemoteFile(NamedTuple):
    """A file as a listing has it."""

    name: str  # relative to what was listed
    bytes: int


def file_size(path: RemotePath) -> int | None:
    """Bytes of a file, if the server tells; OSError if it is not there."""
    fs, inner = file_system(path)
    size = fs.info(inner).get("size")
    return None if size is None else int(size)


def list_folder(folder: RemotePath, *, below: bool = False) -> list[RemoteFile]:
    """Files in a folder, or all below it, sorted; OSError if it is not there.

    Raises:
        SnvideoError: for a web server, which has no listing.
    """
    if is_web(folder):
        raise SnvideoError(
            f"videos {folder}: a web server lists no files: name them in lists ('snvideo index "
            "build list') or annotations"
        )
    fs, inner = file_system(folder)
    entries = (
        fs.find(inner, detail=True) if below else {e["name"]: e for e in fs.ls(inner, detail=True)}
    )
    found = []
    for name, entry in entries.items():
        inside = name[len(inner.rstrip("/")) :].lstrip("/")
        if entry.get("type") == "file" and inside:
            found.append(RemoteFile(inside, int(entry.get("size") or 0)))
    return sorted(found)


def open_remote(path: RemotePath, block: int) -> BinaryIO:
    """Open a file for reading here and there, so many bytes at once."""
    fs, inner = file_system(path)
    opened: Any = fs.open(inner, "rb", block_size=block, cache_type="readahead")
    return opened


def file_system(path: RemotePath) -> tuple[Any, str]:
    """fsspec's file system for a path, and the path in it.

    Raises:
        SnvideoError: if fsspec, or the package that it needs for this kind of URL, is missing.
    """
    require_remote()
    import fsspec

    url, options = str(path), {}
    if is_web(path):
        import aiohttp

        # Without a limit in all: by default it is five minutes, whatever the size.
        limits = aiohttp.ClientTimeout(None, sock_connect=_SILENCE, sock_read=_SILENCE)
        options = {"client_kwargs": {"timeout": limits}}
    try:
        fs, inner = fsspec.url_to_fs(url, **options)
    except (ImportError, ValueError) as error:  # what to install; no such kind of URL
        raise SnvideoError(f"videos {url}: {error}") from None
    return fs, os.fspath(inner)


def tried(request: Callable[[], Found]) -> Found:
    """Result of a request to a server, which is repeated after a pause if it fails.

    Raises:
        FileNotFoundError: at once, if there is no such file.
        Unusable: if it fails each time, or the server refuses it.
        OSError: if a disk is full.
    """
    for pause in (*PAUSES, None):
        try:
            return request()
        except (SnvideoError, Unusable, TypeError, AttributeError):
            raise
        except Exception as raised:  # servers and their libraries have kinds of their own
            error = _cause(raised)
            if isinstance(error, FileNotFoundError):
                raise
            status = getattr(error, "status", None)
            refused = isinstance(status, int) and 400 <= status < 500 and status not in (408, 429)
            if isinstance(error, OSError) and error.errno in _DISK:
                raise
            if pause is None or refused or isinstance(error, PermissionError):
                raise Unusable(f"cannot be downloaded: {_reason(error)}") from error
            log.info("a download is repeated: %s", _reason(error))
        report_progress()
        time.sleep(pause)
    raise AssertionError


def _cause(error: Exception) -> Exception:
    """The error behind an error: for fsspec, a web server that fails has no such file."""
    cause = error.__cause__
    if isinstance(error, FileNotFoundError) and isinstance(cause, Exception):
        status = getattr(cause, "status", None)
        failed = isinstance(cause, TimeoutError) or type(cause).__module__.startswith("aiohttp")
        if failed and status not in (404, 410):
            return cause
    return error


def _reason(error: Exception) -> str:
    """An error in a few words, the same for like cases."""
    if isinstance(status := getattr(error, "status", None), int):
        return f"the server answers {status}"
    if isinstance(error, TimeoutError):
        return "the server does not answer"
    if isinstance(error, ValueError) and re.search("range|seek", str(error)):
        return "the server gives no parts of files, as members of tar files are"
    if isinstance(error, EOFError):
        return f"cut short: {error}"
    return type(error).__name__
