"""Members of plain tar files, which are read where they lie.

Headers alone are read to list them. A member is found again by the place of its header, which is
read once more whenever it is opened, so that a tar file that was replaced is noticed.
"""

import logging
import os
import posixpath
import re
import tarfile
from collections import Counter
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import BinaryIO, NamedTuple

from snvideo.data.remote import Place, RemotePath, file_size, open_remote, tried
from snvideo.data.unusable import Unusable
from snvideo.errors import SnvideoError

log = logging.getLogger(__name__)

COMPRESSED = (
    *(".tar.gz", ".tgz", ".tar.bz2", ".tbz", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tar.lz4"),
    *(".tar.z", ".tar.lzma"),
)
"""Endings of tar files whose members have no place in them."""

_BLOCK = 1 << 20
"""Bytes that are read of a remote tar file at once while its headers are listed."""

_BEHIND = 1 << 20
"""Bytes behind the mark of the end that are worth a warning; a tape's block is 10 KiB."""


class TarMember(NamedTuple):
    """A file in a tar file."""

    name: str
    start: int  # of its content, in bytes from the start of the tar file
    bytes: int


def is_tar(name: str) -> bool:
    """True for names of plain tar files."""
    return name.lower().endswith(".tar")


def split_member(path: str) -> tuple[str, str]:
    """Path of a tar file and name of a member, of a path through one; of others the path and
    nothing. Folders that are called like a tar file are none."""
    for found in re.finditer(r"\.tar(?=/)", path, re.IGNORECASE):
        end = found.end()
        if not os.path.isdir(path[:end]):  # noqa: PTH112 - a URL is no folder either
            return path[:end], path[end + 1 :]
    return path, ""


def read_member(file: BinaryIO, header: int) -> TarMember | None:
    """Member whose header begins at a place of a tar file; None if there is none."""
    file.seek(header)
    try:
        found = _open(file).next()
    except tarfile.TarError:
        return None
    if found is None or not found.isreg() or found.issparse():
        return None
    return TarMember(_tidy(found.name), found.offset_data, found.size)


def check_member(found: TarMember | None, name: str, size: int) -> TarMember:
    """The member that was found at a place, if it is that of this name and size (0: any), else
    `Unusable`."""
    if found is None or found.name != name or size not in (0, found.bytes):
        raise Unusable("not where it was in its tar file, which has changed")
    return found


def member_headers(path: Place) -> Mapping[str, int]:
    """Names of the files in a tar file, and where their headers begin.

    What cannot be read where it lies (links, sparse files) is left out, as are names that lead out
    of the tar file; of members of one name the last counts. The log tells of all these, and of
    damage. `SnvideoError` if it is no tar file or cannot be read, `OSError` if it is not there.
    """
    if isinstance(path, RemotePath):
        return _remote_headers(path)
    try:
        state = path.stat()
        return _local_headers(path, state.st_size, state.st_mtime_ns)
    except PermissionError as error:
        raise SnvideoError(f"videos {path}: {error.strerror}") from None


@cache
def _local_headers(path: Path, size: int, changed: int) -> Mapping[str, int]:
    with path.open("rb") as file:
        return list_members(file, size, str(path))


@cache
def _remote_headers(path: RemotePath) -> Mapping[str, int]:
    def listed() -> Mapping[str, int]:
        size = file_size(path)
        with open_remote(path, _BLOCK) as file:
            return list_members(file, size or file.seek(0, os.SEEK_END), str(path))

    try:
        return tried(listed)
    except Unusable as error:
        raise SnvideoError(f"videos {path}: {error}") from None


def list_members(file: BinaryIO, size: int, named: str) -> Mapping[str, int]:
    """Members of an open tar file of so many bytes, as `member_headers` gives them."""
    found: dict[str, int] = {}
    left = Counter[str]()
    file.seek(0)
    end, damage = 0, ""
    try:
        tar = _open(file)
        while (member := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # one for each file of a large one
            end = tar.offset
            name = _tidy(member.name)
            if not member.isreg():
                left["links"] += member.islnk() or member.issym()
            elif member.issparse():
                left["sparse files"] += 1
            elif name.startswith("../"):
                left["names that lead out of it"] += 1
            else:
                left["files whose name comes again, of which the last is taken"] += name in found
                found[name] = member.offset
        damage = _ending(file, tar.offset, size)
    except tarfile.TarError as error:
        if not end:
            raise SnvideoError(
                f"{named}: not a plain tar file ({error}): unpack it, or write it as one"
            ) from None
        where = f"cut off at byte {size}" if end > size else f"damaged at byte {end}"
        damage = f"{where}: what would come after it is not listed"
    if damage:
        log.warning("%s: %s", named, damage)
    if left := +left:
        counted = ", ".join(f"{number} {what}" for what, number in left.items())
        log.warning("%s: left out: %s", named, counted)
    return found


def _open(file: BinaryIO) -> tarfile.TarFile:
    """Tar file from a place in a file on."""
    return tarfile.TarFile(fileobj=file, encoding="utf-8", errors="surrogateescape")


def _ending(file: BinaryIO, end: int, size: int) -> str:
    """Damage at the place where the members of a tar file end, or nothing."""
    file.seek(end)
    block = file.read(tarfile.BLOCKSIZE)
    if len(block) < tarfile.BLOCKSIZE:
        return "without the mark of its end: it may have been cut off"
    if any(block):
        return f"damaged at byte {end}: what comes after it is not listed"
    if size - end > _BEHIND:
        return f"{size - end} bytes behind the mark of its end are not read: were several joined?"
    return ""


def _tidy(name: str) -> str:
    """A member's name as a relative path."""
    return posixpath.normpath(name).lstrip("/")
