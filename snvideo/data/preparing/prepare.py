"""Re-encoding the videos of an index into a folder of their own, with an index of its own.

An output appears under its name when it is whole, so that a later call goes on where one stopped:
what is there, and not older than its source, is done.
"""

import json
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path, PurePath
from typing import Any

from snvideo.atomic import write_atomic
from snvideo.data.index import IndexRow, read_meta, read_rows
from snvideo.data.indexing.build import build
from snvideo.data.indexing.listing import Listing, Row
from snvideo.data.preparing.reencode import Job, Settings, Step, part_of, reencode
from snvideo.data.workers import Outcome, WorkerPool
from snvideo.errors import SnvideoError

OUTSIDE = "_outside"
"""Folder of the outputs of videos that lie outside the root, below it their whole path."""
NOTE = "prepare.json"
"""In the folder of the outputs: the settings, and what came of them."""


@dataclass(frozen=True)
class Prepared:
    """What came of preparing an index's videos; a video that has several rows counts once."""

    index: Path
    """Of the new files."""
    videos: int
    """That are usable in the old index."""
    kept: int
    """Found done from an earlier call."""
    failures: dict[str, str]
    """Path in the old index -> why there is no new file."""
    other_frames: dict[str, tuple[int, int]]
    """Path -> frames before and after, where they differ."""
    bytes_before: int
    """Of the sources of the new files."""
    bytes_after: int
    seconds: float
    """Length of the new files."""


def prepare(
    index: Path,
    out: Path,
    settings: Settings | None = None,
    *,
    workers: int = 1,
    limit: float = 120.0,
    progress: Callable[[str, int, int], None] | None = None,
) -> Prepared:
    """Re-encodes the usable videos of an index and writes the index of the new files.

    Rows keep their order, labels and splits. What cannot be prepared, or was not usable before, is
    `missing` in the new index, with the reason.

    Args:
        index: the CSV file.
        out: folder to fill; new, empty, or filled before with the same settings.
        settings: how to encode.
        workers: processes; each decodes and encodes one video at a time on one thread.
        limit: seconds without a sign of life after which a video is given up.
        progress: called with the step (`encode`, then `index`), how many videos are done, and of
            how many.

    Raises:
        SnvideoError: if the index cannot be read, `out` holds something else, nothing can be
            written there, or no video is usable afterwards.
    """
    settings = settings or Settings()
    say = progress or (lambda step, done, total: None)
    root = root_of(index)
    _claim(out, root, settings)
    names = output_names((row.path for row in read_rows(index)), root)
    jobs = {
        names[row.path]: Job(
            str(root / row.path),
            str((out / names[row.path]).absolute()),
            row.rotation,
            row.fps,
        )
        for row in read_rows(index)
        if row.status == "ok"
    }
    waiting = {name: job for name, job in jobs.items() if not _is_done(job)}
    kept = len(jobs) - len(waiting)
    say("encode", kept, len(jobs))
    reasons: dict[str, str] = {}
    outcomes = _reencode_all(waiting.values(), settings, min(workers, len(waiting) or 1), limit)
    with closing(outcomes):
        for done, (name, failure) in enumerate(zip(waiting, outcomes, strict=True), 1):
            if failure:
                reasons[name] = failure
            say("encode", kept + done, len(jobs))
    listing = _listing(index, names, reasons)
    new = out / "index.csv"
    build(
        listing,
        out,
        new,
        check="packets",
        workers=min(workers, len(listing.rows) or 1),
        limit=limit,
        progress=lambda done: say("index", done, len(listing.rows)),
    )
    return _compared(index, new, names, kept, reasons)


def root_of(index: Path) -> Path:
    """Absolute folder that an index's paths start from.

    Raises:
        SnvideoError: if it is not there.
    """
    root = Path(os.path.normpath((index.parent / read_meta(index)[0]).absolute()))
    if not root.is_dir():
        raise SnvideoError(f"index {index}: no video folder at {root}: mend root in its .json file")
    return root


def _claim(out: Path, root: Path, settings: Settings) -> None:
    """States root and settings in a new folder, or checks that they are those of an old one."""
    asked = {"root": str(root), **settings._asdict()}
    note = out / NOTE
    try:
        if note.exists():
            found = json.loads(note.read_text(encoding="utf-8"))["settings"]
            differing = [name for name in asked if found.get(name) != asked[name]]
            if differing:
                name = differing[0]
                raise SnvideoError(
                    f"{out}: was prepared with {name} {found.get(name)}, asked for {asked[name]}: "
                    "choose another folder, or delete this one"
                )
        elif out.exists() and any(out.iterdir()):
            raise SnvideoError(f"{out}: holds other files: give a new or an empty folder")
        else:
            write_atomic(note, json.dumps({"settings": asked}, indent=1) + "\n")
        for left in out.rglob(".*.part"):  # by a run that was killed
            left.unlink(missing_ok=True)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise SnvideoError(f"{note}: not written by this program: choose another folder") from None
    except OSError as error:
        raise SnvideoError(f"{out}: cannot be written: {error.strerror}") from None


