"""Clips a core makes in a second of its time, from files to pixels, against other libraries.

    python benchmarks/loader.py [VIDEOS] [--prepared FOLDER] [--clip 8x8 --clip 32x2] [--views 8x8]
        [--workers 1 --workers 2] [--json FILE] [--markdown FILE]

The rivals (see `rivals.py` and `view_rivals.py`; those that cannot be imported are left out, and
named) take turns on the same videos, as they are and re-encoded by `snvideo prepare`. A turn is
one training clip, or all test views, of every video, in one process on one thread; each ratio is
the median over repeats, with its quartiles. Then the loader's clips a second, with one worker
process and with more. With --clip or --views, only what they name. Without VIDEOS, toy videos are
drawn; these are tiny, so their figures mean little.
"""

import gc
import time
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Annotated, NamedTuple

import torch
import typer
from output import JsonFile, MarkdownFile, publish
from rivals import (
    CLIP_RIVALS,
    DECORD,
    DECORD_VIDEO,
    MMACTION,
    OURS,
    OURS_DECORD,
    OURS_TORCHCODEC,
    PYAV_VIDEO,
    SEED,
    SPDL,
    TORCHCODEC,
    Pipeline,
    Request,
    pipelines,
    request,
)
from sheets import SPREAD, Row, Sheet, pivot
from timing import set_libraries_aside
from videos import (
    CORES,
    ORIGINALS,
    PREPARED,
    Videos,
    clip_config,
    collect,
    find,
    machine,
    too_short,
)
from view_rivals import VIEW_RIVALS, view_request

from snvideo.data import sampling
from snvideo.data.config import ClipConfig, DataConfig, TestViewConfig
from snvideo.data.dataset import SampleKey
from snvideo.data.index import ClipIndex
from snvideo.data.loader import train_loader
from snvideo.engine.turns import ratio, take_turns
from snvideo.errors import SnvideoError

BASES = (MMACTION, PYAV_VIDEO, DECORD_VIDEO, DECORD, TORCHCODEC, SPDL)
BATCH = 4
"""Clips in a batch of the loader."""


class Target(NamedTuple):
    """What the time of snvideo's default is to be at most, in times of a rival's."""

    ours: str
    rival: str
    base: str
    most: float

    def __str__(self) -> str:
        return f"{OURS} on {self.ours} / {self.rival} on {self.base}"


FASTER = Target(ORIGINALS, TORCHCODEC, ORIGINALS, round(1 / 1.2, 2))
"""1.2 times the clips of torchcodec."""
TARGETS = (
    FASTER,
    Target(ORIGINALS, MMACTION, ORIGINALS, 0.75),
    Target(ORIGINALS, PYAV_VIDEO, ORIGINALS, 0.4),
    Target(ORIGINALS, DECORD_VIDEO, ORIGINALS, 0.4),
    Target(PREPARED, MMACTION, ORIGINALS, 0.25),
    Target(PREPARED, MMACTION, PREPARED, 1.0),
)
SCALING = 0.9
"""What each worker is to add at least, in clips a second of a single one."""


class Kind(NamedTuple):
    """What rivals make of a video: a training clip, or all test views."""

    text: str
    clip: ClipConfig
    views: bool

    def __str__(self) -> str:
        return f"{self.text}{' views' * self.views}"


class Trial(NamedTuple):
    """A rival's samples of one encoding, to be timed."""

    pipeline: Pipeline
    videos: Videos
    config: DataConfig
    ask: Callable[[ClipIndex, DataConfig, SampleKey], Request]

    def run(self, names: Sequence[str], repeat: int) -> float:
        """Seconds of processor time for a sample of every video, in the mean."""
        requests = [
            self.ask(
                self.videos.index,
                self.config,
                # The row has no part in what is drawn, so all encodings show the same clips.
                SampleKey(sampling.TRAIN, repeat, position, self.videos.rows[name]),
            )
            for position, name in enumerate(names)
        ]
        gc.collect()  # what others left behind
        begun = time.process_time()
        for _ in self.pipeline(requests):
            pass
        return (time.process_time() - begun) / len(requests)


Times = dict[tuple[str, str], list[float]]
"""By encoding and rival."""


def unreadable(trials: dict[tuple[str, str], Trial], names: Sequence[str]) -> dict[str, str]:
    """Videos that a rival makes no clip of, and why."""
    found = {}
    for (encoding, rival), trial in trials.items():
        for name in names:
            try:
                trial.run([name], 0)
            except Exception as error:  # every library raises kinds of its own
                reason = (str(error).strip().splitlines() or [""])[0][:100]
                why = f"{rival} on {encoding}: {type(error).__name__}: {reason}"
                found.setdefault(name, why)
    return found


