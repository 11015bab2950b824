"""Summary of a clip index, counted in one pass over its rows."""

import posixpath
from array import array
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from snvideo.data.config import ClipConfig
from snvideo.data.decoding.orientation import ORIENTATIONS
from snvideo.data.index import STATUSES, read_rows
from snvideo.data.index_meta import read_meta
from snvideo.data.indexing.listing import SPLITS
from snvideo.data.sampling import is_short
from snvideo.errors import SnvideoError

Counts = Counter[str]


@dataclass(frozen=True)
class IndexSummary:
    """Statistics of an index. Usable videos are those whose status is `ok`."""

    path: Path
    labels: list[str]
    clip: ClipConfig | None
    counts: dict[str, np.ndarray]
    """Split -> int64 (labels, statuses): videos of each label, statuses as in `STATUSES`."""
    videos: dict[str, np.ndarray]
    """Split -> int64 (statuses,): videos, each once, whatever the number of its labels."""
    seconds: dict[str, float]  # split -> seconds of usable video
    bytes: dict[str, int]  # split -> size of usable files
    short: dict[str, int]
    """Split -> usable videos in which a clip must repeat the last frame; 0 without a clip."""
    numbers: dict[str, np.ndarray]  # `seconds`, `frames`, `fps` -> float64 (usable videos,)
    sizes: Counter[tuple[int, int]]  # width and height -> usable videos
    kinds: dict[str, Counts]
    """`resolution`, `container`, `decoder`, `seekable`, `orientation` -> value -> usable videos."""
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

    Videos are compared with `clip`, if it is given. An index without rows is a `SnvideoError`.
    """
    labels = read_meta(path)[1]
    counts: defaultdict[str, np.ndarray] = defaultdict(
        lambda: np.zeros((len(labels), len(STATUSES)), np.int64)
    )
    videos: defaultdict[str, np.ndarray] = defaultdict(lambda: np.zeros(len(STATUSES), np.int64))
    seconds: defaultdict[str, float] = defaultdict(float)
    size, short = Counts(), Counts()
    numbers = {name: array("d") for name in ("seconds", "frames", "fps")}
    sizes: Counter[tuple[int, int]] = Counter()
    kinds = {name: Counts() for name in ("container", "decoders", "seekable", "orientation")}
    reasons = {status: Counts() for status in STATUSES}
    for row in read_rows(path, labels):
        status = STATUSES.index(row.status)
        counts[row.split][row.label_ids, status] += 1
        videos[row.split][status] += 1
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
        kinds["decoders"][row.decoders] += 1
        kinds["seekable"]["yes" if row.seekable else "no"] += 1
        kinds["orientation"][ORIENTATIONS[row.orientation]] += 1
    if not counts:
        raise SnvideoError(f"index {path}: it has no videos: build it again")
    usual = list(dict.fromkeys(SPLITS.values()))  # the usual splits come first
    splits = sorted(counts, key=lambda name: ([*usual, name].index(name), name))
    return IndexSummary(
        path=path,
        labels=labels,
        clip=clip,
        counts={split: counts[split] for split in splits},
        videos={split: videos[split] for split in splits},
        seconds={split: seconds[split] for split in splits},
        bytes={split: size[split] for split in splits},
        short={split: short[split] for split in splits},
        numbers={name: np.frombuffer(values) for name, values in numbers.items()},
        sizes=sizes,
        kinds={"resolution": Counts({f"{w}x{h}": n for (w, h), n in sizes.items()}), **kinds},
        reasons=reasons,
    )
