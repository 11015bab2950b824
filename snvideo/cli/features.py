"""Command on what layers of a network give for videos: features."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from snvideo.cli.options import (
    INFERENCE_WORKERS,
    Device,
    Fps,
    Silence,
    Weights,
    Workers,
    given,
    refuse_options,
)
from snvideo.data.image_sequences import FPS
from snvideo.errors import SnvideoError


def features(
    context: typer.Context,
    weights: Weights,
    out: Annotated[Path, typer.Option(help="Folder to fill.")],
    videos: Annotated[
        list[str] | None,
        typer.Argument(metavar="VIDEO", help="Files, folders, quoted patterns: 'x/**/*.mp4'."),
    ] = None,
    index: Annotated[
        Path | None, typer.Option(help="In place of VIDEO: the videos of an index, a .csv.")
    ] = None,
    split: Annotated[str, typer.Option(help="Of the index.")] = "val",
    layer: Annotated[
        str | None, typer.Option(help="A module's name; by default the classifier's input.")
    ] = None,
    per: Annotated[
        Literal["clip", "video", "snippet"],
        typer.Option(
            help="A row for each view; their mean; or a row for each clip of a whole video."
        ),
    ] = "clip",
    clips: Annotated[int, typer.Option(min=1, help="Clips, spread evenly over a video.")] = 10,
    crops: Annotated[int, typer.Option(min=1, max=3, help="Of each clip: 1 or 3.")] = 3,
    npy: Annotated[
        bool, typer.Option("--npy", help="Write all rows to features.npy, too.")
    ] = False,
    workers: Workers = INFERENCE_WORKERS,
    batch: Annotated[int, typer.Option(min=1, help="Views (clips x crops) in one pass.")] = 16,
    device: Device = "auto",
    timeout: Silence = 60.0,
    fps: Fps = FPS,
) -> None:
    """Write what a layer gives for videos, averaged over space and time, to a folder.

    Called again, it goes on where it stopped.
    """
    if bool(videos) == (index is not None):
        raise SnvideoError("give either videos or --index: files, folders, patterns, or a .csv")
    if index is None:
        refuse_options({"--split": given(context, "split")}, "is of an --index: leave it out")
    else:
        why = "is of folders of frames that are given; an index has its own: leave it out"
        refuse_options({"--fps": given(context, "fps")}, why)
    if per == "snippet":
        why = "means nothing with --per snippet, which takes all: leave it out"
        refuse_options({"--clips": given(context, "clips")}, why)
    from snvideo.data.files import find_videos
    from snvideo.data.index import ClipIndex
    from snvideo.engine.feature_files import write_features
    from snvideo.engine.features import FeatureExtractor
    from snvideo.report.console import progress
    from snvideo.report.features import print_features

    found = find_videos(videos or ()) if index is None else ClipIndex.load(index, split)
    extractor = FeatureExtractor(
        weights,
        layer=layer,
        per=per,
        clips=clips,
        crops=crops,
        workers=workers,
        batch=batch,
        device=device,
        timeout=timeout,
        fps=fps,
    )
    with progress() as show:
        summary = write_features(
            extractor,
            found,
            out,
            array=npy,
            progress=lambda done, total: show("features", done, total),
        )
    print_features(summary)
    if summary.failures:
        raise typer.Exit(1)
