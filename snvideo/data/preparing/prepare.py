"""Re-encoding of an index's videos into a folder of their own, with an index of its own."""

# An output appears under its name when it is whole: what is there, and not older than its source,
# is done for a later call.

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path, PurePath
from typing import Any

from snvideo.atomic import remove_unfinished, write_atomic
from snvideo.data.files import claim_folder
from snvideo.data.image_sequences import is_sequence
from snvideo.data.index import IndexRow, read_rows
from snvideo.data.index_meta import read_meta
from snvideo.data.indexing.build import build_index
from snvideo.data.indexing.listing import Listing
from snvideo.data.indexing.merge import merge_parts
from snvideo.data.indexing.parts import Part, part_numbers, parts_beside, take_part
from snvideo.data.preparing.reencode import EncodeJob, EncoderSettings, EncodeState, reencode
from snvideo.data.ray_pool import RayPool, video_pool
from snvideo.data.remote import Place, RemotePath, join
from snvideo.data.source import Source
from snvideo.data.workers import WorkerPool
from snvideo.errors import SnvideoError
from snvideo.lock import check_unlocked, lock_path, locked_output

RECORD = "prepare.json"  # file in the folder of the outputs with settings and results
INDEX = "index.csv"  # file there with the rows of the new files
_NOT_PREPARED = "not prepared: "  # before the reason, in an index


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
    part: Part | None = None,
    workers: int = 1,
    timeout: float = 120.0,
    ray: str | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> PrepareSummary:
    """Re-encode the usable videos of an index and write the index of the new files.

    Rows keep their order, labels and splits. What cannot be prepared, or was not usable before, is
    `missing` in the new index, with the reason.

    Args:
        index: the CSV file.
        out: folder to fill; new, empty, or filled before with the same settings.
        part: the part of the videos that is prepared, with an index of its own in `out`, for
            `merge_prepared`. None: all.
        workers: processes, each for one video at a time.
        timeout: seconds without progress after which a video is given up.
        ray: address of the Ray cluster to work on; see `snvideo.data.ray_pool.RayPool`.
        progress: called with the step (`encode`, then `index`), and videos that are done, of all.

    Raises:
        SnvideoError: if the index cannot be read, `out` holds something else, nothing can be
            written there, or no video is usable afterwards.
    """
    report = progress or (lambda step, done, total: None)
    settings = settings or EncoderSettings()
    new = out / INDEX
    with _preparing(index, out, settings, part) as names:
        for old in parts_beside(new) if part is None else [part]:  # of what is done anew here
            old.path(new).with_suffix(".json").unlink(missing_ok=True)
            old.path(new).unlink(missing_ok=True)
        try:
            jobs = _jobs(index, out, names, part)
            root = video_root(index)
            pool = video_pool(
                partial(reencode, settings=settings),
                workers,
                timeout,
                ray=ray,
                folders=[root, out] if isinstance(root, Path) else [out],
                describe=lambda job: str(job.source.path),
                ahead=1,
                window=100 * workers,
            )
            kept, reasons = _encode(jobs, pool, partial(report, "encode"))
        finally:
            if part is None:
                remove_unfinished(out, recursive=True)
        listing = _listing(index, names, reasons)
        rows = len(take_part(listing, part).rows)
        build_index(
            listing,
            out,
            new,
            part=part,
            workers=workers,
            timeout=timeout,
            ray=ray,
            progress=lambda done: report("index", done, rows),
        )
        return _summarize(index, part.path(new) if part else new, names, kept, part)


def merge_prepared(
    index: Path, out: Path, settings: EncoderSettings | None = None
) -> PrepareSummary:
    """Write the index of the new files from those of all parts, which are removed.

    Args:
        index, out, settings: as for `prepare_videos`.

    Raises:
        SnvideoError: naming the parts that are not finished, or belong to another run.
    """
    new = out / INDEX
    with _preparing(index, out, settings or EncoderSettings(), None) as names:
        merge_parts(_listing(index, names, {}), out, new)
        return _summarize(index, new, names, None, None)


@contextmanager
def _preparing(
    index: Path, out: Path, settings: EncoderSettings, part: Part | None
) -> Iterator[dict[str, str]]:
    """Hold the folder of the outputs, or the right to do one part of it; yields `output_names`."""
    root = video_root(index)
    lock = lock_path(out)
    with locked_output(out, f"{out}, part {part}" if part else str(out), part and part.path(lock)):
        for other in [lock] if part else [busy.path(lock) for busy in parts_beside(lock)]:
            check_unlocked(other, str(out))
        claims = {"root": str(root), **settings._asdict()}
        claim_folder(out, RECORD, claims, shared=part is not None)
        yield output_names((row.path for row in read_rows(index)), root)


