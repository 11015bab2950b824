"""Summary of a clip index, counted in one pass over its rows."""

import math
import posixpath
from array import array
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from snvideo.data.config import ClipConfig
from snvideo.data.index import STATUSES, IndexRow, read_meta, read_rows
from snvideo.data.indexing.sources import SPLITS
from snvideo.data.sampling import is_short
from snvideo.errors import SnvideoError

Counts = Counter[str]
_LEAST = {"frames": 1, "width": 1, "height": 1, "fps": 1e-3, "seconds": 0}
"""Least values of a usable video that make sense."""


@dataclass(frozen=True)
class IndexSummary:
    """Statistics of an index. Usable videos are those whose status is `ok`."""

    path: Path
    labels: list[str]
    clip: ClipConfig | None
    counts: dict[str, np.ndarray]
    """Split -> int64 (labels, statuses): videos of each label, statuses as in `STATUSES`."""
    seconds: dict[str, float]  # split -> seconds of usable video
    bytes: dict[str, int]  # split -> size of usable files
    short: dict[str, int]
    """Split -> usable videos in which a clip must repeat the last frame; 0 without a clip."""
    numbers: dict[str, np.ndarray]  # `seconds`, `frames`, `fps` -> float64 (usable videos,)
    sizes: Counter[tuple[int, int]]  # width and height -> usable videos
    kinds: dict[str, Counts]
    """`resolution`, `container`, `decoder`, `seekable`, `rotation` -> value -> usable videos."""
    reasons: dict[str, Counts]
    """Status -> reason -> videos. A lost video counts once, a usable one once for each remark."""

    @property
    def usable(self) -> int:
        """Number of usable videos, of all splits."""
        return len(self.numbers["seconds"])

    def rare(self, split: str, below: int) -> list[tuple[str, int]]:
        """Labels with fewer than `below` usable videos in a split, and how many: rarest first."""
        videos = self.counts[split][:, 0]
        order = np.argsort(videos, kind="stable")
        return [(self.labels[k], int(videos[k])) for k in order if videos[k] < below]

    def commonest_reasons(self, most: int) -> list[tuple[str, str, int]]:
        """Status, reason and videos of each status's `most` commonest reasons, then of the rest."""
        found = []
        for status in ("missing", "broken", "ok"):
            reasons = self.reasons[status].most_common()
            found += [(status, reason, number) for reason, number in reasons[:most]]
            if rest := reasons[most:]:
                found.append((status, f"and {len(rest):,} more", sum(n for _, n in rest)))
        return found


def summarize_index(path: Path, clip: ClipConfig | None = None) -> IndexSummary:
    """Summarize an index row by row; only three numbers of each row are kept.

    Args:
        path: the CSV file.
        clip: the clip that videos are compared with; None for no comparison.

    Raises:
        SnvideoError: if a file is missing or malformed, or the index has no rows.
    """
    labels = read_meta(path)[1]
    videos: Counter[tuple[str, int, str]] = Counter()
    seconds: defaultdict[str, float] = defaultdict(float)
    size, short = Counts(), Counts()
    numbers = {name: array("d") for name in ("seconds", "frames", "fps")}
    sizes: Counter[tuple[int, int]] = Counter()
    kinds = {name: Counts() for name in ("container", "decoder", "seekable", "rotation")}
    reasons = {status: Counts() for status in STATUSES}
    for line, row in enumerate(read_rows(path), 2):
        if problem := _problem(row, len(labels)):
            raise SnvideoError(f"index {path} line {line}: {problem}: correct it or build it again")
        videos[row.split, row.label, row.status] += 1
        if row.status != "ok":
            reasons[row.status][row.reason or "no reason given"] += 1
            continue
        reasons["ok"].update(filter(None, row.reason.split("; ")))
        seconds[row.split] += row.seconds
        size[row.split] += row.bytes
        short[row.split] += clip is not None and is_short(clip, row.fps, row.frames)
        for name, values in numbers.items():
            values.append(getattr(row, name))
        sizes[row.width, row.height] += 1
        kinds["container"][posixpath.splitext(row.path)[1].lower() or "no extension"] += 1
        kinds["decoder"][row.decoder] += 1
        kinds["seekable"]["yes" if row.seekable else "no"] += 1
        kinds["rotation"][f"{row.rotation}°"] += 1
    if not videos:
        raise SnvideoError(f"index {path}: it has no videos: build it again")
    counts = _arrays(videos, len(labels))
    return IndexSummary(
        path=path,
        labels=labels,
        clip=clip,
        counts=counts,
        seconds={split: seconds[split] for split in counts},
        bytes={split: size[split] for split in counts},
        short={split: short[split] for split in counts},
        numbers={name: np.frombuffer(values) for name, values in numbers.items()},
        sizes=sizes,
        kinds={"resolution": Counts({f"{w}x{h}": n for (w, h), n in sizes.items()}), **kinds},
        reasons=reasons,
    )


def _problem(row: IndexRow, labels: int) -> str:
    """Reason why a row makes no sense, or nothing."""
    if row.status not in STATUSES:
        return f"status is {row.status!r}, expected one of {', '.join(STATUSES)}"
    if not 0 <= row.label < labels:
        return f"label is {row.label}, expected 0 to {labels - 1}"
    if row.status == "ok":
        for name, least in _LEAST.items():
            if not least <= (value := getattr(row, name)) < math.inf:
                return f"{name} of a usable video is {value}"
    return ""


def _arrays(videos: Counter[tuple[str, int, str]], labels: int) -> dict[str, np.ndarray]:
    """Counts of each split by label and status, the usual splits first."""
    usual = list(dict.fromkeys(SPLITS.values()))
    splits = {split for split, _, _ in videos}
    order = [split for split in usual if split in splits] + sorted(splits - {*usual})
    counts = {split: np.zeros((labels, len(STATUSES)), np.int64) for split in order}
    for (split, label, status), number in videos.items():
        counts[split][label, STATUSES.index(status)] = number
    return counts
