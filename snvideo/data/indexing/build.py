"""Building of a clip index: a source's listing joined with probes of its files."""

import csv
import json
import logging
import mmap
import os
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snvideo.atomic import write_atomic
from snvideo.data.decoding import missing
from snvideo.data.image_sequences import FPS
from snvideo.data.index import COLUMNS, DECODERS, STATUSES, IndexRow, read_rows
from snvideo.data.index_meta import VERSION
from snvideo.data.indexing.listing import UNLABELLED, Listing
from snvideo.data.indexing.parts import (
    Part,
    is_finished,
    listing_digest,
    part_facts,
    take_part,
)
from snvideo.data.indexing.probe import Check, probe_all
from snvideo.data.remote import Place, RemotePath, join, require_remote
from snvideo.data.source import Source
from snvideo.errors import SnvideoError
from snvideo.lock import locked_output

log = logging.getLogger(__name__)

_LISTED = (*COLUMNS[: COLUMNS.index("first_frame")], "labels")
"""What a source says of a video, beside a remark in `reason`; the rest is probed."""


@dataclass
class BuildSummary:
    """Counts of an index's rows."""

    skipped: dict[str, int]  # reason why entries of the source gave no row -> their number
    counts: dict[str, dict[str, int]]  # split -> status -> videos
    reasons: dict[str, dict[str, int]]
    """Status -> reason -> videos, the commonest first. An `ok` video's reason is a remark."""

    @classmethod
    def of(cls, rows: Iterable[IndexRow], skipped: dict[str, int]) -> "BuildSummary":
        """Count rows."""
        counts: dict[str, dict[str, int]] = {}
        reasons = {status: Counter[str]() for status in STATUSES}
        for row in rows:
            counts.setdefault(row.split, dict.fromkeys(STATUSES, 0))[row.status] += 1
            reasons[row.status].update([row.reason] if row.reason else [])
        return cls(skipped, counts, {name: dict(n.most_common()) for name, n in reasons.items()})

    def total(self, status: str) -> int:
        """Videos of a status, in all splits."""
        return sum(counts[status] for counts in self.counts.values())


def build_index(
    listing: Listing,
    videos: Place,
    out: Path,
    *,
    check: Check = "packets",
    part: Part | None = None,
    workers: int = 1,
    timeout: float = 120.0,
    ray: str | None = None,
    progress: Callable[[int], None] | None = None,
) -> BuildSummary:
    """Probe the files of a listing and write their index, `out` and the JSON file beside it.

    An interrupted build goes on when it is called again with the same listing and check; until all
    is done, the rows lie in a hidden file beside `out`.

    Args:
        listing: from `snvideo.data.indexing.sources`.
        videos: folder or URL that its paths start from. Stored relative to the index if it lies
            inside the index's folder, so that both can move together.
        out: the CSV file; its folder is made if need be.
        part: the part of the rows that is built, as an index of its own beside `out`
            (`part.path(out)`), which `snvideo.data.indexing.merge` puts together with the others.
            One that is finished is left as it is. None: all.
        check, workers, timeout, ray: as for `snvideo.data.indexing.probe.probe_all`.
        progress: called with the number of videos done, at the start and after each one.

    Raises:
        SnvideoError: if no video is usable, or the index cannot be written.

    Example:
        >>> from snvideo.data.indexing import sources
        >>> listing = sources.read_class_folders(Path("toy/train"))
        >>> build_index(listing, Path("toy/train"), Path("toy/again.csv")).total("ok") > 0
        True
    """
    if out.suffix != ".csv":
        raise SnvideoError(f"index {out}: call it something.csv")
    if not listing.labels:
        raise SnvideoError(
            f"videos {videos}: no label is known: give the label names, in the order of their ids, "
            "with --labels"
        )
    if isinstance(videos, RemotePath):
        require_remote()
    report = progress or (lambda number: None)
    facts = index_facts(listing, videos, out, check)
    if part is not None:
        facts |= part_facts(listing, videos, check, part)
        listing, out = take_part(listing, part), part.path(out)
    for decoder in DECODERS if check == "decode" else ():
        if reason := missing(decoder):
            log.info("no file can be trusted to %s: %s", decoder, reason)
    with locked_output(out, f"index {out}"):
        if part is not None and is_finished(out, facts):
            log.info("index %s: found finished: delete it to have it built again", out)
            report(len(listing.rows))
            return BuildSummary.of(read_rows(out), listing.skipped)
        digest = listing_digest(listing, videos, check, remarks=True)
        partial = out.with_name(f".{out.name}.{digest[:12]}.part")
        # A folder that is seen from here must be seen by all nodes.
        folders = [videos] if isinstance(videos, Path) and videos.is_dir() else []

        def probe(sources: Iterable[Source]) -> Generator[IndexRow, None, None]:
            return probe_all(sources, check, workers, timeout, ray, folders)

        _write_rows(listing, videos, partial, probe, report)
        try:
            summary = BuildSummary.of(read_rows(partial), listing.skipped)
            if part is None:
                check_usable(summary, videos)
            partial.replace(out)
        finally:
            partial.unlink(missing_ok=True)
        write_facts(out, facts, summary)
    return summary