def _jobs(index: Path, out: Path, names: dict[str, str], part: Part | None) -> dict[str, EncodeJob]:
    """Work on each new file of a part, by its name."""
    root, folder, jobs = video_root(index), out.absolute(), {}
    for row in _rows(index, names, part):
        if row.status == "ok":
            name = names[row.path]
            source = Source(join(root, row.path), row.offset, row.bytes)
            jobs[name] = EncodeJob(source, folder / name, row.orientation, row.fps)
    return jobs


def _rows(index: Path, names: dict[str, str], part: Part | None) -> Iterator[IndexRow]:
    """Rows of the old index whose new files belong to a part."""
    if part is None:
        return read_rows(index)
    numbers = part_numbers((names[row.path] for row in read_rows(index)), part.parts)
    both = zip(read_rows(index), numbers, strict=True)
    return (row for row, number in both if number == part.number)


def _encode(
    jobs: dict[str, EncodeJob],
    pool: WorkerPool[EncodeJob] | RayPool[EncodeJob],
    report: Callable[[int, int], None],
) -> tuple[int, dict[str, str]]:
    """Re-encode what is not done; number of new files that were, and why others are not there."""
    waiting = {name: job for name, job in jobs.items() if not _is_done(job)}
    kept = len(jobs) - len(waiting)
    report(kept, len(jobs))
    reasons: dict[str, str] = {}
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
            report(done, len(jobs))
    return kept, reasons


def video_root(index: Path) -> Place:
    """Absolute folder or URL that an index's paths start from; a `SnvideoError` if there is no such
    folder."""
    stated = join(index.parent, read_meta(index)[0])
    if isinstance(stated, RemotePath):
        return stated
    root = Path(os.path.normpath(stated.absolute()))
    if not root.is_dir():
        raise SnvideoError(f"index {index}: no video folder at {root}: mend root in its .json file")
    return root


def output_names(paths: Iterable[str], root: Place) -> dict[str, str]:
    """Path of each video's new file below the output folder, POSIX and ending in `.mp4`.

    Where two videos would get one name, both keep their own extension before it: `a.avi.mp4`. It is
    a `SnvideoError` if that does not help. Paths are as in an index, and start from `root`.
    """
    files = {path: PurePath(os.path.normpath(join(root, path))) for path in paths}
    folder = PurePath(os.path.normpath(root))
    places = {
        file: file.relative_to(folder)
        if file.is_relative_to(folder)
        else PurePath("_outside", *file.parts[1:])
        for file in files.values()
    }
    # Of an image sequence the folder, as if it had an extension.
    places |= {
        file: place.parent.with_name(f"{place.parent.name}.images")
        for file, place in places.items()
        if is_sequence(file.name) and place.parent.name
    }
    names = {file: place.with_suffix(".mp4") for file, place in places.items()}
    number = Counter(names.values())
    names |= {
        file: places[file].with_name(f"{places[file].name}.mp4")
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
        return f"{_NOT_PREPARED}{failure}" if failure else row.reason

    rows = [row._replace(path=names[row.path], reason=note(row)) for row in read_rows(index)]
    return Listing(rows, read_meta(index)[1], f"prepared from {index}")


def _summarize(
    index: Path, new: Path, names: dict[str, str], kept: int | None, part: Part | None
) -> PrepareSummary:
    """Summary of a part, or of all; `kept` is None if everything was done by earlier calls."""
    failures: dict[str, str] = {}
    other_frames: dict[str, tuple[int, int]] = {}
    videos, before, after, seconds = 0, 0, 0, 0.0
    for old_row, new_row in row_pairs(_rows(index, names, part), read_rows(new)):
        videos += 1
        if new_row.status != "ok":
            failures[old_row.path] = _failure(new_row)
            continue
        before, after = before + old_row.bytes, after + new_row.bytes
        seconds += new_row.seconds
        if old_row.frames != new_row.frames:
            other_frames[old_row.path] = (old_row.frames, new_row.frames)
    kept = videos - len(failures) if kept is None else kept
    return PrepareSummary(new, videos, kept, failures, other_frames, before, after, seconds)


def _failure(row: IndexRow) -> str:
    """Reason why there is no new file, or why it is of no use."""
    if not row.reason.startswith(_NOT_PREPARED):
        return row.reason
    return row.reason.removeprefix(_NOT_PREPARED).rpartition("; ")[0]  # the last is the probe's


def row_pairs(
    old_rows: Iterable[IndexRow], new_rows: Iterable[IndexRow]
) -> Iterator[tuple[IndexRow, IndexRow]]:
    """Pairs of old and new row of every video that is usable in the old index, once each."""
    seen: set[str] = set()
    for old_row, new_row in zip(old_rows, new_rows, strict=True):
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
