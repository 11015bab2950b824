"""Prepared videos against their sources, on a sample: what was lost, and what was gained."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from snvideo.data.index import IndexRow, Video
from snvideo.data.preparing.prepare import Prepared, pairs
from snvideo.data.workers import WorkerPool

LIKENESS = ("psnr_luma", "psnr_rgb", "ssim")
TIMES = ("milliseconds_before", "milliseconds_after")


class Spread(NamedTuple):
    """Of many values, the middle and what 5 % stay below."""

    median: float
    low: float


@dataclass(frozen=True)
class Comparison:
    """Prepared videos against their sources, on a sample."""

    videos: int
    """That were compared."""
    psnr_luma: Spread
    """Decibels, of single frames against the scaled ones that were encoded."""
    psnr_rgb: Spread
    ssim: Spread
    """Of luma: Wang et al., Image Quality Assessment: From Error Visibility to Structural
    Similarity, 2004."""
    milliseconds_before: float
    """Processor time of a training clip, in the mean over the sample."""
    milliseconds_after: float


def spread_evenly(prepared: Prepared, index: Path, number: int) -> list[tuple[IndexRow, IndexRow]]:
    """Old and new row of some of the videos that were prepared, from all over the index."""
    made = prepared.videos - len(prepared.failures)
    chosen = np.linspace(0, made - 1, min(number, made)).round().astype(int)
    both = (pair for pair in pairs(index, prepared.index) if pair[1].status == "ok")
    return [pair for place, pair in enumerate(both) if place in chosen]


def compare(
    sample: Iterable[tuple[IndexRow, IndexRow]],
    root: Path,
    out: Path,
    short_side: int,
    *,
    limit: float = 120.0,
    progress: Callable[[], None] | None = None,
) -> Comparison | None:
    """Compares prepared videos with their sources, one at a time in a process of its own.

    Args:
        sample: rows of the old and of the new index.
        root: folder that the old paths start from.
        out: folder that the new ones start from.
        short_side: that the videos were prepared with.
        limit: seconds after which a video is given up, and left out.
        progress: called after each video.

    Returns:
        None if no video could be compared.
    """
    items = [(_values(old, root), _values(new, out)) for old, new in sample]
    found: dict[str, list[float]] = {}
    videos = 0
    # One process, so that no other takes the caches that the times depend on.
    function = partial(_compare_one, short_side=short_side)
    with closing(WorkerPool(function, 1, limit, quiet=True)) as pool:
        for outcome in pool.run(items):
            if outcome.answer and outcome.failure is None:
                videos += 1
                for name, values in outcome.answer.items():
                    found.setdefault(name, []).extend(values)
            if progress is not None:
                progress()
    if not videos:
        return None
    spreads = {name: Spread(*np.percentile(found[name], (50, 5)).round(4)) for name in LIKENESS}
    means = {name: float(np.mean(found[name]).round(3)) for name in TIMES}
    return Comparison(videos, **spreads, **means)


def _compare_one(
    pair: tuple[dict[str, Any], dict[str, Any]], short_side: int
) -> Iterator[dict[str, list[float]]]:
    from snvideo.data.preparing.quality import compare_one  # in the worker: torch takes seconds

    return compare_one(pair, short_side)


def _values(row: IndexRow, folder: Path) -> dict[str, Any]:
    """A row as a `Video` in JSON values."""
    values = {name: value for name, value in row._asdict().items() if name in Video._fields}
    return {**values, "path": str(folder / row.path), "name": row.path}
