"""Video files that arguments name, and folders that a program fills, and goes on to fill."""

import glob
import json
import logging
import os
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath, PurePosixPath
from types import MappingProxyType
from typing import Any

from snvideo.atomic import is_unfinished, remove_unfinished, write_atomic
from snvideo.data.image_sequences import find_sequence, is_sequence, list_images
from snvideo.data.remote import Place, RemotePath, is_url, list_folder, tried
from snvideo.data.source import Source
from snvideo.data.tar import COMPRESSED, is_tar, member_headers, split_member
from snvideo.data.unusable import Unusable
from snvideo.errors import SnvideoError
from snvideo.text import shorten, shorten_list

log = logging.getLogger(__name__)

# fmt: off
EXTENSIONS = (
    ".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".ts", ".3gp",
    ".mts", ".m2ts", ".ogv", ".gif", ".vob", ".asf", ".divx", ".f4v", ".mxf", ".dv", ".3g2", ".qt",
)
# fmt: on
NO_PLACES = "compressed, so that members cannot be reached: unpack it, or gunzip it to a plain .tar"


def scan_videos(folder: Place) -> list[str]:
    """Find all video files below a folder, by extension: POSIX paths relative to it, sorted.

    Those in plain tar files are among them, as `clips.tar/a.mp4`, and folders of numbered images
    without a video, as `v/img_*.jpg`. Links are followed, but each folder is searched once, under
    its own path if that is inside. Hidden files and folders are not looked at, other files are
    counted in the log. Folders that cannot be read are named there, and tar files that are
    compressed. No video is a `SnvideoError`.
    """
    found = _Scan(folder)
    if isinstance(folder, RemotePath):
        _scan_remote(folder, found)
    else:
        _scan_local(folder, found)
    return found.finish()


def _scan_local(folder: Path, found: "_Scan") -> None:
    seen: set[str] = set()
    again: list[str] = []
    unreadable: list[str] = []

    def fail(error: OSError) -> None:
        if error.filename == str(folder):
            raise SnvideoError(f"videos {folder}: {error.strerror}") from None
        unreadable.append(f"{error.filename} ({error.strerror})")

    links = deque([folder])  # the folder itself, then, breadth first, what links in it lead to
    while links:
        for here, folders, names in os.walk(links.popleft(), onerror=fail):
            real = os.path.realpath(here)
            if real in seen:
                again.append(here)
                folders.clear()
                continue
            seen.add(real)
            folders[:] = sorted(name for name in folders if name[0] != ".")
            links += (link for link in map(Path(here).joinpath, folders) if link.is_symlink())
            found.add(Path(here).relative_to(folder), names)
    if unreadable:
        log.warning("videos %s: folders left out: %s", folder, shorten_list(unreadable))
    if again:
        log.warning("videos %s: links to folders taken already: %s", folder, shorten_list(again))


def _scan_remote(folder: RemotePath, found: "_Scan") -> None:
    names: defaultdict[str, list[str]] = defaultdict(list)
    try:
        for file in tried(lambda: list_folder(folder, below=True)):
            inside, _, name = file.name.rpartition("/")
            names[inside].append(name)
    except FileNotFoundError:
        raise SnvideoError(f"videos {folder}: no such folder") from None
    except Unusable as error:
        raise SnvideoError(f"videos {folder}: {error}") from None
    for inside in sorted(names):
        if not any(part.startswith(".") for part in inside.split("/")):
            found.add(PurePosixPath(inside), names[inside])


@dataclass
class _Scan:
    """Videos that were found below a folder, and what else there is."""

    folder: Place
    videos: list[str] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)  # ending -> files
    images: Counter[str] = field(default_factory=Counter)  # pattern -> images beside frames
    compressed: list[str] = field(default_factory=list)  # tar files

    def add(self, inside: PurePath, names: Iterable[str]) -> None:
        """Take the videos of a folder, whose path starts from the first one."""
        names = [name for name in names if name[0] != "."]
        if not any(name.lower().endswith((*EXTENSIONS, ".tar")) for name in names):
            sequence, more = find_sequence(names)
            if sequence:
                self.videos.append((inside / sequence).as_posix())
                self.images.update(more)
                return
        for name in names:
            path = (inside / name).as_posix()
            if name.lower().endswith(EXTENSIONS):
                self.videos.append(path)
            elif is_tar(name):
                self.videos += (f"{path}/{member}" for member in member_videos(self.folder / path))
            elif name.lower().endswith(COMPRESSED):
                self.compressed.append(path)
            else:
                self.others[PurePath(name).suffix.lower() or "no ending"] += 1

    def finish(self) -> list[str]:
        """All videos, sorted; the log says what is left out."""
        folder = self.folder
        left = ", ".join(f"{number} {ending}" for ending, number in self.others.most_common(10))
        if self.compressed:
            problem = f"{shorten_list(self.compressed)}: {NO_PLACES}"
            if not self.videos:
                raise SnvideoError(f"videos {folder}: {problem}")
            log.warning("videos %s: left out: %s", folder, problem)
        if not self.videos:
            problem = f"no video file in it{f', but {left}' if left else ''}"
            raise SnvideoError(f"videos {folder}: {problem}: give the folder of the videos")
        if left:
            log.info("videos %s: not taken for videos by their endings: %s", folder, left)
        if self.images:
            named = ", ".join(f"{number} {one}" for one, number in self.images.most_common(10))
            log.warning("videos %s: images beside those of videos, left out: %s", folder, named)
        return sorted(self.videos)


