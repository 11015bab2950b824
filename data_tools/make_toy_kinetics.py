"""Draw a toy Kinetics: eight classes of motion as real H.264 files, with annotation CSVs.

Example: python data_tools/make_toy_kinetics.py data/toy --train 1200 --val 240 --difficulty easy
"""

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TimeRemainingColumn,
)

from snvideo.data.toy import CLASSES, DIFFICULTIES, make_toy_kinetics
from snvideo.errors import SnvideoError


class Rate(ProgressColumn):
    """Videos per second."""

    def render(self, task: Task) -> str:
        return f"{task.speed:.0f} videos/s" if task.speed else ""


def main(
    out: Annotated[Path, typer.Argument(help="Folder to fill.")],
    train: Annotated[int, typer.Option(min=0, help="Number of training videos.")] = 1200,
    val: Annotated[int, typer.Option(min=0, help="Number of validation videos.")] = 240,
    difficulty: Annotated[str, typer.Option(help=" | ".join(DIFFICULTIES))] = "easy",
    seed: Annotated[int, typer.Option(min=0, help="The same seed, the same videos.")] = 0,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Processes; 0: this one. Default: one a processor.")
    ] = None,
) -> None:
    """Draw a toy Kinetics into OUT; called again, go on where it stopped."""
    began = time.perf_counter()
    try:
        with Progress(
            "drawing", BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn()
        ) as bar:
            task = bar.add_task("drawing", visible=False)
            drawn = make_toy_kinetics(
                out,
                train,
                val,
                difficulty,
                seed,
                workers,
                progress=lambda done, total: bar.update(
                    task, completed=done, total=total, visible=True
                ),
            )
    except SnvideoError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
    megabytes = sum(file.stat().st_size for file in out.rglob("*.mp4")) / 1e6
    typer.echo(
        f"{out}: {train} train and {val} val videos of {len(CLASSES)} classes, {megabytes:.0f} MB; "
        f"drew {drawn} in {time.perf_counter() - began:.0f} s, kept {train + val - drawn}"
    )


if __name__ == "__main__":
    typer.run(main)