def clip_times(
    encodings: dict[str, Videos], kind: Kind, repeats: int, left_out: dict[str, str]
) -> tuple[Times, int, dict[str, str]]:
    """Times of all rivals at one kind of sample, the number of videos, and who cannot take part.

    Args:
        encodings: of the videos, by name.
        kind: of the samples.
        repeats: turns of each rival.
        left_out: videos and why; those that cannot be used for this clip are added.
    """
    trials: dict[tuple[str, str], Trial] = {}
    rivals, ask = (VIEW_RIVALS, view_request) if kind.views else (CLIP_RIVALS, request)
    for encoding, videos in encodings.items():
        config = DataConfig(index=videos.path, clip=kind.clip)
        found, missing = pipelines(rivals, videos.index, config)
        trials |= {(encoding, name): Trial(p, videos, config, ask) for name, p in found.items()}
    set_libraries_aside()
    left_out |= too_short(encodings, kind.clip)
    names = [name for name in encodings[PREPARED].rows if name not in left_out]
    left_out |= unreadable(trials, names)
    names = [name for name in names if name not in left_out]
    if not names:
        why = "; ".join(f"{name}: {reason}" for name, reason in list(left_out.items())[:3])
        raise SnvideoError(f"videos: none can be used ({why}): give longer ones, or another --clip")

    def turn(trial: Trial) -> Callable[[], float]:
        numbers = count()
        return lambda: trial.run(names, next(numbers))

    # All have run once to see who can.
    times = take_turns({key: turn(trial) for key, trial in trials.items()}, repeats, warm_up=0)
    return times, len(names), missing


def time_rows(kind: Kind, times: Times, videos: int) -> list[Row]:
    """Milliseconds for a sample, and clips or views in a second."""
    test = TestViewConfig()
    number = test.clips * test.crops if kind.views else 1
    return [
        {
            "clip": str(kind),
            "encoding": encoding,
            "rival": rival,
            "videos": videos,
            "ms": 1e3 * median(spent),
            "per_core_second": number / median(spent),
        }
        for (encoding, rival), spent in times.items()
    ]


def ratio_rows(clip: str, times: Times) -> list[Row]:
    """Ours to theirs: on the same encodings, and ours prepared to theirs as they are."""
    return [
        {"clip": clip, "ours": ours, "encoding": mine, "base": base, "base_encoding": theirs}
        | ratio(times[mine, ours], times[theirs, base])._asdict()
        for mine, theirs in (
            (ORIGINALS, ORIGINALS),
            (PREPARED, PREPARED),
            (PREPARED, ORIGINALS),
        )
        for ours in (OURS, OURS_DECORD, OURS_TORCHCODEC)
        for base in BASES
        if (mine, ours) in times and (theirs, base) in times
    ]


def target_rows(kind: Kind, times: Times) -> list[Row]:
    """What was to be reached and what was; of absent rivals the target alone."""
    rows = []
    for target in (FASTER,) if kind.views else TARGETS:
        row = {"clip": str(kind), "what": str(target), "target": target.most}
        if (target.base, target.rival) in times:
            found = ratio(times[target.ours, OURS], times[target.base, target.rival])
            row |= {**found._asdict(), "met": found.median <= target.most}
        rows.append(row)
    return rows


