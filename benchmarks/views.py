"""Processor time of a video's 30 test views from one decode, against decoding them separately.

    python benchmarks/views.py [VIDEOS] [--clip 8x8] [--json FILE] [--markdown FILE]

Ways to the same 10 clips x 3 crops of 256 pixels take turns on every video, with the same decoder:
`EvalDataset`, with and without putting the views together, which is the device's work; to
open the file, decode the frames and cut one crop for every view; and to open and decode for every
clip. A video's ratio is the median over repeats; stated are the quartiles over videos. One process,
one thread.
"""

import gc
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Annotated

import torch
import typer
from output import JsonFile, MarkdownFile, publish
from sheets import Row, Sheet
from timing import set_libraries_aside
from torch import Tensor
from videos import clip_config, find, index_videos, machine, too_short

from snvideo.data import sampling
from snvideo.data.config import DataConfig
from snvideo.data.dataset import EvalDataset, VideoViews, cut
from snvideo.data.decoding import decode_frames, missing
from snvideo.data.files import scan_videos
from snvideo.data.index import DECODERS
from snvideo.engine.turns import quartiles, ratio, take_turns
from snvideo.errors import SnvideoError

ONCE, SENT = "one decode", "one decode, until sent"
BY_CLIP, BY_VIEW = "decode per clip", "decode per view"
TARGET = 0.15
"""Of the time that decoding for every view takes, the most for one decode."""

PAIRS = tuple(product((ONCE, SENT), (BY_VIEW, BY_CLIP)))
"""What is held against what."""
JUDGED = (ONCE, BY_VIEW)

Way = Callable[[], Tensor]
"""To all views of a video, uint8 (views, T, 3, crop, crop)."""


def decoders() -> list[str]:
    """Those that are installed: PyAV would take the place of others unnoticed."""
    return [decoder for decoder in DECODERS if not missing(decoder)]


def ways(videos: EvalDataset, number: int) -> dict[str, Way]:
    """The rivals at one video. All give the same views, except the one that leaves their pictures
    to be put together."""
    video, decoder, view = videos.index[number], videos.config.decoder, videos.view
    clips, sides = videos.numbers(video), range(view.crops)

    def sample() -> VideoViews:
        found = videos[number]
        if found.views is None:
            raise SnvideoError(f"video {video.path}: {found.unreadable[0][1]}: leave it out")
        return found.views

    def by_view() -> Tensor:
        found = []
        for clip, side in product(clips, sides):
            frames = decode_frames(video, clip, decoder)
            crops = sampling.even_crops(*frames.shape[1:3], view)
            found.append(cut(frames, crops[side], view.crop))
        return torch.stack(found)

    def by_clip() -> Tensor:
        found = []
        for clip in clips:
            frames = decode_frames(video, clip, decoder)
            crops = sampling.even_crops(*frames.shape[1:3], view)
            found += [cut(frames, crop, view.crop) for crop in crops]
        return torch.stack(found)

    return {
        ONCE: lambda: sample().expand(torch.device("cpu")),
        SENT: lambda: sample().frames,
        BY_CLIP: by_clip,
        BY_VIEW: by_view,
    }


def turn(way: Way) -> Callable[[], float]:
    """Seconds of processor time."""

    def take() -> float:
        gc.collect()  # what others left behind
        begun = time.process_time()
        way()
        return time.process_time() - begun

    return take


def video_row(videos: EvalDataset, number: int, repeats: int) -> Row:
    """Times of a video's views, and the ratios of one decode to the other ways."""
    turns = {name: turn(way) for name, way in ways(videos, number).items()}
    times = take_turns(turns, repeats, warm_up=1)
    return {
        "video": videos.index[number].name,
        "decoder": videos.config.decoder,
        "ms": {name: 1e3 * median(spent) for name, spent in times.items()},
        "ratios": {over(*pair): ratio(*(times[way] for way in pair)).median for pair in PAIRS},
    }


def over(way: str, base: str) -> str:
    return f"{way} / {base}"


def summary_rows(rows: list[Row]) -> list[Row]:
    """Quartiles over videos of the ratios, by decoder."""
    found = []
    for decoder, pair in product(dict.fromkeys(row["decoder"] for row in rows), PAIRS):
        spread = quartiles([r["ratios"][over(*pair)] for r in rows if r["decoder"] == decoder])
        row = {"decoder": decoder, "what": over(*pair), **spread._asdict()}
        if pair == JUDGED:
            row |= {"target": TARGET, "met": spread.median <= TARGET}
        found.append(row)
    return found


def all_sheets(rows: list[Row], summary: list[Row]) -> list[Sheet]:
    """All tables."""
    per_video = [
        (
            row["video"],
            row["decoder"],
            *(f"{ms:.0f}" for ms in row["ms"].values()),
            f"{row['ratios'][over(*JUDGED)]:.3f}",
        )
        for row in rows
    ]
    over_videos = [
        (
            row["decoder"],
            row["what"],
            f"{row['median']:.3f} ({row['low']:.3f}..{row['high']:.3f})",
            *(
                (f"<= {row['target']}", "met" if row["met"] else "missed")
                if "met" in row
                else ("", "")
            ),
        )
        for row in summary
    ]
    return [
        Sheet(
            "ms of processor time for all views of a video",
            ("", "decoder", *rows[0]["ms"], over(*JUDGED)),
            per_video,
        ),
        Sheet(
            "ratios of times, over videos",
            ("decoder", "", "median (quartiles)", "target", ""),
            over_videos,
        ),
    ]


def main(
    folder: Annotated[
        Path | None, typer.Argument(help="Folder of videos; by default some are drawn.")
    ] = None,
    clip: Annotated[str, typer.Option(help="Frames x stride.")] = "8x8",
    repeats: Annotated[int, typer.Option(min=1, help="Turns for each video.")] = 5,
    json_file: JsonFile = None,
    markdown_file: MarkdownFile = None,
) -> None:
    """Print processor time of all test views of a video, and its ratio to separate decoding."""
    kind = clip_config(clip)
    torch.set_num_threads(1)
    set_libraries_aside()
    rows: list[Row] = []
    remarks: list[str] = []
    with TemporaryDirectory() as scratch:
        typer.echo("indexing ...", err=True)
        folder = find(folder, Path(scratch))
        names = {name: name for name in scan_videos(folder)}
        videos, left_out = index_videos(folder, names, Path(scratch) / "index.csv")
        left_out |= too_short({"": videos}, kind)
        for decoder, (name, number) in product(decoders(), videos.rows.items()):
            if name in left_out:
                continue
            if decoder not in videos.index[number].decoders.split():
                remarks.append(f"{decoder}: without {name}: it does not show the right frames")
                continue
            typer.echo(f"{decoder}: {name} ...", err=True)
            config = DataConfig(index=videos.path, clip=kind, decoder=decoder)
            tests = EvalDataset(videos.index, config, config.test.clips, config.test.crops)
            rows.append(video_row(tests, number, repeats))
    if not rows:
        raise SnvideoError(f"videos {folder}: all are too short for {clip}: give another --clip")
    summary = summary_rows(rows)
    remarks += [f"without {name}: {why}" for name, why in left_out.items()]
    figures = {"videos": rows, "summary": summary, "remarks": remarks}
    sheets = all_sheets(rows, summary)
    publish("views.py", machine(), figures, sheets, remarks, json_file, markdown_file)


if __name__ == "__main__":
    try:
        typer.run(main)
    except SnvideoError as error:
        typer.echo(f"error: {error}", err=True)
        raise SystemExit(2) from None
