"""Image sequences: folders of frames with numbered names, as `v/img_00001.jpg`.

The path of one is a pattern, `v/img_*.jpg`, in which `*` stands for the number. Frame k is the k-th
image by number, from 0, whatever number it begins with or leaves out.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from snvideo.data.download_cache import local_copy
from snvideo.data.remote import Place, RemotePath, list_folder, tried
from snvideo.data.watchdog import watched

if TYPE_CHECKING:
    import numpy as np

FPS = 25.0
"""Frames a second of a sequence where nobody says another rate, as FFmpeg takes them."""

_IMAGES = (".jpg", ".jpeg", ".png", ".webp")
_NUMBERED = re.compile(rf"(.*?)([0-9]+)((?i:{'|'.join(map(re.escape, _IMAGES))}))", re.DOTALL)
_FLOW = re.compile(r"(.*[_-])?(flow.*|[xyuv][_-]?)", re.IGNORECASE)
"""What stands before the number in names of optical flow: `flow_x_00001.jpg`, `x_0001.jpg`."""
_LEAST = 2  # images that make a sequence


class Image(NamedTuple):
    """An image of a sequence."""

    number: int
    name: str
    bytes: int
    changed: int  # time of the last change, ns


def is_sequence(path: str) -> bool:
    """True for the path of an image sequence."""
    name = path.rpartition("/")[2]
    return name.count("*") == 1 and name.lower().endswith(_IMAGES)


def without_pattern(path: str) -> PurePosixPath:
    """Path of the folder of an image sequence; any other path as it is."""
    at = PurePosixPath(path)
    return at.parent if is_sequence(path) else at


def find_sequence(names: Iterable[str]) -> tuple[str, dict[str, int]]:
    """Pattern of the images of a folder, and the numbers of others that are left out.

    Args:
        names: of the files in it.

    Returns:
        The pattern that most images have, but for optical flow, or nothing if fewer than two have
        one; and pattern -> images of all others.
    """
    found: dict[str, int] = {}
    for name in names:
        if name[0] != "." and (match := _NUMBERED.fullmatch(name)):
            pattern = f"{match[1]}*{match[3]}"
            found[pattern] = found.get(pattern, 0) + 1
    # A name that has an asterisk of its own is no pattern.
    frames = {
        pattern: number
        for pattern, number in found.items()
        if number >= _LEAST and is_sequence(pattern) and not is_flow(pattern)
    }
    best = max(sorted(frames), key=frames.__getitem__, default="")
    return best, {pattern: n for pattern, n in sorted(found.items()) if best and pattern != best}


def is_flow(pattern: str) -> bool:
    """True for a pattern of optical flow."""
    return bool(_FLOW.fullmatch(pattern.partition("*")[0]))


def list_images(sequence: Place) -> list[Image]:
    """Images of a sequence by number; OSError if there is no such folder."""
    before, _, after = sequence.name.partition("*")

    def number(name: str) -> int | None:
        digits = name[len(before) : len(name) - len(after)]
        is_one = f"{before}{digits}{after}" == name and digits.isascii() and digits.isdigit()
        return int(digits) if is_one else None

    found = []
    if isinstance(sequence, RemotePath):
        folder = RemotePath(sequence.parent)
        for name, size in tried(lambda: list_folder(folder)):
            if (place := number(name)) is not None:
                found.append(Image(place, name, size, 0))
        return sorted(found)
    with os.scandir(sequence.parent) as entries:
        for entry in entries:
            if (place := number(entry.name)) is not None:
                state = entry.stat()
                found.append(Image(place, entry.name, state.st_size, state.st_mtime_ns))
    return sorted(found)


def read_image(path: Path) -> np.ndarray:
    """Picture of an image file, uint8 RGB (H, W, 3), turned as its EXIF data say; ValueError if it
    cannot be decoded, OSError if it is not there."""
    # Here, as torch takes seconds to import, and few processes need it.
    import numpy as np
    import torch
    from torchvision.io import ImageReadMode, decode_image

    content = torch.frombuffer(bytearray(path.read_bytes()) or bytearray(1), dtype=torch.uint8)
    try:
        image = decode_image(content, ImageReadMode.RGB, apply_exif_orientation=True)
    except RuntimeError:
        raise ValueError(f"image {path.name} cannot be decoded") from None
    if image.dim() == 4:  # of an animation
        image = image[0]
    if image.dtype != torch.uint8:  # 16 bits
        image = (image.to(torch.int32) >> 8).to(torch.uint8)
    return np.ascontiguousarray(image.numpy().transpose(1, 2, 0))  # without threads, unlike torch


def sequence_pictures(sequence: Place, images: Iterable[Image]) -> Iterator[np.ndarray]:
    """Pictures of images of a sequence, each when it is asked for."""
    for image in watched(images):
        path = sequence.with_name(image.name)
        yield read_image(local_copy(path, image.bytes) if isinstance(path, RemotePath) else path)
