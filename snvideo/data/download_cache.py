"""Cache of downloaded videos: whole files, the least recently used of which are removed.

All processes of a machine share one, in the folder `SNVIDEO_CACHE` (`~/.cache/snvideo/videos`), of
about `SNVIDEO_CACHE_GB` gigabytes (20).
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from snvideo.atomic import atomic_path
from snvideo.data.remote import RemotePath, file_size, file_system, open_remote, tried
from snvideo.data.tar import check_member, read_member
from snvideo.data.watchdog import report_progress
from snvideo.errors import SnvideoError
from snvideo.lock import InUseError, locked

_KEPT = 60.0
"""Seconds since its last use for which a file stays, as a decoder may be about to open it."""
_CHUNK = 1 << 18
"""Bytes that are progress for a watchdog: a server that takes longer for them is stuck."""
_HEADERS = 4 << 10  # bytes of a member's headers, those of long names included


def local_copy(path: RemotePath, size: int = 0) -> Path:
    """Path of a local copy of a file, which is downloaded if there is none.

    Args:
        path: of the file.
        size: in bytes, as it was indexed; 0: whatever it has now.

    Raises:
        FileNotFoundError: if the server has no such file.
        Unusable: if it has another size, or could not be read in several tries.
        SnvideoError: if nothing can be written to the cache.
    """
    now = size or tried(lambda: file_size(path))

    def download(part: Path) -> None:
        fs, inner = file_system(path)
        fs.get_file(inner, str(part), callback=_progress())
        found = part.stat().st_size
        if now is not None and found != now:
            raise EOFError(f"{found} bytes instead of {now}")

    return _cached(str(path), path.suffix, now, download)


def local_member(tar: RemotePath, name: str, header: int, size: int) -> Path:
    """Path of a local copy of a member of a tar file, of which its own bytes alone are downloaded.

    Args:
        tar: the tar file.
        name: of the member.
        header: byte where its header begins.
        size: in bytes, as it was indexed; 0: whatever it has now.

    Raises as `local_copy`, Unusable also if another member is there.
    """

    def download(part: Path) -> None:
        with open_remote(tar, size + _HEADERS) as file, part.open("wb") as copy:
            member = check_member(read_member(file, header), name, size)
            file.seek(member.start)
            left = member.bytes
            while left:
                chunk = file.read(min(left, _CHUNK))
                if not chunk:
                    raise EOFError(f"{left} bytes of it are missing")
                copy.write(chunk)
                left -= len(chunk)
                report_progress()

    return _cached(f"{tar}/{name}@{header}", Path(name).suffix, size or None, download)


def _cached(key: str, suffix: str, size: int | None, download: Callable[[Path], None]) -> Path:
    digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
    ending = suffix if re.fullmatch(r"\.[A-Za-z0-9]{1,8}", suffix) else ""
    path = cache_folder() / digest[:2] / f"{digest[2:34]}{ending}"
    while not _is_whole(path, size):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = path.with_name(f"{path.name}.lock")
            with locked(lock, key, report_progress):
                if not _is_whole(path, size):
                    tried(lambda: _written(path, download))
                    _room.add(path)
        except InUseError:  # another process is at it, and its own watchdog looks after it
            time.sleep(0.1)
            report_progress()
        except (FileNotFoundError, SnvideoError):
            raise
        except OSError as error:
            raise _unwritable(error) from None
    with suppress(OSError):  # of another user
        os.utime(path)
    return path


def _written(path: Path, download: Callable[[Path], None]) -> None:
    with atomic_path(path) as part:
        download(part)


def _is_whole(path: Path, size: int | None) -> bool:
    try:
        found = path.stat().st_size
    except OSError:
        return False
    return size is None or found == size


def _unwritable(error: OSError) -> SnvideoError:
    return SnvideoError(
        f"cache {cache_folder()}: cannot be written: {error.strerror}: set SNVIDEO_CACHE to a "
        "folder with room, or SNVIDEO_CACHE_GB to less"
    )


def cache_folder() -> Path:
    """Folder of the cache."""
    usual = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "snvideo" / "videos"
    return Path(os.environ.get("SNVIDEO_CACHE") or usual).expanduser().absolute()


def cache_limit() -> int:
    """Bytes that the cache may take, about."""
    stated = os.environ.get("SNVIDEO_CACHE_GB") or "20"
    try:
        limit = float(stated) * 1e9
        return int(limit)
    except (ValueError, OverflowError):
        raise SnvideoError(f"SNVIDEO_CACHE_GB is {stated!r}: expected gigabytes") from None


def remove_old_files(folder: Path, limit: int) -> None:
    """Remove the files of a cache that were not used for longest, until 7/8 of its limit is left;
    those that were used within a minute stay."""
    found = []
    for here, _, names in os.walk(folder):
        for name in names:
            path = Path(here, name)
            with suppress(OSError):  # another process has removed it
                state = path.stat()
                found.append((state.st_mtime, state.st_size, path))
    total = sum(size for _, size, _ in found)
    if total <= limit:
        return
    for used, size, path in sorted(found):
        if total <= limit * 7 // 8 or used > time.time() - _KEPT:
            break
        with suppress(OSError):
            if path.stat().st_mtime == used:  # nobody has asked for it since
                path.unlink()
                total -= size


class _Room:
    """Bytes that this process has added since it last looked through the cache, which takes time
    where many files lie there."""

    def __init__(self) -> None:
        self._added: int | None = None

    def add(self, path: Path) -> None:
        """Count a new file, and remove old ones if it is time."""
        limit = cache_limit()
        if self._added is not None:
            self._added += path.stat().st_size
        if self._added is None or self._added > limit // 64:
            remove_old_files(cache_folder(), limit)
            self._added = 0


_room = _Room()


def _progress() -> Any:
    """fsspec's callback, which tells the watchdog of bytes that have come."""
    from fsspec.callbacks import Callback

    class Progress(Callback):
        seen = 0

        def relative_update(self, inc: int = 1) -> None:
            self.seen += inc
            if self.seen >= _CHUNK:
                self.seen = 0
                report_progress()

    return Progress()
