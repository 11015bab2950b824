"""Commands that write videos: re-encode those of an index, and draw a toy data set."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from snvideo.data.preparing.comparison import Comparison
    from snvideo.data.preparing.prepare import PrepareSummary

Preset = Literal["ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower"]


def prepare(
    index: Annotated[Path, typer.Argument(help="The index of the videos, a .csv.")],
    out: Annotated[Path, typer.Argument(help="Folder for the new videos and their index.")],
    short_side: Annotated[int, typer.Option(min=16, help="Pixels at most; none grows.")] = 256,
    keyframes: Annotated[
        int, typer.Option(min=1, help="Frames from one key frame to the next.")
    ] = 16,
    crf: Annotated[int, typer.Option(min=0, max=51, help="Of x264: lower is better.")] = 20,
    preset: Annotated[Preset, typer.Option(help="Of x264: slower makes files smaller.")] = "fast",
    workers: Annotated[
        int, typer.Option(min=1, help="Processes; each works on one video, on one thread.")
    ] = os.cpu_count() or 1,
    timeout: Annotated[
        float,
        typer.Option(
            "--timeout",
            "--limit",
            min=1,
            help="Seconds without progress before giving a video up.",
        ),
    ] = 120.0,
    sample: Annotated[
        int, typer.Option(min=0, help="Videos to compare with their sources; 0: none.")
    ] = 50,
) -> None:
    """Re-encode the videos of INDEX into OUT for training; called again, go on where it stopped.

    OUT/index.csv is the index of the new files, OUT/prepare.json says what came of it.
    """
    from dataclasses import asdict
    from itertools import count

    from snvideo.data.preparing import comparison
    from snvideo.data.preparing import prepare as preparing
    from snvideo.data.preparing.reencode import EncoderSettings
    from snvideo.report.console import progress

    begun = time.monotonic()
    settings = EncoderSettings(short_side, keyframes, crf, preset)
    with progress() as show:
        prepared = preparing.prepare_videos(
            index, out, settings, workers=workers, timeout=timeout, progress=show
        )
        chosen = comparison.sample_pairs(prepared, index, sample)
        done = count(1)
        compared = comparison.compare_videos(
            chosen,
            preparing.video_root(index),
            out,
            short_side,
            timeout=timeout,
            progress=lambda: show("compare", next(done), len(chosen)),
        )
    preparing.write_record(prepared, compared and asdict(compared))
    _report(prepared, compared, time.monotonic() - begun)


def toy(
    out: Annotated[Path, typer.Argument(help="Folder to fill.")],
    train: Annotated[int, typer.Option(min=0, help="Number of training videos.")] = 1200,
    val: Annotated[int, typer.Option(min=0, help="Number of validation videos.")] = 240,
    difficulty: Annotated[str, typer.Option(help="easy | medium | hard")] = "easy",
    seed: Annotated[int, typer.Option(min=0, help="The same seed, the same videos.")] = 0,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Processes; 0: this one. Default: one a processor.")
    ] = None,
) -> None:
    """Draw a toy Kinetics into OUT: eight classes of motion as H.264 files, with annotation CSVs.

    Called again, go on where it stopped.
    """
    from snvideo.data.toy import CLASSES, make_toy_kinetics
    from snvideo.report.console import progress

    begun = time.monotonic()
    with progress() as show:
        drawn = make_toy_kinetics(
            out,
            train,
            val,
            difficulty,
            seed,
            workers,
            progress=lambda done, total: show("drawing", done, total),
        )
    megabytes = sum(file.stat().st_size for file in out.rglob("*.mp4")) / 1e6
    typer.echo(
        f"{out}: {train} train and {val} val videos of {len(CLASSES)} classes, {megabytes:.0f} MB; "
        f"drew {drawn} in {time.monotonic() - begun:.0f} s, kept {train + val - drawn}"
    )


def _report(prepared: PrepareSummary, compared: Comparison | None, seconds: float) -> None:
    from rich.filesize import decimal

    from snvideo.report.console import console, new_table

    made = prepared.videos - len(prepared.failures)
    before, after = decimal(prepared.bytes_before), decimal(prepared.bytes_after)
    sizes = new_table("", "before", "after")
    sizes.add_row("videos", str(prepared.videos), str(made))
    sizes.add_row("size of what is in both", before, after)
    tables = [sizes]
    if compared is not None:
        times = (compared.milliseconds_before, compared.milliseconds_after)
        sizes.add_row("CPU per clip of 8 x 8", *(f"{time:.1f} ms" for time in times))
        likeness = new_table(f"{compared.videos} videos, frame by frame", "median", "5 % are below")
        for what, found, digits in (
            ("PSNR of luma, dB", compared.psnr_luma, 1),
            ("PSNR of RGB, dB", compared.psnr_rgb, 1),
            ("SSIM of luma", compared.ssim, 3),
        ):
            likeness.add_row(what, *(f"{value:.{digits}f}" for value in found))
        tables.append(likeness)
    if prepared.failures:
        tables.append(_failures(prepared.failures))
    for table in tables:
        console().print(table)
    kept = f" ({prepared.kept} found done)" if prepared.kept else ""
    lost = f"; warning: {len(prepared.failures)} could not be prepared" if prepared.failures else ""
    other = f"; warning: {len(prepared.other_frames)} have another number of frames than before"
    typer.echo(
        f"{prepared.index}: {made} of {prepared.videos} videos{kept}, "
        f"{prepared.seconds / 3600:.2f} hours, {before} -> {after}, in {seconds:.0f} s"
        f"{lost}{other if prepared.other_frames else ''}"
    )


def _failures(failures: dict[str, str]) -> Table:
    from collections import Counter

    from rich.markup import escape

    from snvideo.report.console import new_table

    examples = {reason: path for path, reason in reversed(failures.items())}
    table = new_table("not prepared because", "for example", "videos", text=2)
    for reason, number in Counter(failures.values()).most_common():
        example = os.fsencode(examples[reason]).decode(errors="replace")  # may be no UTF-8
        table.add_row(escape(reason), escape(example), str(number))
    return table