def loader_turn(
    videos: Videos, clip: ClipConfig, workers: int, warm_up: int, clips: int
) -> Callable[[], float]:
    """Seconds a clip of the loader, by the clock, after some batches: at least one a worker."""
    config = DataConfig(index=videos.path, clip=clip, workers=workers)
    size = min(BATCH, len(videos.index))
    measured = -(-clips // size)

    def take() -> float:
        passes = ((epoch, range(size)) for epoch in range(warm_up + measured))
        batches = train_loader(videos.index, config, SEED, passes)
        for _ in range(warm_up):
            next(batches)
        begun = time.perf_counter()
        for _ in batches:
            pass
        return (time.perf_counter() - begun) / (measured * size)

    return take


def loader_rows(
    encodings: dict[str, Videos], clip: str, workers: Sequence[int], clips: int, repeats: int
) -> list[Row]:
    """Clips a second with some numbers of workers, one worker = 1."""
    rows, numbers = [], sorted({1, *workers})
    for encoding, videos in encodings.items():
        # All after the same batches, so that they are timed on the same clips.
        turns = {
            number: loader_turn(videos, clip_config(clip), number, numbers[-1], clips)
            for number in numbers
        }
        times = take_turns(turns, repeats, warm_up=1)
        for number, spent in times.items():
            faster, target = ratio(times[1], spent), SCALING * number
            row = {"clip": clip, "encoding": encoding, "workers": number}
            row |= {"clips_per_second": 1 / median(spent), **faster._asdict()}
            if number > 1:
                row |= {"target": target, "met": faster.median >= target}
            rows.append(row)
    return rows


def all_sheets(rows: dict[str, list[Row]]) -> list[Sheet]:
    """All tables."""
    times = [row | {"line": f"{row['clip']} {row['encoding']}"} for row in rows["times"]]
    ratios = []
    for row in rows["ratios"]:
        one = row["encoding"] == row["base_encoding"]
        where = row["encoding"] if one else f"{row['encoding']} / {row['base_encoding']}"
        ratios.append(row | {"line": f"{row['clip']} {where}, {row['ours']}"})
    targets = [
        (row["clip"], row["what"], f"<= {row['target']}", *verdict(row)) for row in rows["targets"]
    ]
    loader = [
        (
            f"{row['clip']} {row['encoding']}",
            str(row["workers"]),
            f"{row['clips_per_second']:.1f}",
            *((f">= {row['target']:.1f}", *verdict(row)) if "target" in row else ("", "1", "")),
        )
        for row in rows["loader"]
    ]
    return [
        pivot(
            "clips, or views, per core-second",
            times,
            *("line", "rival", lambda row: f"{row['per_core_second']:.1f}"),
        ),
        pivot(
            "ratio of snvideo's time (quartiles) to that of",
            ratios,
            "line",
            "base",
            lambda row: SPREAD.format(**row),
        ),
        Sheet("targets", ("clip", "ratio of times", "target", "measured (quartiles)", ""), targets),
        Sheet(
            "the loader, by the clock",
            ("", "workers", "clips a second", "target", "one worker = 1 (quartiles)", ""),
            loader,
        ),
    ]


def verdict(row: Row) -> tuple[str, str]:
    if "met" not in row:
        return "not measured", ""
    return SPREAD.format(**row), "met" if row["met"] else "missed"


def main(
    folder: Annotated[
        Path | None, typer.Argument(help="Folder of videos; by default some are drawn.")
    ] = None,
    prepared: Annotated[
        Path | None,
        typer.Option(help="The same videos, prepared; by default they are, into a passing folder."),
    ] = None,
    clip: Annotated[
        list[str] | None,
        typer.Option(help="Of training: frames x stride; repeatable; by default 8x8 and 32x2."),
    ] = None,
    views: Annotated[
        list[str] | None, typer.Option(help="The same of tests, all views; by default 8x8.")
    ] = None,
    repeats: Annotated[int, typer.Option(min=1)] = 15,
    view_repeats: Annotated[int, typer.Option(min=1)] = 3,
    workers: Annotated[
        list[int] | None,
        typer.Option(
            min=1, help="Of the loader; repeatable; by default 1, 2, 4 ... and all cores."
        ),
    ] = None,
    loader_clips: Annotated[int, typer.Option(min=1, help="Clips of a turn of the loader.")] = 256,
    loader_repeats: Annotated[int, typer.Option(min=1, help="Turns of the loader.")] = 5,
    json_file: JsonFile = None,
    markdown_file: MarkdownFile = None,
) -> None:
    """Print processor time per clip, its ratios to other libraries', and how the loader scales."""
    if clip is views is None:
        clip, views = ["8x8", "32x2"], ["8x8"]
    kinds = [Kind(text, clip_config(text), False) for text in clip or ()]
    kinds += [Kind(text, clip_config(text), True) for text in views or ()]
    torch.set_num_threads(1)
    rows: dict[str, list[Row]] = {"times": [], "ratios": [], "targets": [], "loader": []}
    remarks: dict[str, None] = {}  # each once, in order
    with TemporaryDirectory() as scratch:
        typer.echo("indexing ...", err=True)
        encodings, useless = collect(find(folder, Path(scratch)), prepared, Path(scratch))
        for name, held in encodings.items():
            for decoder, ours in (("decord", OURS_DECORD), ("torchcodec", OURS_TORCHCODEC)):
                trusted = [decoder in held.index[row].decoders for row in held.rows.values()]
                if pyav := trusted.count(False):
                    remarks[f"{name}: {decoder} is not trusted with {pyav}: {ours} takes PyAV"] = (
                        None
                    )
        for kind in kinds:
            typer.echo(f"{kind} ...", err=True)
            left_out = dict(useless)
            turns = view_repeats if kind.views else repeats
            times, videos, missing = clip_times(encodings, kind, turns, left_out)
            rows["times"] += time_rows(kind, times, videos)
            rows["ratios"] += ratio_rows(str(kind), times)
            rows["targets"] += target_rows(kind, times)
            for name, why in missing.items():
                remark = f"{name} cannot take part: {why}"
                typer.echo(remark, err=True)
                remarks[remark] = None
            what = "all views" if kind.views else "a clip"
            remarks[f"{kind}: {turns} turns, each {what} of each of {videos} videos"] = None
            remarks |= {f"{kind}: without {name}: {why}": None for name, why in left_out.items()}
        if clip:
            typer.echo("loader ...", err=True)
            # 1, 2, 4 ... and all cores.
            numbers = workers or sorted({2**n for n in range(CORES.bit_length())} | {CORES})
            rows["loader"] = loader_rows(encodings, clip[0], numbers, loader_clips, loader_repeats)
    figures, lines = rows | {"remarks": list(remarks)}, list(remarks)
    publish("loader.py", machine(), figures, all_sheets(rows), lines, json_file, markdown_file)


if __name__ == "__main__":
    try:
        typer.run(main)
    except SnvideoError as error:
        typer.echo(f"error: {error}", err=True)
        raise SystemExit(2) from None