def output_names(paths: Iterable[str], root: Path) -> dict[str, str]:
    """Where below the output folder each video's new file goes, a POSIX path ending in `.mp4`.

    Where two videos would get one name, both keep their own extension before it: `a.avi.mp4`.

    Args:
        paths: as in an index.
        root: absolute folder that they start from.

    Raises:
        SnvideoError: if that does not help.
    """
    files = {path: PurePath(os.path.normpath(root / path)) for path in paths}
    places = {file: _place(file, root) for file in files.values()}
    names = {file: place.with_suffix(".mp4") for file, place in places.items()}
    while repeated := {name for name, number in Counter(names.values()).items() if number > 1}:
        longer = {
            file: places[file].with_name(f"{file.name}.mp4")
            for file, name in names.items()
            if name in repeated and name.name != f"{file.name}.mp4"
        }
        if not longer:
            raise SnvideoError(f"videos {root}: two would become {min(repeated)}: rename one")
        names |= longer
    return {path: names[file].as_posix() for path, file in files.items()}


def _place(file: PurePath, root: PurePath) -> PurePath:
    """A video's place as seen from the root, in `OUTSIDE` if it is not below it."""
    if file.is_relative_to(root):
        return file.relative_to(root)
    return PurePath(OUTSIDE, *file.parts[1:])


def _is_done(job: Job) -> bool:
    """Whether the output is there and not older than its source, which may be gone by now."""
    try:
        made = Path(job.output).stat().st_mtime_ns
    except OSError:
        return False
    try:
        return Path(job.source).stat().st_mtime_ns <= made
    except OSError:
        return True


def _reencode_all(
    jobs: Iterable[Job], settings: Settings, workers: int, limit: float
) -> Iterator[str]:
    """Re-encodes videos; yields, in their order, why there is no new file, or nothing.

    Raises:
        SnvideoError: if nothing can be written.
    """
    left, run = deque(jobs), os.getpid()
    function = partial(reencode, settings=settings, run=run)
    pool = WorkerPool(function, workers, limit, ahead=1, window=100 * workers, quiet=True)
    try:
        with closing(pool):
            for outcome in pool.run(tuple(left)):
                step = _last_step(outcome)
                if step.state == "unwritable":
                    raise SnvideoError(
                        f"{left[0].output}: cannot be written: {step.reason}: "
                        "mend that, and call again to go on"
                    )
                job = left.popleft()
                if step.state != "done":
                    _remove(part_of(Path(job.output), run))
                    _remove(Path(job.output))  # of an earlier call, it shows an older source
                yield step.reason
    finally:
        for job in left:  # some were being written
            _remove(part_of(Path(job.output), run))


def _remove(path: Path) -> None:
    with suppress(OSError):  # not there, or no such name can be
        path.unlink()


def _last_step(outcome: Outcome) -> Step:
    if outcome.failure is not None:
        return Step("failed", outcome.failure)
    return outcome.answer


def _listing(index: Path, names: dict[str, str], reasons: dict[str, str]) -> Listing:
    """What the new index is to hold, row for row as the old one."""

    def note(row: IndexRow) -> str:
        if row.status != "ok":
            return f"source {row.status}: {row.reason}"
        failure = reasons.get(names[row.path])
        return f"not prepared: {failure}" if failure else row.reason

    rows = [
        Row(names[row.path], row.label, row.split, row.start, row.end, note(row))
        for row in read_rows(index)
    ]
    return Listing(rows, read_meta(index)[1], f"prepared from {index}")


def _compared(
    index: Path, new: Path, names: dict[str, str], kept: int, reasons: dict[str, str]
) -> Prepared:
    """Old and new index side by side."""
    failures: dict[str, str] = {}
    other_frames: dict[str, tuple[int, int]] = {}
    videos, before, after, seconds = 0, 0, 0, 0.0
    for old_row, new_row in pairs(index, new):
        videos += 1
        if new_row.status != "ok":
            failures[old_row.path] = reasons.get(names[old_row.path], new_row.reason)
            continue
        before, after = before + old_row.bytes, after + new_row.bytes
        seconds += new_row.seconds
        if old_row.frames != new_row.frames:
            other_frames[old_row.path] = (old_row.frames, new_row.frames)
    return Prepared(new, videos, kept, failures, other_frames, before, after, seconds)


def pairs(index: Path, new: Path) -> Iterator[tuple[IndexRow, IndexRow]]:
    """Rows of the old and the new index of every video that is usable in the old one, once each."""
    seen: set[str] = set()
    for old_row, new_row in zip(read_rows(index), read_rows(new), strict=True):
        if old_row.status == "ok" and new_row.path not in seen:
            seen.add(new_row.path)
            yield old_row, new_row


def record(prepared: Prepared, compared: dict[str, Any] | None) -> None:
    """Adds to `prepare.json` what came of a run, and what it costs and gains if that was measured.

    Raises:
        SnvideoError: if it cannot be written.
    """
    note = prepared.index.with_name(NOTE)
    facts = json.loads(note.read_text(encoding="utf-8"))
    result = {**asdict(prepared), "index": prepared.index.name}
    facts |= {"result": result, "sample": compared}
    try:
        write_atomic(note, json.dumps(facts, indent=1) + "\n")
    except OSError as error:
        raise SnvideoError(f"{note}: cannot be written: {error.strerror}") from None
