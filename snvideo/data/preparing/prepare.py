"""Re-encoding of an index's videos into a folder of their own, with an index of its own."""

# An output appears under its name when it is whole: what is there, and not older than its source,
# is done for a later call.

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path, PurePath
from typing import Any

from snvideo.atomic import write_atomic
from snvideo.data.files import claim_folder, remove_unfinished
from snvideo.data.index import IndexRow, read_rows
from snvideo.data.index_meta import read_meta
from snvideo.data.indexing.build import build_index
from snvideo.data.indexing.listing import Listing
from snvideo.data.preparing.reencode import EncodeJob, EncoderSettings, EncodeState, reencode
from snvideo.data.source import Source
from snvideo.data.workers import WorkerPool, discard_output
from snvideo.errors import SnvideoError
from snvideo.lock import locked_output

RECORD = "prepare.json"  # file in the folder of the outputs with settings and results


@dataclass(frozen=True)
class PrepareSummary:
    """Result of preparing an index's videos; a video that has several rows counts once."""

    index: Path  # of the new files
    videos: int  # usable ones of the old index
    kept: int  # done by an earlier call
    failures: dict[str, str]  # path in the old index -> reason why there is no new file
    other_frames: dict[str, tuple[int, int]]  # path -> frames before and after, where they differ
    bytes_before: int  # of the sources of the new files
    bytes_after: int
    seconds: float  # length of the new files


def prepare_videos(
    index: Path,
    out: Path,
    settings: EncoderSettings | None = None,
    *,
    workers: int = 1,
    timeout: float = 120.0,
    progress: Callable[[str, int, int], None] | None = None,
) -> PrepareSummary:
    """Re-encode the usable videos of an index and write the index of the new files.

    Rows keep their order, labels and splits. What cannot be prepared, or was not usable before, is
    `missing` in the new index, with the reason.

    Args:
        index: the CSV file.
        out: folder to fill; new, empty, or filled before with the same settings.
        workers: processes, each for one video at a time.
        timeout: seconds without progress after which a video is given up.
        progress: called with the step (`encode`, then `index`), and videos that are done, of all.

    Raises:
        SnvideoError: if the index cannot be read, `out` holds something else, nothing can be
            written there, or no video is usable afterwards.
    """
    root = video_root(index)
    with locked_output(out, str(out)):
        settings = settings or EncoderSettings()
        return _prepare(index, root, out, settings, workers, timeout, progress)


def _prepare(
    index: Path,
    root: Path,
    out: Path,
    settings: EncoderSettings,
    workers: int,
    timeout: float,
    progress: Callable[[str, int, int], None] | None,
) -> PrepareSummary:
    report = progress or (lambda step, done, total: None)
    claim_folder(out, RECORD, {"root": str(root), **settings._asdict()})
    names = output_names((row.path for row in read_rows(index)), root)
    jobs = {}
    for row in read_rows(index):
        if row.status == "ok":
            name = names[row.path]
            source = Source(root / row.path, row.offset, row.bytes)
            jobs[name] = EncodeJob(source, out / name, row.orientation, row.fps)
    waiting = {name: job for name, job in jobs.items() if not _is_done(job)}
    kept = len(jobs) - len(waiting)
    report("encode", kept, len(jobs))
    reasons: dict[str, str] = {}
    pool = WorkerPool(
        partial(reencode, settings=settings),
        min(workers, len(waiting) or 1),
        timeout,
        ahead=1,
        window=100 * workers,
        initializer=discard_output,
    )
    try:
        with closing(pool):
            outcomes = zip(waiting.items(), pool.run(waiting.values()), strict=True)
            for done, ((name, job), (state, failure)) in enumerate(outcomes, kept + 1):
                if failure is not None:
                    state = EncodeState("failed", failure)
                if state.state == "unwritable":
                    raise SnvideoError(
                        f"{job.output}: cannot be written: {state.reason}: "
                        "mend that, and call again to go on"
                    )
                if state.state != "done":
                    reasons[name] = state.reason
                    with suppress(OSError):  # of an earlier call, from an older source
                        job.output.unlink()
                report("encode", done, len(jobs))
    finally:
        remove_unfinished(out)
    listing = _listing(index, names, reasons)
    new, rows = out / "index.csv", len(listing.rows)

    def show(done: int) -> None:
        report("index", done, rows)

    build_index(listing, out, new, workers=workers, timeout=timeout, progress=show)
    return _summarize(index, new, names, kept, reasons)


