"""The videos that benchmarks read: found or drawn, indexed, and the same ones prepared."""

import os
import re
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from output import processor
from sheets import Row

from snvideo.data.config import ClipConfig
from snvideo.data.files import scan_videos
from snvideo.data.index import ClipIndex, IndexRow, read_rows
from snvideo.data.indexing.build import build_index
from snvideo.data.indexing.listing import Listing
from snvideo.data.preparing.prepare import prepare_videos
from snvideo.data.toy import make_toy_kinetics
from snvideo.errors import SnvideoError

ORIGINALS, PREPARED = "originals", "prepared"
TOY_VIDEOS = 32

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

# fmt: off
PACKAGES = (
    "torch", "torchvision", "av", "decord", "torchcodec", "spdl-io", "pytorchvideo",
    "mmaction2", "mmcv-lite", "mmengine", "opencv-python-headless",
)
# fmt: on


class Videos(NamedTuple):
    """The same videos in one of their encodings."""

    path: Path
    """Of the index."""
    index: ClipIndex
    rows: dict[str, int]
    """Row of the index by the original's name."""


def clip_config(text: str) -> ClipConfig:
    """`8x8`: 8 frames of stride 8."""
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if match is None:
        raise SnvideoError(f"clip {text!r}: give frames and stride, as 8x8")
    return ClipConfig(frames=int(match[1]), stride=int(match[2]))


def find(folder: Path | None, scratch: Path) -> Path:
    """The folder of videos, or a new one of toy videos."""
    if folder is None:
        folder = scratch / "toy"
        make_toy_kinetics(folder, TOY_VIDEOS, 0, workers=CORES)
    elif not folder.is_dir():
        raise SnvideoError(f"videos {folder}: no such folder: give the folder of the videos")
    return folder


def index_videos(folder: Path, names: dict[str, str], out: Path) -> tuple[Videos, dict[str, str]]:
    """Index some videos of a folder, decoding every frame; also why some are of no use.

    Args:
        folder: of the videos.
        names: path in the folder by the original's name.
        out: the index to write.
    """
    listing = Listing(
        [IndexRow(path, 0, split="train") for path in names.values()], ["any"], "a folder"
    )
    build_index(listing, folder, out, check="decode", workers=CORES)
    index, useless = ClipIndex.load(out, "train"), {}
    for name, row in zip(names, read_rows(out), strict=True):
        if row.status != "ok":
            useless[name] = f"{row.status}: {row.reason}"
    usable = [name for name in names if name not in useless]
    return Videos(out, index, {name: row for row, name in enumerate(usable)}), useless


def same_videos(names: Iterable[str], folder: Path) -> dict[str, str]:
    """The file of a folder for each name, whatever its extension."""
    files = {PurePosixPath(file).with_suffix(""): file for file in scan_videos(folder)}
    found = {}
    for path in map(PurePosixPath, names):
        # Under its whole name if two differ by their extensions alone.
        file = files.get(path) or files.get(path.with_suffix(""))
        if file is not None:
            found[str(path)] = file
    return found


def collect(
    folder: Path, prepared: Path | None, scratch: Path
) -> tuple[dict[str, Videos], dict[str, str]]:
    """Index the videos as they are and prepared; also why some are left out."""
    names = {name: name for name in scan_videos(folder)}
    originals, left_out = index_videos(folder, names, scratch / "originals.csv")
    if prepared is None:
        prepared = scratch / "prepared"
        prepare_videos(originals.path, prepared, workers=CORES)
    twins = same_videos(originals.rows, prepared)
    others, useless = index_videos(prepared, twins, scratch / "prepared.csv")
    left_out |= {name: f"{PREPARED}: {why}" for name, why in useless.items()}
    left_out |= {name: f"not in {prepared}" for name in originals.rows if name not in twins}
    return {ORIGINALS: originals, PREPARED: others}, left_out


def too_short(encodings: dict[str, Videos], clip: ClipConfig) -> dict[str, str]:
    """Videos that are in all encodings but too short for a clip in some, and why."""
    span, found = (clip.frames - 1) * clip.stride + 1, {}
    for videos in encodings.values():
        for name, row in videos.rows.items():
            frames = videos.index[row].frames
            if frames < span:
                found[name] = f"its {frames} frames are fewer than a clip's {span}"
    return found


def machine() -> Row:
    """What a reader has to know about where figures come from."""
    return {"device": processor(), "cores": CORES, "threads": 1} | {
        package: installed(package) for package in PACKAGES
    }


def installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
