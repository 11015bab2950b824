"""Places that videos are read from: files, members of tar files, image sequences."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from snvideo.data.image_sequences import FPS, is_sequence, list_images
from snvideo.data.tar import TarMember, member_headers, read_member, split_member


class Unusable(Exception):
    """A file that gives no video; the message is the reason, in a few words and without paths."""


class Source(NamedTuple):
    """Place of a video."""

    path: Path
    """A member's is that of its tar file, then its name; an image sequence's a pattern."""
    offset: int | None = None
    """Byte of the tar file where the header of a member begins; None: the video is a file."""
    bytes: int = 0  # of a member, as it was indexed; 0: whatever it has now
    fps: float = FPS  # frames a second of an image sequence, which states none

    @property
    def is_sequence(self) -> bool:
        """True if the video is an image sequence, which no decoder of videos opens."""
        return is_sequence(self.path.name)

    @classmethod
    def of(cls, video: Source | Path | str, fps: float = FPS) -> Source:
        """Source of a path; the place of a member is looked up in its tar file.

        Raises SnvideoError if what is called a tar file is none.
        """
        if isinstance(video, Source):
            return video
        path = Path(video)
        tar, name = split_member(path.as_posix())
        try:
            offset = member_headers(Path(tar)).get(name) if name else None
        except OSError:  # whoever opens it says so
            offset = None
        return cls(path, offset, fps=fps)

    def address(self) -> str:
        """Path or URL under which FFmpeg, and all decoders that are built on it, open the video.

        Raises:
            OSError: if it is not there.
            Unusable: if its tar file is not the one that was indexed.
        """
        if self.is_sequence:
            raise Unusable("an image sequence, which has no times: not for windows")
        if self.offset is None:
            return str(self.path)
        tar, member = self._member(self.offset)
        # FFmpeg's protocol for a part of a file; absolute, or a colon might end another's name.
        end = member.start + member.bytes
        return f"subfile,,start,{member.start},end,{end},,:{os.path.abspath(tar)}"  # noqa: PTH100

    def size(self) -> int:
        """Bytes of the video; errors as of `address`."""
        if self.is_sequence:
            return sum(image.bytes for image in list_images(self.path))
        if self.offset is None:
            return self.path.stat().st_size
        return self._member(self.offset)[1].bytes

    def _member(self, offset: int) -> tuple[str, TarMember]:
        tar, name = split_member(self.path.as_posix())
        with Path(tar).open("rb") as file:
            member = read_member(file, offset)
            if member is None or member.name != name or self.bytes not in (0, member.bytes):
                raise Unusable("not where it was in its tar file, which has changed")
            if os.fstat(file.fileno()).st_size < member.start + member.bytes:
                raise Unusable("its tar file is cut off inside it")
        return tar, member

    def is_there(self) -> bool:
        """True if the video can be opened, whatever is in it."""
        try:
            plain = self.offset is None and not self.is_sequence
            return self.path.is_file() if plain else self.size() > 0
        except (OSError, Unusable):
            return False

    def state(self) -> tuple[int, int]:
        """Bytes of the file, tar file or images, and time of the last change in ns; OSError if it
        is not there."""
        if self.is_sequence:
            images = list_images(self.path)
            return sum(one.bytes for one in images), max((one.changed for one in images), default=0)
        path = self.path if self.offset is None else Path(split_member(self.path.as_posix())[0])
        found = path.stat()
        return found.st_size, found.st_mtime_ns