def video_root(index: Path) -> Path:
    """Absolute folder that an index's paths start from; a `SnvideoError` if it is not there."""
    root = Path(os.path.normpath((index.parent / read_meta(index)[0]).absolute()))
    if not root.is_dir():
        raise SnvideoError(f"index {index}: no video folder at {root}: mend root in its .json file")
    return root


def output_names(paths: Iterable[str], root: Path) -> dict[str, str]:
    """Path of each video's new file below the output folder, POSIX and ending in `.mp4`.

    Where two videos would get one name, both keep their own extension before it: `a.avi.mp4`. It is
    a `SnvideoError` if that does not help. Paths are as in an index, and start from `root`.
    """
    files = {path: PurePath(os.path.normpath(root / path)) for path in paths}
    places = {
        file: file.relative_to(root)
        if file.is_relative_to(root)
        else PurePath("_outside", *file.parts[1:])
        for file in files.values()
    }
    names = {file: place.with_suffix(".mp4") for file, place in places.items()}
    number = Counter(names.values())
    names |= {
        file: places[file].with_name(f"{file.name}.mp4")
        for file, name in names.items()
        if number[name] > 1
    }
    for name, number_of in Counter(names.values()).most_common(1):
        if number_of > 1:
            raise SnvideoError(f"videos {root}: two would become {name}: rename one")
    return {path: names[file].as_posix() for path, file in files.items()}


def _is_done(job: EncodeJob) -> bool:
    try:
        made = job.output.stat().st_mtime_ns
    except OSError:
        return False
    with suppress(OSError):  # the source is gone
        return job.source.state()[1] <= made
    return True


def _listing(index: Path, names: dict[str, str], reasons: dict[str, str]) -> Listing:
    """Rows of the new index, one for each row of the old one."""

    def note(row: IndexRow) -> str:
        if row.status != "ok":
            return f"source {row.status}: {row.reason}"
        failure = reasons.get(names[row.path])
        return f"not prepared: {failure}" if failure else row.reason

    rows = [row._replace(path=names[row.path], reason=note(row)) for row in read_rows(index)]
    return Listing(rows, read_meta(index)[1], f"prepared from {index}")


def _summarize(
    index: Path, new: Path, names: dict[str, str], kept: int, reasons: dict[str, str]
) -> PrepareSummary:
    failures: dict[str, str] = {}
    other_frames: dict[str, tuple[int, int]] = {}
    videos, before, after, seconds = 0, 0, 0, 0.0
    for old_row, new_row in row_pairs(index, new):
        videos += 1
        if new_row.status != "ok":
            failures[old_row.path] = reasons.get(names[old_row.path], new_row.reason)
            continue
        before, after = before + old_row.bytes, after + new_row.bytes
        seconds += new_row.seconds
        if old_row.frames != new_row.frames:
            other_frames[old_row.path] = (old_row.frames, new_row.frames)
    return PrepareSummary(new, videos, kept, failures, other_frames, before, after, seconds)


def row_pairs(index: Path, new: Path) -> Iterator[tuple[IndexRow, IndexRow]]:
    """Pairs of old and new row of every video that is usable in the old index, once each."""
    seen: set[str] = set()
    for old_row, new_row in zip(read_rows(index), read_rows(new), strict=True):
        if old_row.status == "ok" and new_row.path not in seen:
            seen.add(new_row.path)
            yield old_row, new_row


def write_record(prepared: PrepareSummary, compared: dict[str, Any] | None) -> None:
    """Add the results, and the comparison if there was one, to `prepare.json`."""
    record = prepared.index.with_name(RECORD)
    facts = json.loads(record.read_text(encoding="utf-8"))
    result = {**asdict(prepared), "index": prepared.index.name}
    facts |= {"result": result, "sample": compared}
    write_atomic(record, json.dumps(facts, indent=1) + "\n")