def member_videos(tar: Place) -> list[str]:
    """Names of the video files in a tar file, by extension, without hidden ones, sorted."""
    names = (name for name in member_headers(tar) if name.lower().endswith(EXTENSIONS))
    return sorted(name for name in names if "." not in {part[0] for part in name.split("/")})


def find_videos(arguments: Sequence[str]) -> list[Place]:
    """Find the files that arguments name, in their order, each file once.

    Arguments are files, which are taken whatever they are called and whatever is in them; folders
    and tar files, of which all video files below are taken, by extension and sorted; members of tar
    files, as `clips.tar/a.mp4`; image sequences, as `v/img_*.jpg`; or patterns (`*`, `?`, `[...]`,
    and `**` for any folders), of which all files are taken, sorted. All but these may be behind a
    URL. It is a `SnvideoError` if one stands for no file.
    """
    found: list[Place] = []
    inside: Sequence[Place]
    for argument in arguments:
        named = shorten(argument, 200)
        if is_url(argument):
            inside = _remote_videos(RemotePath(argument))
        elif os.path.isdir(argument):  # noqa: PTH112 - which takes any name, however long
            inside = [Path(argument, name) for name in scan_videos(Path(argument))]
        elif os.path.lexists(argument):  # a dangling link is named, with its reason, like a file
            found += _opened(Path(argument))
            continue
        elif Source.of(argument).offset is not None:
            found.append(Path(argument))
            continue
        elif sequences := _sequences(argument):
            inside = sequences
        elif glob.has_magic(argument):
            paths = (Path(path) for path in sorted(glob.glob(argument, recursive=True)))  # noqa: PTH207
            files = (path for path in paths if not path.is_dir())
            inside = [video for path in files for video in _opened(path)]
            if not inside:
                raise SnvideoError(f"no file matches '{named}': quote it, and use ** for folders")
        else:
            raise SnvideoError(f"no video at '{named}': expected a file, a folder or a pattern")
        log.info("%s: %d video%s", named, len(inside), "s" * (len(inside) != 1))
        found += inside
    return unique_files(found)


def _remote_videos(path: RemotePath) -> list[Place]:
    """A file that a URL is of, by its ending; else the videos in the tar file or folder."""
    _, member = split_member(str(path))
    if is_sequence(path.name) or (path.suffix and not is_tar(path.name)) or member:
        return [path]
    names = member_videos(path) if is_tar(path.name) else scan_videos(path)
    return [path / name for name in names]


def _opened(path: Path) -> list[Path]:
    """A file; in the place of a tar file its videos."""
    if not is_tar(path.name) or not path.is_file():
        return [path]
    if names := member_videos(path):
        return [path / name for name in names]
    raise SnvideoError(f"videos {path}: no video file in it")


def _sequences(argument: str) -> list[Path]:
    """Image sequences that an argument names; its folder may be a pattern, too."""
    place = Path(argument)
    if not is_sequence(place.name):
        return []
    folders = glob.glob(str(place.parent), recursive=True)  # noqa: PTH207
    found = (Path(folder, place.name) for folder in sorted(folders) if Path(folder).is_dir())
    return [sequence for sequence in found if list_images(sequence)]


def unique_files(videos: Iterable[Place]) -> list[Place]:
    """Drop paths that name a file again, by another way to its folder."""
    first: dict[str, Place] = {}
    for video in videos:
        if isinstance(video, RemotePath):
            first.setdefault(str(video), video)
            continue
        first.setdefault(os.path.join(os.path.realpath(video.parent), video.name), video)  # noqa: PTH118
    return list(first.values())


def claim_folder(
    out: Path,
    record: str,
    settings: dict[str, Any],
    defaults: Mapping[str, Any] = MappingProxyType({}),
    shared: bool = False,
) -> None:
    """Write settings into a new folder, or compare them with those that it was filled with.

    They are `settings` in the JSON file `record` in it; those in `defaults` may be left out, on
    both sides. It is a `SnvideoError` if they differ, or the folder holds something else or cannot
    be written to. Where it is `shared`, other processes may fill it now, and files that were begun
    stay; else these are removed.
    """
    path = out / record
    try:
        files = out.iterdir() if out.exists() else ()
        names = {file.name for file in files if not is_unfinished(file)}
        if record not in names and not path.exists():  # which another process may write just now
            if names:
                raise SnvideoError(f"{out}: holds other files: give a new or an empty folder")
            write_atomic(path, json.dumps({"settings": settings}, indent=1) + "\n")
        if not shared:
            remove_unfinished(out, recursive=True)
        facts = json.loads(path.read_text(encoding="utf-8"))
        found = facts.get("settings", facts)  # older toy sets hold nothing else
    except (ValueError, AttributeError):
        raise SnvideoError(f"{path}: not written by this program: choose another") from None
    except OSError as error:
        raise SnvideoError(f"{out}: cannot be written: {error.strerror}") from None
    for name in {**settings, **defaults}:
        old, new = (one.get(name, defaults.get(name)) for one in (found, settings))
        if old != new:
            raise SnvideoError(
                f"{out}: was made with {name} {old}, asked for {new}: "
                "choose another folder, or delete this one"
            )
