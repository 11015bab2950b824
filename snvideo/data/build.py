"""Building a clip index: what the sources list, joined with what the files really hold."""

import csv
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from snvideo.data.index import COLUMNS, STATUSES, IndexRow
from snvideo.data.listing import Listing, Row
from snvideo.data.probe import Check, Probe
from snvideo.data.probe_pool import probe_all
from snvideo.errors import SnvideoError


@dataclass(frozen=True)
class Summary:
    """What an index holds, counted."""

    counts: dict[str, dict[str, int]]
    """Split -> status -> videos."""
    reasons: dict[str, dict[str, int]]
    """Status -> reason -> videos, the commonest first. An `ok` video's reason is a remark."""
    skipped: dict[str, int]
    """Why entries of the source gave no row -> how many."""

    def total(self, status: str) -> int:
        """Videos of a status, in all splits."""
        return sum(counts[status] for counts in self.counts.values())


def build(
    listing: Listing,
    videos: Path,
    out: Path,
    *,
    check: Check = "packets",
    workers: int = 1,
    limit: float = 120.0,
    progress: Callable[[], None] | None = None,
) -> Summary:
    """Probes the files of a listing and writes their index, `out` and the JSON file beside it.

    Args:
        listing: from `snvideo.data.sources`.
        videos: folder that its paths start from. Stored relative to the index where it lies inside
            the index's folder, so that both can move together.
        out: the CSV file; its folder is made if need be. Both files appear whole or not at all.
        check: `packets` or `decode`, see `snvideo.data.probe.stages`.
        workers: processes that probe.
        limit: seconds after which a file that gives no answer counts as broken.
        progress: called after each video.

    Raises:
        SnvideoError: if no video is usable, or the index cannot be written.
    """
    if out.suffix != ".csv":
        raise SnvideoError(f"index {out}: call it something.csv")
    counts: dict[str, Counter[str]] = {}
    reasons: dict[str, Counter[str]] = {status: Counter() for status in STATUSES}
    paths = (videos / row.path for row in listing.rows)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with (
            _whole(out) as table,
            _whole(out.with_suffix(".json")) as meta,
            closing(probe_all(paths, check, workers, limit)) as probes,
        ):
            writer = csv.writer(table, lineterminator="\n")
            writer.writerow(COLUMNS)
            for row, found in zip(listing.rows, probes, strict=True):
                joined = _join(row, found, listing.labels)
                writer.writerow(joined)
                counts.setdefault(row.split, Counter())[joined.status] += 1
                if joined.reason:
                    reasons[joined.status][joined.reason] += 1
                if progress is not None:
                    progress()
            summary = Summary(
                {
                    split: {name: found[name] for name in STATUSES}
                    for split, found in counts.items()
                },
                {status: dict(found.most_common()) for status, found in reasons.items()},
                listing.skipped,
            )
            if not summary.total("ok"):
                raise SnvideoError(_why_useless(summary, videos))
            facts = {
                "root": _portable(videos, out.parent),
                "labels": listing.labels,
                "source": listing.source,
                "check": check,
                "counts": summary.counts,
                "skipped": summary.skipped,
            }
            json.dump(facts, meta, indent=1)
            meta.write("\n")
    except OSError as error:
        raise SnvideoError(f"index {out}: cannot be written: {error.strerror}") from None
    return summary


def _join(row: Row, found: Probe, labels: list[str]) -> IndexRow:
    return IndexRow(
        path=row.path,
        label=row.label,
        label_name=labels[row.label],
        split=row.split,
        start=row.start,
        end=row.end,
        first_frame=found.first_frame,
        frames=found.frames,
        fps=round(found.fps, 4),
        width=found.width,
        height=found.height,
        rotation=found.rotation,
        seconds=round(found.seconds, 3),
        bytes=found.bytes,
        seekable=int(found.seekable),
        decoder=found.decoder,
        status=found.status,
        reason="; ".join(filter(None, (row.note, found.reason))),
    )


@contextmanager
def _whole(path: Path) -> Iterator[TextIO]:
    """A file to write that replaces the one at this path once all is written, or never."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            yield file
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _portable(root: Path, folder: Path) -> str:
    """The root as seen from the index's folder where it lies inside, else absolute."""
    root, folder = (Path(os.path.normpath(path.absolute())) for path in (root, folder))
    return (root.relative_to(folder) if root.is_relative_to(folder) else root).as_posix()


def _why_useless(summary: Summary, videos: Path) -> str:
    found = [
        f"{number} {status}: {reason}"
        for status, reasons in summary.reasons.items()
        for reason, number in reasons.items()
    ]
    found += [f"{number} {why}" for why, number in summary.skipped.items()]
    return (
        f"videos {videos}: none is usable ({'; '.join(found[:4]) or 'none is listed'}): "
        "no index was written: check the folder and what lists its videos"
    )
