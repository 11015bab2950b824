"""Commands that write videos: re-encode those of an index, and draw a toy data set."""

import os
import time
from pathlib import Path
from typing import Annotated, Literal

import typer

from snvideo.cli.options import Merge, PartOf, Ray, Timeout, Workers

Preset = Literal["ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower"]
_WORKERS = os.cpu_count() or 1


def prepare(
    index: Annotated[Path, typer.Argument(help="The index of the videos, a .csv.")],
    out: Annotated[Path, typer.Argument(help="Folder for the new videos and their index.")],
    short_side: Annotated[int, typer.Option(min=16, help="Pixels at most; none grows.")] = 256,
    keyframes: Annotated[
        int, typer.Option(min=1, help="Frames from one key frame to the next.")
    ] = 16,
    crf: Annotated[int, typer.Option(min=0, max=51, help="Of x264: lower is better.")] = 20,
    preset: Annotated[Preset, typer.Option(help="Of x264: slower makes files smaller.")] = "fast",
    workers: Workers = _WORKERS,
    timeout: Timeout = 120.0,
    sample: Annotated[
        int, typer.Option(min=0, help="Videos to compare with their sources; 0: none.")
    ] = 50,
    ray: Ray = None,
    part: PartOf = None,
    merge: Merge = False,
) -> None:
    """Re-encode the videos of INDEX into OUT for training; called again, go on where it stopped.

    OUT/index.csv is the index of the new files, OUT/prepare.json the record.
    """
    from dataclasses import asdict
    from itertools import count

    from snvideo.data.indexing.parts import Part
    from snvideo.data.preparing import comparison
    from snvideo.data.preparing import prepare as preparing
    from snvideo.data.preparing.reencode import EncoderSettings
    from snvideo.report.console import progress
    from snvideo.report.preparation import print_preparation

    begun = time.monotonic()
    settings = EncoderSettings(short_side, keyframes, crf, preset)
    with progress() as show:
        if merge:
            prepared = preparing.merge_prepared(index, out, settings)
        else:
            prepared = preparing.prepare_videos(
                index,
                out,
                settings,
                part=None if part is None else Part.parse(part),
                workers=workers,
                timeout=timeout,
                ray=ray,
                progress=show,
            )
        # Quality is that of all parts, and measured when they are put together.
        chosen = [] if part else comparison.sample_pairs(prepared, index, sample)
        done = count(1)
        compared = comparison.compare_videos(
            chosen,
            preparing.video_root(index),
            out,
            short_side,
            timeout=timeout,
            progress=lambda: show("compare", next(done), len(chosen)),
        )
    if part is None:
        preparing.write_record(prepared, None if compared is None else asdict(compared))
    print_preparation(prepared, compared, time.monotonic() - begun)


def toy(
    out: Annotated[Path, typer.Argument(help="Folder to fill.")],
    train: Annotated[int, typer.Option(min=0, help="Number of training videos.")] = 1200,
    val: Annotated[int, typer.Option(min=0, help="Number of validation videos.")] = 240,
    test: Annotated[int, typer.Option(min=0, help="Number of test videos.")] = 0,
    difficulty: Annotated[str, typer.Option(help="easy | medium | hard | mixed")] = "easy",
    seed: Annotated[int, typer.Option(min=0, help="The same seed, the same videos.")] = 0,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Processes; 0: this one. Default: one a processor.")
    ] = None,
) -> None:
    """Draw a toy Kinetics into OUT: eight classes of motion as H.264 files, with annotation CSVs.

    Called again, go on where it stopped.
    """
    from functools import partial

    from snvideo.data.toy import CLASSES, make_toy_kinetics
    from snvideo.report.console import progress

    begun = time.monotonic()
    with progress() as show:
        drawn = make_toy_kinetics(
            out, train, val, difficulty, seed, workers, partial(show, "drawing"), test
        )
    megabytes = sum(file.stat().st_size for file in out.rglob("*.mp4")) / 1e6
    splits = f"{train} train, {val} val and {test} test" if test else f"{train} train and {val} val"
    typer.echo(
        f"{out}: {splits} videos of {len(CLASSES)} classes, {megabytes:.0f} MB; "
        f"drew {drawn} in {time.monotonic() - begun:.0f} s, kept {train + val + test - drawn}"
    )
