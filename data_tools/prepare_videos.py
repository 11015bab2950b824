"""Re-encodes the videos of an index for training: small pictures, key frames close together.

python data_tools/prepare_videos.py INDEX.csv OUT_FOLDER
"""

import os
import time
from collections import Counter
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from snvideo.data.preparing.comparison import Comparison, compare, spread_evenly
from snvideo.data.preparing.prepare import Prepared, prepare, record, root_of
from snvideo.data.preparing.reencode import PRESETS, Settings
from snvideo.errors import SnvideoError

app = typer.Typer(add_completion=False, rich_markup_mode=None)


class _Rate(ProgressColumn):
    """Videos a second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.finished_speed or task.speed or 0:.1f}/s")


@app.command()
def main(
    index: Annotated[Path, typer.Argument(help="The index of the videos, a .csv.")],
    out: Annotated[Path, typer.Argument(help="Folder for the new videos and their index.")],
    short_side: Annotated[int, typer.Option(min=16, help="Pixels at most; none grows.")] = 256,
    keyframes: Annotated[
        int, typer.Option(min=1, help="Frames from one key frame to the next.")
    ] = 16,
    crf: Annotated[int, typer.Option(min=0, max=51, help="Of x264: lower is better.")] = 20,
    preset: Annotated[
        Literal[PRESETS], typer.Option(help="Of x264: slower makes files smaller.")
    ] = "fast",
    workers: Annotated[
        int, typer.Option(min=1, help="Processes; each works on one video, on one thread.")
    ] = os.cpu_count() or 1,
    limit: Annotated[
        float, typer.Option(min=1, help="Seconds without progress before a video is given up.")
    ] = 120.0,
    sample: Annotated[
        int, typer.Option(min=0, help="Videos to compare with their sources; 0: none.")
    ] = 50,
) -> None:
    """Re-encode the videos of INDEX into OUT for training; called again, go on where it stopped.

    OUT/index.csv is the index of the new files, OUT/prepare.json says what came of it.
    """
    begun = time.monotonic()
    settings = Settings(short_side, keyframes, crf, preset)
    with _Bars() as bars:
        prepared = prepare(index, out, settings, workers=workers, limit=limit, progress=bars.show)
        chosen = spread_evenly(prepared, index, sample)
        done = count(1)
        compared = compare(
            chosen,
            root_of(index),
            out,
            short_side,
            limit=limit,
            progress=lambda: bars.show("compare", next(done), len(chosen)),
        )
    record(prepared, compared and asdict(compared))
    _report(prepared, compared, time.monotonic() - begun)


class _Bars:
    """A bar for every step of the work, from when it begins."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=Console(stderr=True),
        )
        self._steps: dict[str, TaskID] = {}

    def show(self, step: str, done: int, total: int) -> None:
        self._progress.start()
        if step not in self._steps:
            self._steps[step] = self._progress.add_task(step, total=total)
        self._progress.update(self._steps[step], completed=done)

    def __enter__(self) -> "_Bars":
        return self

    def __exit__(self, *error: object) -> None:
        if self._steps:  # else nothing was shown, and an error comes alone
            self._progress.stop()


def _report(prepared: Prepared, compared: Comparison | None, seconds: float) -> None:
    console = Console()
    made = prepared.videos - len(prepared.failures)
    before, after = decimal(prepared.bytes_before), decimal(prepared.bytes_after)
    table = Table("", "before", "after")
    table.add_row("videos", str(prepared.videos), str(made))
    table.add_row("size of what is in both", before, after)
    if compared is not None:
        times = (compared.milliseconds_before, compared.milliseconds_after)
        table.add_row("CPU per clip of 8 x 8", *(f"{time:.1f} ms" for time in times))
    console.print(table)
    if compared is not None:
        console.print(_likeness(compared))
    if prepared.failures:
        console.print(_failures(prepared.failures))
    kept = f" ({prepared.kept} found done)" if prepared.kept else ""
    lost = f"; warning: {len(prepared.failures)} could not be prepared" if prepared.failures else ""
    other = f"; warning: {len(prepared.other_frames)} have another number of frames than before"
    console.print(
        f"{prepared.index}: {made} of {prepared.videos} videos{kept}, "
        f"{prepared.seconds / 3600:.2f} hours, {before} -> {after}, in {seconds:.0f} s"
        f"{lost}{other if prepared.other_frames else ''}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def _likeness(compared: Comparison) -> Table:
    table = Table(f"{compared.videos} videos, frame by frame", "median", "5 % are below")
    for what, found, digits in (
        ("PSNR of luma, dB", compared.psnr_luma, 1),
        ("PSNR of RGB, dB", compared.psnr_rgb, 1),
        ("SSIM of luma", compared.ssim, 3),
    ):
        table.add_row(what, *(f"{value:.{digits}f}" for value in found))
    return table


def _failures(failures: dict[str, str]) -> Table:
    examples = {reason: path for path, reason in reversed(failures.items())}
    table = Table("not prepared because", "videos", "for example")
    for reason, number in Counter(failures.values()).most_common():
        table.add_row(escape(reason), str(number), escape(_printable(examples[reason])))
    return table


def _printable(text: str) -> str:
    """Text whose file names may hold bytes that are no UTF-8."""
    return os.fsencode(text).decode(errors="replace")


if __name__ == "__main__":
    try:
        app()
    except SnvideoError as error:
        text = f"error: {_printable(str(error))}"
        Console(stderr=True).print(text, markup=False, highlight=False, soft_wrap=True)
        raise SystemExit(2) from None
