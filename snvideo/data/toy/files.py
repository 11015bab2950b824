"""Toy Kinetics on disk: mp4 files, annotations, and runs that can be interrupted."""

import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import closing
from functools import partial
from multiprocessing import get_all_start_methods, get_context
from pathlib import Path

import av

from snvideo.data.toy.drawing import (
    CLASSES,
    VERSION,
    ToyClip,
    ToyEntry,
    draw_clip,
    scene_of,
    toy_entry,
)
from snvideo.errors import SnvideoError


def write_mp4(clip: ToyClip, path: Path) -> None:
    """Encode as web video usually is: H.264, 4:2:0, B-frames, a keyframe every 250 frames.

    The file appears under its name once it is whole. The same clip gives the same bytes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    with av.open(part, "w", format="mp4") as file:
        stream = file.add_stream("libx264", rate=clip.fps)
        stream.height, stream.width = clip.frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        # Coarser, single frames show a trace of the motion. Macroblock trees would coarsen the last
        # ones, and with x264's AVX-512 code they do not repeat, on one thread either.
        stream.codec_context.options = {
            "preset": "veryfast",
            "crf": "20",
            "g": "250",
            "x264-params": "mbtree=0",
        }
        for frame in clip.frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode())
    part.replace(path)


def make_toy_kinetics(
    out: Path,
    train: int = 1200,
    val: int = 240,
    difficulty: str = "easy",
    seed: int = 0,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Draw a data set: `out/{train,val}/<class>/<id>_<start>_<end>.mp4`, `out/{train,val}.csv`.

    The CSVs are in Kinetics' own format and are written last. Called again with the same settings
    it keeps the videos that are there, so an interrupted run goes on where it stopped.

    Args:
        out: folder to fill; new, empty, or filled before with the same settings.
        train: number of training videos; classes take turns.
        val: number of validation videos.
        difficulty: "easy", "medium" or "hard", see `draw_clip`.
        seed: the same seed, the same videos.
        workers: processes to draw in; 0: in this one; None: one a processor. Has no influence on
            what is drawn. (As always with processes, a script that calls this guards its entry with
            `if __name__ == "__main__"`.)
        progress: called with the number of videos done so far, kept ones included, and of all.

    Returns:
        How many videos were drawn; the others were there already.

    Raises:
        SnvideoError: the difficulty has no such name, or `out` holds something else.
    """
    scene_of(difficulty)
    wanted = {"train": train, "val": val}
    _claim(out, {"version": VERSION, "difficulty": difficulty, "seed": seed, **wanted})
    plan = {split: [toy_entry(seed, split, i) for i in range(n)] for split, n in wanted.items()}
    jobs = [
        (split, number)
        for split, entries in plan.items()
        for number, entry in enumerate(entries)
        if not (out / split / entry.path).exists()
    ]
    total = train + val
    kept = total - len(jobs)
    if progress:
        progress(kept, total)
    draw = partial(_draw_file, out, seed, difficulty)
    with closing(_run(draw, jobs, workers)) as steps:
        for done, _ in enumerate(steps, start=kept + 1):
            if progress:
                progress(done, total)
    for split, entries in plan.items():
        _write_annotation(out / f"{split}.csv", split, entries)
    return len(jobs)


def _claim(out: Path, settings: dict[str, int | str]) -> None:
    """Write the settings into a new folder, or check that they are those of an old one."""
    note = out / "toy.json"
    if note.exists():
        found = json.loads(note.read_text())
        if found != settings:
            raise SnvideoError(
                f"{out}: holds a toy set of other settings ({_spell(found)}; asked for "
                f"{_spell(settings)}): give another folder, or delete this one"
            )
    elif out.exists() and any(path.suffix != ".part" for path in out.iterdir()):
        raise SnvideoError(f"{out}: holds files that are no toy set: give a new or an empty folder")
    else:
        out.mkdir(parents=True, exist_ok=True)
        _write_text(note, json.dumps(settings, indent=2) + "\n")


def _spell(settings: dict[str, int | str]) -> str:
    return ", ".join(f"{key} {value}" for key, value in settings.items())


def _draw_file(out: Path, seed: int, difficulty: str, job: tuple[str, int]) -> None:
    split, number = job
    path = out / split / toy_entry(seed, split, number).path
    write_mp4(draw_clip(seed, split, number, difficulty), path)


def _run(work: Callable, jobs: list, workers: int | None) -> Iterator[None]:
    """Do all jobs, yielding after each; an interrupt drops those not begun."""
    workers = min(os.cpu_count() or 1 if workers is None else workers, len(jobs))
    if workers < 1:
        yield from map(work, jobs)
        return
    # The fork of a process that has used torch's threads can hang, that of a fresh server cannot.
    context = get_context("forkserver" if "forkserver" in get_all_start_methods() else "spawn")
    context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(workers, context) as pool:
        try:
            for future in as_completed([pool.submit(work, job) for job in jobs]):
                yield future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _write_annotation(path: Path, split: str, entries: list[ToyEntry]) -> None:
    rows = ["label,youtube_id,time_start,time_end,split"]
    rows += [f"{CLASSES[e.label]},{e.youtube_id},{e.start},{e.end},{split}" for e in entries]
    _write_text(path, "\n".join(rows) + "\n")


def _write_text(path: Path, text: str) -> None:
    """Write under a temporary name and rename, so the file is whole or not there."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(text)
    part.replace(path)
