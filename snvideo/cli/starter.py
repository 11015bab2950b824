"""The command to begin with: from a folder of videos to index, config and next commands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from snvideo.cli.index import WORKERS, GroupBy, write_listing
from snvideo.cli.options import Fps, Timeout, Workers, given, refuse_options
from snvideo.data.image_sequences import FPS
from snvideo.data.remote import Place, as_place
from snvideo.errors import SnvideoError

if TYPE_CHECKING:
    from snvideo.models.pretrained import WeightsSource


def init(
    context: typer.Context,
    videos: Annotated[
        Path,
        typer.Argument(
            help="A folder of videos, or its URL; or an index, a .csv.", parser=as_place
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for index, config and run.")] = Path(),
    weights: Annotated[
        str | None,
        typer.Option(help="To start from: a file, pytorchvideo:NAME, torchvision:NAME ..."),
    ] = None,
    val_fraction: Annotated[
        float, typer.Option(min=0.01, max=0.9, help="For validation, where no split val is there.")
    ] = 0.2,
    group_by: GroupBy = None,
    fps: Fps = FPS,
    workers: Workers = WORKERS,
    timeout: Timeout = 120.0,
) -> None:
    """Index a folder of videos, write a config for them and this machine, and say how to go on.

    The files are OUT/NAME.csv, .json and .yaml, called like the folder. None is overwritten.
    """
    from snvideo.models.pretrained import open_weights

    local = videos.resolve() if isinstance(videos, Path) else None  # else behind a URL
    indexed = local is not None and local.is_file() and local.suffix == ".csv"
    name = videos.stem if indexed else (local or videos).name
    name = re.sub(r"[^\w.-]+", "_", name).strip("-.") or "videos"
    index = videos if indexed else out / f"{name}.csv"
    config, run = out / f"{name}.yaml", out / "runs" / name
    if not indexed and index.exists():
        raise SnvideoError(
            f"{index} exists: for a config of it give its name, snvideo init "
            f"{shlex.quote(str(index))}; --out names another folder"
        )
    for path in (config, run) if indexed else (config, run, index.with_suffix(".json")):
        if path.exists():
            raise SnvideoError(f"{path} exists: name another folder with --out, or delete it")
    source = None if weights is None else open_weights(weights)  # before the work of indexing
    if indexed:
        names = ("val_fraction", "group_by", "fps")
        options = {f"--{name.replace('_', '-')}": given(context, name) for name in names}
        refuse_options(options, f"is about indexing, and {videos} is an index: leave it out")
    else:
        _write_index(videos, index, val_fraction, group_by, fps, workers, timeout)
    try:
        _write_config(index, config, run, source)
    except OSError as error:
        why = f"cannot write {config}: {error.strerror}: name another folder with --out"
        raise SnvideoError(why) from None
    except SnvideoError as error:
        named = shlex.quote(str(index))
        again = "" if indexed else f"; the index is written, snvideo init {named} goes on with it"
        raise SnvideoError(f"{error}{again}") from None


def _write_index(
    videos: Place,
    index: Path,
    val_fraction: float,
    group_by: str | None,
    fps: float,
    workers: int,
    timeout: float,
) -> None:
    """Recognise what a folder holds, and index it."""
    from snvideo.data.indexing.hold_out import hold_out, warn_of_leaks
    from snvideo.data.indexing.recognize import recognize

    found = recognize(videos)
    splits = {row.split for row in found.listing.rows}
    typer.echo(f"{videos}: {found.kind}, splits {', '.join(sorted(splits))}")
    listing = found.listing
    if "train" in splits and "val" not in splits:
        listing = hold_out(listing, val_fraction, group_by)
        held = sum(row.split == "val" for row in listing.rows)
        related = (
            "; where several are cut from one recording, --group-by keeps them together"
            if group_by is None
            else f", those together that are alike by {group_by!r}"
        )
        found.remarks.append(
            f"no split val: {held} of the training videos, {100 * val_fraction:g} % of each class, "
            f"are val now{related}"
        )
    if group_by is not None:
        warn_of_leaks(listing, group_by)
    for remark in found.remarks:
        typer.echo(f"- {remark}")
    write_listing(listing.at_rate(fps), videos, index, "packets", workers, timeout)


def _write_config(index: Path, config: Path, run: Path, source: WeightsSource | None) -> None:
    """Write a config, when it has been read and found to work, and print the next commands."""
    from snvideo.atomic import atomic_path
    from snvideo.config import load_config
    from snvideo.data.image_sequences import is_sequence
    from snvideo.data.index import ClipIndex
    from snvideo.data.indexing.summary import summarize_index
    from snvideo.engine.checkpointer import format_bytes
    from snvideo.engine.distributed import init_world
    from snvideo.engine.dry_run import estimate
    from snvideo.engine.starter_config import starter_config
    from snvideo.report.dry_run_table import dry_run_warnings

    with init_world() as world:
        starter = starter_config(summarize_index(index), run, world, source)
        with atomic_path(config) as unchecked:
            unchecked.write_text(starter.text, encoding="utf-8")
            checked = load_config(unchecked)
            found = estimate(checked, world)
    empty = [line for split in found.splits for line in split.empty_classes()]
    for remark in (*starter.remarks, *empty, *dry_run_warnings(found), *found.without_effect):
        typer.echo(f"- {remark}")
    free = f" of {format_bytes(found.memory_free)}" if found.memory_free else ""
    typer.echo(
        f"{config}: {checked.model.name} with {checked.model.norm.name}, {found.total_steps:,} "
        f"steps of {found.plan.total_batch} clips in {checked.optim.epochs} epochs, about "
        f"{format_bytes(found.memory_needed)}{free} memory on {found.device}; its comments say why"
    )
    test = ClipIndex.load(index, checked.data.test_split)
    video, here = test[0].path, Path.cwd()
    video = video.relative_to(here) if video.is_relative_to(here) else video
    rate = f" --fps {test[0].fps:g}" if is_sequence(str(video)) else ""
    many = starter.processes > 1
    launcher = f"torchrun --nproc-per-node {starter.processes} -m " if many else ""
    typer.echo(
        "Next: train (--dry-run says how long), test again with more clips, look at an answer"
    )
    trained = shlex.quote(str(run))
    for command in (
        f"{launcher}snvideo train {shlex.quote(str(config))}",
        f"snvideo evaluate {trained} data.test.clips={2 * checked.data.test.clips}",
        f"snvideo predict {shlex.quote(str(video))} --weights {trained} --top 3{rate}",
    ):
        typer.echo(f"  {command}")
