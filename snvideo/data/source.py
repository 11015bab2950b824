"""Places that videos are read from: files, members of tar files, image sequences; some remote."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from snvideo.data.download_cache import local_copy, local_member
from snvideo.data.image_sequences import FPS, is_sequence, list_images
from snvideo.data.remote import Place, RemotePath, as_place, file_size, tried
from snvideo.data.tar import TarMember, check_member, member_headers, read_member, split_member
from snvideo.data.unusable import Unusable


class Source(NamedTuple):
    """Place of a video."""

    path: Place
    """A member's is that of its tar file, then its name; an image sequence's a pattern."""
    offset: int | None = None
    """Byte of the tar file where the header of a member begins; None: the video is a file."""
    bytes: int = 0
    """Of a file or member, as it was indexed; 0: whatever it has now."""
    fps: float = FPS  # frames a second of an image sequence, which states none

    @property
    def is_sequence(self) -> bool:
        """True if the video is an image sequence, which no decoder of videos opens."""
        return is_sequence(self.path.name)

    @classmethod
    def of(cls, video: Source | Place | str, fps: float = FPS) -> Source:
        """Source of a path; the place of a member is looked up in its tar file.

        Raises SnvideoError if what is called a tar file is none, or cannot be read.
        """
        if isinstance(video, Source):
            return video
        path = as_place(video)
        tar, name = split_member(path.as_posix())
        try:
            offset = member_headers(as_place(tar)).get(name) if name else None
        except OSError:  # whoever opens it says so
            offset = None
        return cls(path, offset, fps=fps)

    def address(self) -> str:
        """Path or URL under which FFmpeg, and all decoders that are built on it, open the video;
        a remote one is downloaded first.

        Raises:
            OSError: if it is not there.
            Unusable: if it cannot be downloaded, or the file is not the one that was indexed.
        """
        if self.is_sequence:
            raise Unusable("an image sequence, which has no times: not for windows")
        if isinstance(self.path, RemotePath):
            return str(self._downloaded(self.path))
        if self.offset is None:
            if self.bytes not in (0, found := self.path.stat().st_size):
                raise Unusable(f"{found} bytes, but {self.bytes} when it was indexed: index again")
            return str(self.path)
        tar, member = self._member(self.offset)
        # FFmpeg's protocol for a part of a file; absolute, or a colon might end another's name.
        end = member.start + member.bytes
        return f"subfile,,start,{member.start},end,{end},,:{os.path.abspath(tar)}"  # noqa: PTH100

    def size(self) -> int:
        """Bytes of the video; errors as of `address`."""
        if self.is_sequence:
            return sum(image.bytes for image in list_images(self.path))
        if isinstance(self.path, RemotePath):
            return self._downloaded(self.path).stat().st_size
        if self.offset is None:
            return self.path.stat().st_size
        return self._member(self.offset)[1].bytes

    def _downloaded(self, path: RemotePath) -> Path:
        if self.offset is None:
            return local_copy(path, self.bytes)
        tar, name = split_member(str(path))
        return local_member(RemotePath(tar), name, self.offset, self.bytes)

    def _member(self, offset: int) -> tuple[str, TarMember]:
        tar, name = split_member(self.path.as_posix())
        with Path(tar).open("rb") as file:
            member = check_member(read_member(file, offset), name, self.bytes)
            if os.fstat(file.fileno()).st_size < member.start + member.bytes:
                raise Unusable("its tar file is cut off inside it")
        return tar, member

    def is_there(self) -> bool:
        """True if the video can be opened, whatever is in it."""
        try:
            if self.is_sequence:
                return bool(list_images(self.path))
            if isinstance(self.path, RemotePath):
                file = split_member(str(self.path))[0] if self.offset is not None else self.path
                return tried(lambda: file_size(RemotePath(file))) != 0
            return self.path.is_file() if self.offset is None else self.size() > 0
        except (OSError, Unusable):
            return False

    def state(self) -> tuple[int, int]:
        """Bytes of the file, tar file or images, and time of the last change in ns; OSError if it
        is not there. What is remote is taken for unchanged while its size is."""
        if self.is_sequence:
            images = list_images(self.path)
            return sum(one.bytes for one in images), max((one.changed for one in images), default=0)
        if isinstance(self.path, RemotePath):
            return self.bytes, 0
        path = self.path if self.offset is None else Path(split_member(self.path.as_posix())[0])
        found = path.stat()
        return found.st_size, found.st_mtime_ns