def index_facts(listing: Listing, videos: Place, out: Path, check: Check) -> dict[str, Any]:
    """Facts for the JSON file beside an index, all but the counts of its rows."""
    root = videos
    if isinstance(root, Path):
        root, folder = (Path(os.path.normpath(path.absolute())) for path in (root, out.parent))
        root = root.relative_to(folder) if root.is_relative_to(folder) else root
    facts: dict[str, Any] = {"root": root.as_posix(), "labels": listing.labels}
    facts |= {"version": VERSION, "source": listing.source, "check": check}
    return facts | {"skipped": listing.skipped}


def write_facts(out: Path, facts: dict[str, Any], summary: BuildSummary) -> None:
    """Write the JSON file beside an index, which is finished with it."""
    content = json.dumps(facts | {"counts": summary.counts}, indent=1) + "\n"
    write_atomic(out.with_suffix(".json"), content)


def _write_rows(
    listing: Listing,
    videos: Place,
    partial: Path,
    probe: Callable[[Iterable[Source]], Generator[IndexRow, None, None]],
    report: Callable[[int], None],
) -> None:
    """Write the rows of an index, or what is left of them, as the probes of their files come."""
    done = _resume(partial)
    left = listing.rows[done:]
    report(done)
    folder = videos.absolute()
    places = (
        Source.of(join(folder, path), row.fps or FPS) for row in left for path in listing.files(row)
    )
    with (
        partial.open("a", newline="", encoding="utf-8", errors="surrogateescape") as table,
        closing(probe(places)) as probes,
    ):
        writer = csv.writer(table, lineterminator="\n")
        if not table.tell():
            writer.writerow(COLUMNS)
        for row in left:
            found = _best([next(probes)._replace(path=path) for path in listing.files(row)])
            listed = {name: getattr(row, name) for name in _LISTED if name != "path"}
            listed["label_name"] = ";".join(listing.labels[k] for k in row.label_ids)
            remarks = f"{row.reason}; {found.reason}; {_untrimmed(row, found)}".split("; ")
            remarks += [UNLABELLED] * (found.status == "ok" and not row.label_ids)
            listed["reason"] = "; ".join(dict.fromkeys(filter(None, remarks)))
            writer.writerow(found._replace(**listed))
            table.flush()
            done += 1
            report(done)


def _best(files: Sequence[IndexRow]) -> IndexRow:
    """The best of several files of one clip, the first of as good ones, and that there are more."""

    def soundness(file: IndexRow) -> tuple[bool, bool, float]:
        return file.status == "ok", not file.reason, file.seconds if file.reason else 0.0

    best = max(files, key=soundness)
    if len(files) == 1 or best.status != "ok":
        return best
    worst = min(files, key=soundness)
    if soundness(worst) == soundness(best):
        remark = "one of several files of its name"
    else:
        fault = worst.status if worst.status != "ok" else "damaged"
        remark = f"instead of a {fault} file of its name"
    return best._replace(reason="; ".join(filter(None, (best.reason, remark))))


def _untrimmed(row: IndexRow, found: IndexRow) -> str:
    """A remark on a file that is much longer than the clip that a source says it is."""
    if row.start is None or row.end is None or found.seconds <= 1.5 * (row.end - row.start) + 2:
        return ""
    return "longer than from start to end: not trimmed?"


def _resume(partial: Path) -> int:
    """Number of whole rows that an interrupted build has left."""
    if not partial.exists() or not partial.stat().st_size:
        return 0
    with partial.open("r+b") as file:  # the last row may have been cut off
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
            end = text.rfind(b"\n") + 1
        file.truncate(end)
    return sum(1 for _ in read_rows(partial)) if end else 0


def check_usable(summary: BuildSummary, videos: Place) -> None:
    """Raises `SnvideoError` if no video is usable, with the commonest reasons."""
    if summary.total("ok"):
        return
    reasons = [
        (f"{st}: {why}", n) for st, some in summary.reasons.items() for why, n in some.items()
    ]
    found = [f"{number} {why}" for why, number in (*reasons, *summary.skipped.items())]
    raise SnvideoError(
        f"videos {videos}: none is usable ({'; '.join(found[:4]) or 'none is listed'}): "
        "no index was written: check the folder and what lists its videos"
    )
