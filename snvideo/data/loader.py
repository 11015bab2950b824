"""DataLoaders whose state is a few numbers: where in the run, and nothing else."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from snvideo.data import sampling
from snvideo.data.config import DataConfig
from snvideo.data.dataset import (
    Batch,
    Place,
    TestVideos,
    TrainClips,
    Views,
    collate_clips,
    collate_views,
)
from snvideo.data.index import ClipIndex


def _load(
    dataset: Dataset[Any], batches: Iterator[list[Any]], collate: Callable, workers: int
) -> Iterator[Any]:
    """Batches of a data set in the given order, decoded ahead by worker processes."""
    loader = DataLoader(
        dataset,
        batch_sampler=_Once(batches),
        collate_fn=collate,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        prefetch_factor=4 if workers else None,
    )
    return iter(loader)


class _Once:
    """A batch sampler that hands out an iterator's batches, which may go on for a whole run."""

    def __init__(self, batches: Iterator[list[Any]]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[list[Any]]:
        return self.batches


def train_batches(
    index: ClipIndex,
    config: DataConfig,
    seed: int,
    passes: Iterator[tuple[int, Sequence[int]]],
    stream: int = sampling.TRAIN,
) -> Iterator[Batch]:
    """Training batches of a run, across epochs, from wherever `passes` begins.

    Args:
        index: videos of the training split.
        config: clips, views and the number of workers.
        seed: of the run; order and augmentation depend on it and on the place in the run alone.
        passes: for every pass its epoch and the positions in that epoch's order.
        stream: `sampling.TRAIN`, or `sampling.STATISTICS` for clips that are not trained on.

    Returns:
        an iterator of batches, one a pass.
    """

    def places() -> Iterator[list[Place]]:
        order_epoch, order = -1, None
        for epoch, positions in passes:
            if epoch != order_epoch:
                order_epoch, order = epoch, sampling.epoch_order(seed, epoch, len(index))
            yield [Place(stream, epoch, position, int(order[position])) for position in positions]

    return _load(TrainClips(index, config, seed), places(), collate_clips, config.workers)


def test_batches(
    index: ClipIndex,
    config: DataConfig,
    videos: Sequence[int],
    batch: int,
    clips: int,
    crops: int,
) -> Iterator[Views]:
    """Test views of the given videos, every video once and all its views together.

    Args:
        index: videos of the test split.
        config: clips, views and the number of workers.
        videos: rows of the index.
        batch: views that a batch should hold, if a video has no more.
        clips, crops: views of each video.
    """
    step = max(1, batch // (clips * crops))
    batches = (list(videos[begin : begin + step]) for begin in range(0, len(videos), step))
    dataset = TestVideos(index, config, clips, crops)
    return _load(dataset, batches, partial(collate_views, index), config.workers)


test_batches.__test__ = False  # not a test case, whatever pytest makes of the name
