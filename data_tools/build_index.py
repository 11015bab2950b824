"""Builds a clip index from Kinetics annotations, class folders, or lists of paths and labels.

Interrupted, the same command goes on where it stopped.

python data_tools/build_index.py kinetics VIDEOS --csv train.csv --csv val.csv --out index.csv
python data_tools/build_index.py folders VIDEOS --out index.csv
python data_tools/build_index.py list VIDEOS --train train.csv --val val.csv --out index.csv
"""

import os
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from snvideo.data.indexing import sources
from snvideo.data.indexing.build import Summary, build
from snvideo.data.indexing.listing import Listing, read_labels
from snvideo.errors import SnvideoError

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False, rich_markup_mode=None)

Videos = Annotated[Path, typer.Argument(help="Folder of the videos; the index's paths start here.")]
Out = Annotated[Path, typer.Option(help="The index to write, a .csv; a .json goes beside it.")]
Labels = Annotated[
    Path | None, typer.Option(help="Label names, one a line, in the order of their ids.")
]
Check = Annotated[
    Literal["header", "packets", "decode"],
    typer.Option(
        help="header: believe the headers of MP4 files; quick. packets: read every file. decode: "
        "also decode every frame and compare decoders; slow, and finds damage inside files."
    ),
]
Workers = Annotated[int, typer.Option(min=1, help="Processes that look into files.")]
Limit = Annotated[float, typer.Option(min=1, help="Seconds before a stuck file is given up.")]
_WORKERS = os.cpu_count() or 1


@app.command()
def kinetics(
    videos: Videos,
    csv: Annotated[list[Path], typer.Option(help="Annotation file; give all that you want.")],
    out: Out,
    labels: Labels = None,
    check: Check = "packets",
    workers: Workers = _WORKERS,
    limit: Limit = 120.0,
) -> None:
    """Kinetics 400, 600 or 700: annotation CSVs and a folder of clips, flat or in folders."""
    listing = sources.kinetics(csv, videos, _names(labels))
    _run(listing, videos, out, check, workers, limit)


@app.command()
def folders(
    videos: Videos,
    out: Out,
    split: Annotated[str, typer.Option(help="Split of folders that name none.")] = "train",
    val_fraction: Annotated[
        float, typer.Option(min=0, max=1, help="Part of these videos that becomes split val.")
    ] = 0.0,
    labels: Labels = None,
    check: Check = "packets",
    workers: Workers = _WORKERS,
    limit: Limit = 120.0,
) -> None:
    """Class folders: VIDEOS/<split>/<class>/* or VIDEOS/<class>/*."""
    listing = sources.folders(videos, split, val_fraction, _names(labels))
    _run(listing, videos, out, check, workers, limit)


@app.command("list")
def lists(
    videos: Videos,
    out: Out,
    train: Annotated[Path | None, typer.Option(help="List of the split train.")] = None,
    val: Annotated[Path | None, typer.Option(help="List of the split val.")] = None,
    test: Annotated[Path | None, typer.Option(help="List of the split test.")] = None,
    labels: Labels = None,
    check: Check = "packets",
    workers: Workers = _WORKERS,
    limit: Limit = 120.0,
) -> None:
    """Lists of PySlowFast and mmaction2: a path and a label id a line, space or comma between."""
    given = {"train": train, "val": val, "test": test}
    files = {split: file for split, file in given.items() if file is not None}
    if not files:
        raise SnvideoError("no list given: add --train FILE, --val FILE or --test FILE")
    _run(sources.lists(files, videos, _names(labels)), videos, out, check, workers, limit)


def _names(labels: Path | None) -> list[str] | None:
    return None if labels is None else read_labels(labels)


class _Rate(ProgressColumn):
    """Videos a second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.finished_speed or task.speed or 0:.0f}/s")


def _run(listing: Listing, videos: Path, out: Path, check: str, workers: int, limit: float) -> None:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(check, total=len(listing.rows))

        def show(done: int) -> None:
            if progress.tasks[task].completed:
                progress.update(task, completed=done)
            else:  # what an earlier call has done does not count for the rate
                progress.reset(task, completed=done)

        summary = build(
            listing,
            videos,
            out,
            check=check,
            workers=min(workers, len(listing.rows) or 1),
            limit=limit,
            progress=show,
        )
    _report(summary, listing, out)


def _report(summary: Summary, listing: Listing, out: Path) -> None:
    console = Console()
    table = Table("split", "ok", "missing", "broken")
    for split, counts in summary.counts.items():
        table.add_row(split, *(str(counts[status]) for status in ("ok", "missing", "broken")))
    console.print(table)
    reasons = Table("status", "reason", "videos")
    for status, found in summary.reasons.items():
        for reason, number in found.items():
            reasons.add_row(status, reason, str(number))
    for why, number in summary.skipped.items():
        reasons.add_row("skipped", why, str(number))
    if reasons.row_count:
        console.print(reasons)
    lost = summary.total("missing") + summary.total("broken")
    warning = f"; warning: {lost} missing or broken, left out of training" if lost else ""
    console.print(
        f"{out}: {summary.total('ok')} videos in {len(listing.labels)} classes{warning}",
        highlight=False,
        soft_wrap=True,
    )


def main() -> None:
    try:
        app()
    except SnvideoError as error:
        Console(stderr=True).print(f"error: {error}", markup=False, highlight=False, soft_wrap=True)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
