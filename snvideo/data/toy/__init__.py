"""Toy Kinetics: a small synthetic action data set, whose classes differ by motion alone.

It is laid out, named and annotated as Kinetics is, in H.264 files of varying size, length and rate.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from multiprocessing import set_forkserver_preload
from pathlib import Path
from typing import Any

import av

from snvideo.atomic import atomic_path, write_atomic
from snvideo.data.files import claim_folder
from snvideo.data.toy.rendering import CLASSES, VERSION, ToyClip, find_scene, render_clip, toy_entry
from snvideo.data.workers import WorkerPool
from snvideo.errors import SnvideoError

__all__ = ["CLASSES", "make_toy_kinetics", "render_clip", "toy_entry"]

Job = tuple[str, int]  # split and number of a video


def write_mp4(clip: ToyClip, path: Path) -> None:
    """Encode as web video usually is: H.264, 4:2:0, B-frames, a keyframe every 250 frames.

    The file appears under its name once it is whole. The same clip gives the same bytes.
    """
    with atomic_path(path) as part, av.open(part, "w", format="mp4") as file:
        stream = file.add_stream("libx264", rate=clip.fps)
        stream.height, stream.width = clip.frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        encoder = stream.codec_context
        encoder.thread_count = 1
        # Coarser, single frames show a trace of the motion. Macroblock trees coarsen the last ones,
        # and with x264's AVX-512 code they do not repeat, on one thread either.
        options = {"preset": "veryfast", "crf": "20", "g": "250", "x264-params": "mbtree=0"}
        encoder.options = options
        for frame in clip.frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode())


def make_toy_kinetics(
    out: Path,
    train: int = 1200,
    val: int = 240,
    difficulty: str = "easy",
    seed: int = 0,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    test: int = 0,
) -> int:
    """Make a data set: `out/<split>/<class>/<id>_<start>_<end>.mp4` and `out/<split>.csv`.

    Splits are `train` and `val`, and `test` if it is asked for. The CSVs are in Kinetics' own
    format and are written last. An interrupted run goes on where it stopped when it is called again
    with the same settings.

    Args:
        out: folder to fill; new, empty, or filled before with the same settings.
        train, val: number of training and of validation videos; classes take turns.
        difficulty: "easy", "medium" or "hard", see `render_clip`.
        seed: the same seed, the same videos.
        workers: processes; 0: this one; None: one a processor.
        progress: called with the number of videos done so far, kept ones included, and of all.
        test: number of test videos.

    Returns:
        Number of videos that were not there already.
    """
    find_scene(difficulty)
    wanted = {"train": train, "val": val, **({"test": test} if test else {})}
    settings = {"version": VERSION, "difficulty": difficulty, "seed": seed, **wanted}
    claim_folder(out, "toy.json", settings, {"test": 0})
    plan = {split: [toy_entry(seed, split, i) for i in range(n)] for split, n in wanted.items()}
    jobs = [
        (split, number)
        for split, entries in plan.items()
        for number, entry in enumerate(entries)
        if not (out / split / entry.path).exists()
    ]
    total = sum(wanted.values())
    kept = total - len(jobs)
    report = progress or (lambda done, total: None)
    report(kept, total)
    write = partial(_write_video, out, seed, difficulty)
    workers = min(os.cpu_count() or 1 if workers is None else workers, len(jobs))
    for done, _ in enumerate(_run(write, jobs, workers), start=kept + 1):
        report(done, total)
    for split, entries in plan.items():
        rows = ["label,youtube_id,time_start,time_end,split"]
        rows += [f"{CLASSES[e.label]},{e.youtube_id},{e.start},{e.end},{split}" for e in entries]
        write_atomic(out / f"{split}.csv", "\n".join(rows) + "\n")
    return len(jobs)


def _write_video(out: Path, seed: int, difficulty: str, job: Job) -> Iterator[None]:
    split, number = job
    path = out / split / toy_entry(seed, split, number).path
    write_mp4(render_clip(seed, split, number, difficulty), path)
    yield


def _run(work: Callable[[Job], Iterator[None]], jobs: list[Job], workers: int) -> Iterator[Any]:
    """Do all jobs, yielding after each."""
    if not workers:
        for job in jobs:
            yield from work(job)
        return
    # The fork of a process that has used torch's threads can hang, that of a fresh server cannot.
    set_forkserver_preload([__name__])
    with closing(WorkerPool(work, workers, 600, start_method="forkserver")) as pool:
        for (split, number), (_, failure) in zip(jobs, pool.run(jobs), strict=True):
            if failure is not None:
                raise SnvideoError(f"{split} video {number}: its process {failure}: call again")
            yield
