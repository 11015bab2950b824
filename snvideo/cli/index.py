"""Commands on clip indexes: build one, report what one holds, compare two."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from snvideo.cli.options import Fps, Merge, PartOf, Ray, Timeout, Workers
from snvideo.data.image_sequences import FPS
from snvideo.data.remote import Place, as_place
from snvideo.errors import SnvideoError

if TYPE_CHECKING:
    from snvideo.data.indexing.listing import Listing


class _Index(TyperGroup):
    """`snvideo index FILE` is short for `snvideo index report FILE`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse arguments, those of `report` where no command is named."""
        if args and args[0] not in (*self.commands, "--help"):
            args = ["report", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(help="Build a clip index, report what one holds, or compare two.", cls=_Index)
build_app = typer.Typer(
    help="Build a clip index from Kinetics annotations, class folders, or lists of paths and "
    "labels. Interrupted, the same command goes on where it stopped.",
    no_args_is_help=True,
)
app.add_typer(build_app, name="build")

Videos = Annotated[
    Path,  # or a `RemotePath`, which typer need not know
    typer.Argument(
        help="Folder of the videos, or its URL; the index's paths start here.", parser=as_place
    ),
]
Out = Annotated[Path, typer.Option(help="The index to write, a .csv; a .json goes beside it.")]
Labels = Annotated[
    Path | None, typer.Option(help="Label names, one a line, in the order of their ids.")
]
MultiLabel = Annotated[
    bool,
    typer.Option(
        "--multi-label", help="Videos may have several labels: 'path 3 7', 'dancing;singing'."
    ),
]
Check = Annotated[
    Literal["header", "packets", "decode"],
    typer.Option(
        help="header: believe the headers of MP4 files; quick. packets: read every file. decode: "
        "also decode every frame and compare decoders; slow, and finds damage inside files."
    ),
]
ValFraction = Annotated[
    float, typer.Option(min=0, max=0.9, help="Part of each class's videos to move to split val.")
]
GroupBy = Annotated[
    str | None,
    typer.Option(
        help="Keeps videos together that are cut from one: a column of annotations, as youtube_id, "
        "or a pattern in paths, as 'v_.+_g[0-9]+'. Warns of those in several splits."
    ),
]
WORKERS = os.cpu_count() or 1


@build_app.command()
def kinetics(
    videos: Videos,
    csv: Annotated[list[Path], typer.Option(help="Annotation file; give all that you want.")],
    out: Out,
    labels: Labels = None,
    multi_label: MultiLabel = False,
    val_fraction: ValFraction = 0.0,
    group_by: GroupBy = None,
    check: Check = "packets",
    workers: Workers = WORKERS,
    timeout: Timeout = 120.0,
    fps: Fps = FPS,
    ray: Ray = None,
    part: PartOf = None,
    merge: Merge = False,
) -> None:
    """Kinetics 400, 600 or 700: annotation CSVs and a folder of clips, flat or in folders."""
    from snvideo.data.indexing import sources

    listing = sources.read_kinetics(csv, videos, _names(labels), multi_label, group_by)
    listing = _split(listing, val_fraction, group_by)
    write_listing(listing.at_rate(fps), videos, out, check, workers, timeout, ray, part, merge)


@build_app.command()
def folders(
    videos: Videos,
    out: Out,
    split: Annotated[str, typer.Option(help="Split of folders that name none.")] = "train",
    val_fraction: ValFraction = 0.0,
    group_by: GroupBy = None,
    labels: Labels = None,
    check: Check = "packets",
    workers: Workers = WORKERS,
    timeout: Timeout = 120.0,
    fps: Fps = FPS,
    ray: Ray = None,
    part: PartOf = None,
    merge: Merge = False,
) -> None:
    """Class folders: VIDEOS/<split>/<class>/* or VIDEOS/<class>/*."""
    from snvideo.data.indexing import sources

    listing = sources.read_class_folders(videos, split, _names(labels))
    listing = _split(listing, val_fraction, group_by)
    write_listing(listing.at_rate(fps), videos, out, check, workers, timeout, ray, part, merge)


@build_app.command("list")
def lists(
    videos: Videos,
    out: Out,
    train: Annotated[Path | None, typer.Option(help="List of the split train.")] = None,
    val: Annotated[Path | None, typer.Option(help="List of the split val.")] = None,
    test: Annotated[Path | None, typer.Option(help="List of the split test.")] = None,
    labels: Labels = None,
    multi_label: MultiLabel = False,
    val_fraction: ValFraction = 0.0,
    group_by: GroupBy = None,
    check: Check = "packets",
    workers: Workers = WORKERS,
    timeout: Timeout = 120.0,
    fps: Fps = FPS,
    ray: Ray = None,
    part: PartOf = None,
    merge: Merge = False,
) -> None:
    """Lists of PySlowFast and mmaction2: a path and a label id a line, space or comma between."""
    from snvideo.data.indexing import sources

    given = (("train", train), ("val", val), ("test", test))
    files = {split: file for split, file in given if file is not None}
    if not files:
        raise SnvideoError("no list given: add --train FILE, --val FILE or --test FILE")
    listing = sources.read_lists(files, videos, _names(labels), multi_label)
    listing = _split(listing, val_fraction, group_by)
    write_listing(listing.at_rate(fps), videos, out, check, workers, timeout, ray, part, merge)


@app.command("report")
def report_index(
    index: Annotated[Path, typer.Argument(help="An index, a .csv.", show_default=False)],
    out: Annotated[Path | None, typer.Option(help="A figure to write, too: a .png.")] = None,
    frames: Annotated[int, typer.Option(min=1, help="Frames of a clip.")] = 8,
    stride: Annotated[int, typer.Option(min=1, help="And their stride.")] = 8,
) -> None:
    """Report what an index holds: classes, durations, sizes, what is broken and why."""
    from snvideo.atomic import write_atomic
    from snvideo.data.config import ClipConfig
    from snvideo.data.indexing.summary import summarize_index
    from snvideo.extras import require
    from snvideo.report.console import console
    from snvideo.report.index_report import index_tables

    found = summarize_index(index, ClipConfig(frames=frames, stride=stride))
    for table in index_tables(found):
        console().print(table)
    if out is not None:
        require("report", "figures")
        from snvideo.report.index_figure import index_png

        write_atomic(out, index_png(found))
        typer.echo(out)


@app.command("manifest")
def write_index_manifest(
    index: Annotated[Path, typer.Argument(help="An index, a .csv.", show_default=False)],
    out: Annotated[Path, typer.Option(help="The manifest to write, a .csv.")],
) -> None:
    """Write the names, sizes and frame counts of a copy of a data set, for others to compare."""
    from snvideo.data.indexing.manifest import manifest_entries, write_manifest

    entries = manifest_entries(index)
    write_manifest(entries, out)
    usable = sum(entry.status == "ok" for entry in entries)
    digest = hashlib.sha256(out.read_bytes()).hexdigest()
    typer.echo(f"{out}: {usable:,} usable of {len(entries):,} videos; SHA-256 {digest}")


@app.command("compare")
def compare_indexes(
    first: Annotated[Path, typer.Argument(help="An index or a manifest.", show_default=False)],
    second: Annotated[Path, typer.Argument(help="Another one.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option(help="List of all that differs to write, a .csv.")
    ] = None,
) -> None:
    """Compare two copies of a data set video by video; the exit code is 1 if they differ."""
    from snvideo.data.indexing.manifest import compare_copies, read_entries, write_differences
    from snvideo.report.console import console
    from snvideo.report.index_report import copy_tables

    compared = compare_copies(read_entries(first), read_entries(second))
    for table in copy_tables(compared):
        console().print(table)
    if out is not None:
        write_differences(compared, out)
        typer.echo(out)
    differ = sum(map(len, compared.differences.values()))
    typer.echo(f"{compared.same.total():,} usable videos are the same, {differ:,} videos differ")
    if not compared.equal:
        raise typer.Exit(1)


def _split(listing: Listing, val_fraction: float, group_by: str | None) -> Listing:
    from snvideo.data.indexing.hold_out import hold_out, warn_of_leaks

    if val_fraction:
        listing = hold_out(listing, val_fraction, group_by)
    if group_by is not None:
        warn_of_leaks(listing, group_by)
    return listing


def _names(labels: Path | None) -> list[str] | None:
    from snvideo.data.indexing.sources import read_labels

    return None if labels is None else read_labels(labels)


def write_listing(
    listing: Listing,
    videos: Place,
    out: Path,
    check: Check,
    workers: int,
    timeout: float,
    ray: str | None = None,
    part_text: str | None = None,
    merge: bool = False,
) -> None:
    """Build an index, or a part of one, with a progress bar, and print what it has."""
    from snvideo.data.indexing.build import build_index
    from snvideo.data.indexing.merge import merge_parts
    from snvideo.data.indexing.parts import Part, take_part
    from snvideo.report.console import console, progress
    from snvideo.report.index_report import build_tables

    part = None if part_text is None else Part.parse(part_text)
    total = len(take_part(listing, part).rows)
    if merge:
        summary = merge_parts(listing, videos, out, check)
    else:
        with progress() as show:
            summary = build_index(
                listing,
                videos,
                out,
                check=check,
                part=part,
                workers=min(workers, total or 1),
                timeout=timeout,
                ray=ray,
                progress=lambda done: show(check, done, total),
            )
    for table in build_tables(summary):
        console().print(table)
    lost = summary.total("missing") + summary.total("broken")
    warning = f"; warning: {lost} missing or broken, left out of training" if lost else ""
    written = part.path(out) if part else out
    typer.echo(f"{written}: {summary.total('ok')} videos in {len(listing.labels)} classes{warning}")
