"""The loader's workers against as many bare processes, which make clips and throw them away.

    python benchmarks/loader_scaling.py INDEX [--clip 8x8] [--workers 2] [--clips 128] [--repeats 5]

Both take turns on the same clips of an index (`snvideo index build`). By the clock, a ratio below 1
is what the pool costs; other processes' load weighs on both. Processor time a clip tells it apart:
of the workers, and of the main process, which takes the batches.
"""

import multiprocessing
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Annotated, Any, NamedTuple

import torch
import typer
from output import processor
from videos import CORES, clip_config

from snvideo.data.config import DataConfig
from snvideo.data.dataset import SampleKey, TrainDataset
from snvideo.data.index import ClipIndex
from snvideo.data.loader import BatchLoader
from snvideo.data.sampling import TRAIN
from snvideo.engine.turns import ratio, take_turns

BATCH = 4


class Spent(NamedTuple):
    """Seconds a clip: by the clock, of the processors in workers and in the main process."""

    clock: float
    workers: float
    main: float


def batches_of(videos: int, first: int, number: int) -> Iterator[list[SampleKey]]:
    """Keys of batches that go round all videos."""
    for epoch in range(first, first + number):
        rows = [(epoch * BATCH + k) % videos for k in range(BATCH)]
        yield [SampleKey(TRAIN, epoch, row, row) for row in rows]


def pool_turn(index: ClipIndex, config: DataConfig, batches: int) -> Callable[[], Spent]:
    def take() -> Spent:
        ahead = 2 * config.workers  # batches that each worker has made and goes on from
        keys = batches_of(len(index), 0, 3 * ahead + batches)
        loader = BatchLoader(TrainDataset(index, config, 0), keys, config)
        for _ in range(ahead):
            next(loader)
        workers = [child.pid for child in multiprocessing.active_children()]
        before, own, begun = sum(map(processor_time, workers)), time.process_time(), now()
        for _ in range(batches):
            next(loader)
        clock, main = now() - begun, time.process_time() - own
        used = sum(map(processor_time, workers)) - before
        return Spent(*(spent / (batches * BATCH) for spent in (clock, used, main)))

    return take


def bare_turn(index: ClipIndex, config: DataConfig, batches: int) -> Callable[[], Spent]:
    def take() -> Spent:
        context = multiprocessing.get_context("fork")
        start, results = context.Barrier(config.workers + 1), context.SimpleQueue()
        share = batches // config.workers
        arguments = (index, config, share, start, results)
        children = [
            context.Process(target=bare, args=(number, *arguments))
            for number in range(config.workers)
        ]
        for child in children:
            child.start()
        start.wait()
        begun = now()
        used = sum(results.get() for _ in children)
        clock = now() - begun
        for child in children:
            child.join()
        clips = share * config.workers * BATCH
        return Spent(clock / clips, used / clips, 0.0)

    return take


def bare(
    number: int, index: ClipIndex, config: DataConfig, batches: int, start: Any, results: Any
) -> None:
    dataset = TrainDataset(index, config, 0)

    def make(first: int, batches: int) -> None:
        for keys in batches_of(len(index), first, batches):
            for key in keys:
                dataset[key]

    make(0, 2)
    start.wait()
    begun = time.process_time()
    make(number * batches, batches)
    results.put(time.process_time() - begun)


def processor_time(process: int | None) -> float:
    """Processor time of a process, to a hundredth of a second."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


now = time.perf_counter


def main(
    path: Annotated[Path, typer.Argument(metavar="INDEX", help="An index, a .csv.")],
    clip: Annotated[str, typer.Option(help="Frames x stride.")] = "8x8",
    workers: Annotated[int, typer.Option(min=1)] = CORES,
    clips: Annotated[int, typer.Option(min=BATCH, help="Clips of a turn.")] = 128,
    repeats: Annotated[int, typer.Option(min=1)] = 5,
) -> None:
    """Print clips a second and processor time a clip of the pool and of bare processes."""
    torch.set_num_threads(1)
    index = ClipIndex.load(path, "train")
    config = DataConfig(index=path, clip=clip_config(clip), workers=workers, start_method="fork")
    batches = -(-clips // (BATCH * workers)) * workers
    spent: dict[str, list[Spent]] = {"pool": [], "bare": []}
    turns = {"pool": pool_turn(index, config, batches), "bare": bare_turn(index, config, batches)}

    def turn(name: str) -> Callable[[], float]:
        def take() -> float:
            spent[name].append(turns[name]())
            return spent[name][-1].clock

        return take

    times = take_turns({name: turn(name) for name in turns}, repeats, warm_up=0)
    print(f"{processor()}, {CORES} cores; {clip}, {workers} workers, {repeats} x {clips} clips")
    for name, found in spent.items():
        clock, used, own = (median(values) for values in zip(*found, strict=True))
        print(
            f"{name}: {1 / clock:6.1f} clips/s; ms of a processor a clip: "
            f"{1e3 * used:.1f} in workers, {1e3 * own:.2f} in the main process"
        )
    rate = ratio(times["bare"], times["pool"])
    print(f"pool / bare, clips/s: {rate.median:.2f} ({rate.low:.2f} to {rate.high:.2f})")
    work = ratio([sum(one[1:]) for one in spent["pool"]], [sum(one[1:]) for one in spent["bare"]])
    print(f"pool / bare, processor time: {work.median:.2f} ({work.low:.2f} to {work.high:.2f})")


if __name__ == "__main__":
    typer.run(main)
