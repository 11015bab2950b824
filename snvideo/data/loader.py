"""Loaders of training and evaluation batches, which depend on their place in the run alone.

So what a lost worker process had begun is simply done again. A video that never came is given up at
once; one whose process died is tried once more, for that may not have been the file's doing.
"""

import logging
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import lru_cache, partial
from itertools import chain
from typing import Any

import torch

from snvideo.data import sampling
from snvideo.data.config import DataConfig
from snvideo.data.dataset import Batch, EvalBatch, EvalDataset, SampleKey, TrainDataset
from snvideo.data.index import ClipIndex
from snvideo.data.quarantine import Quarantine
from snvideo.data.workers import Death, Outcome, WorkerPool
from snvideo.errors import SnvideoError

log = logging.getLogger(__name__)

AHEAD = 4  # batches that each worker process prepares ahead

Keys = list[SampleKey]
Videos = TrainDataset | EvalDataset


def train_loader(
    index: ClipIndex,
    config: DataConfig,
    seed: int,
    passes: Iterator[tuple[int, Sequence[int]]],
    stream: int = sampling.TRAIN,
    quarantine: Quarantine | None = None,
    repeated_in: int | None = None,
) -> Iterator[Batch]:
    """Training batches of a run, across epochs, from wherever `passes` begins.

    Args:
        index, config: of the training split; clips, views and the number of worker processes.
        seed: of the run; order and augmentation depend on it and on the place in the run alone.
        passes: for every pass, which makes one batch, its epoch and positions in that one's order.
        stream: `sampling.TRAIN`, or `sampling.STATISTICS` for clips that are not trained on.
        quarantine: of the run: videos that are not opened; what proves unreadable is added to it.
        repeated_in: clips of an optimizer step, in which videos come `config.repeats` times; None:
            every clip is of another video.
    """
    dataset = TrainDataset(index, config, seed, quarantine)
    order = lru_cache(maxsize=1)(partial(dataset.order, batch=repeated_in))
    keys = (
        [SampleKey(stream, epoch, place, int(order(epoch)[place])) for place in positions]
        for epoch, positions in passes
    )
    return BatchLoader(dataset, keys, config)


def test_loader(
    index: ClipIndex,
    config: DataConfig,
    videos: Sequence[int],
    batch: int,
    clips: int,
    crops: int,
    quarantine: Quarantine | None = None,
) -> Iterator[EvalBatch]:
    """Evaluation views of the given videos, every video once and all its views together.

    Args:
        index, config: of the test split; clips, views and the number of worker processes.
        videos: rows of the index.
        batch: views that a batch should hold, if a video has no more.
        clips, crops: views of each video.
        quarantine: as for `train_loader`.
    """
    size = max(1, batch // (clips * crops))
    keys = [SampleKey(sampling.TEST, 0, i, video) for i, video in enumerate(videos)]
    batches = (keys[begin : begin + size] for begin in range(0, len(keys), size))
    return BatchLoader(EvalDataset(index, config, clips, crops, quarantine), batches, config)


class BatchLoader(Iterator[Any]):
    """Batches of a dataset in the order of their keys; with 0 workers of this process.

    What a batch reports unreadable is added to the dataset's quarantine, and when that is changed,
    all batches that were not taken are made anew.
    """

    def __init__(self, dataset: Videos, keys: Iterator[Keys], config: DataConfig) -> None:
        self._dataset, self._keys, self._config = dataset, keys, config
        self._deaths: Counter[tuple[int, int, int]] = Counter()
        self._pool: WorkerPool[Keys] | None = None
        self._version = -1
        self._outcomes: Iterator[Outcome] = iter(())

    def __next__(self) -> Any:
        if self._config.workers:
            batch = self._next_from_pool()
        else:
            *_, batch = _steps(self._dataset, next(self._keys))
        if isinstance(batch, Exception):
            raise batch
        for name, reason in batch.unreadable:
            self._dataset.quarantine.add(name, reason)
        return batch

    def _next_from_pool(self) -> Any:
        version = self._dataset.quarantine.version
        if self._pool is None or self._version != version:
            owed = self._pool.close() if self._pool is not None else []
            self._version = version
            self._pool = WorkerPool(
                partial(_steps, self._dataset),
                self._config.workers,
                self._config.timeout,
                start_method=self._config.start_method,
                ahead=AHEAD,
                pin_memory=torch.cuda.is_available(),
                initializer=partial(torch.set_num_threads, 1),
                on_death=partial(_on_death, self._dataset, self._deaths),
            )
            self._outcomes = self._pool.run(chain(owed, self._keys))
        batch, failure = next(self._outcomes, (StopIteration(), None))
        if failure is not None:
            batch = RuntimeError(f"a loader worker {failure}")
        if isinstance(batch, Exception):
            self._pool.close()
        return batch


def _on_death(
    dataset: Videos, deaths: Counter[tuple[int, int, int]], keys: Keys, death: Death
) -> Keys | None:
    """Keys of the batch that is read instead; None if no video was being read."""
    if death.answer is None:
        return None
    number, attempt = death.answer
    key = keys[number]
    place = key.epoch, key.position, attempt
    deaths[place] += 1
    if deaths[place] == 1 and not death.timed_out:
        log.warning("a loader worker %s; its video is tried once more", death.cause)
        return keys
    timeout = f"no answer for {dataset.config.timeout:g} s"
    reason = timeout if death.timed_out else f"its reader {death.cause} twice"
    name = dataset.index[dataset.row(key, attempt)].name
    log.warning("%s: %s; it is in quarantine now", name, reason)
    failed = key._replace(failed=(*key.failed, (attempt, reason)))
    return [*keys[:number], failed, *keys[number + 1 :]]


def _steps(dataset: Videos, keys: Keys) -> Iterator[Any]:
    """Yield number and attempt of every video before it is opened, None, and the batch; or the
    exception, with its traceback."""
    samples = []
    try:
        for number, key in enumerate(keys):
            for step in dataset.steps(key):
                if isinstance(step, int):
                    yield number, step
                else:
                    samples.append(step)
        yield None
        yield dataset.collate(samples)
    except Exception as error:
        if not isinstance(error, SnvideoError):
            error.add_note(f"in a loader:\n{traceback.format_exc()}")
        yield error


class CudaPrefetcher(Iterator[Batch]):
    """Batches whose clips and labels are on a GPU, copied one ahead on a stream of their own.

    Copies overlap with computation only from pinned memory, which the loader's batches are in.
    """

    def __init__(self, batches: Iterator[Batch], device: torch.device) -> None:
        self._batches, self._device = batches, device
        self._stream = torch.cuda.Stream(device)
        self._ahead: tuple[Batch, torch.cuda.Event] | None = None

    def __next__(self) -> Batch:
        batch, copied = self._ahead or self._copy()
        self._ahead = None
        current = torch.cuda.current_stream(self._device)
        current.wait_event(copied)
        for tensor in (batch.clips, batch.labels):
            tensor.record_stream(current)  # its memory is not handed out before that is done
        return batch

    def look_ahead(self) -> None:
        """Fetch and copy the next batch, if there is one; to be called when the GPU has work."""
        if self._ahead is None:
            with suppress(StopIteration):
                self._ahead = self._copy()

    def _copy(self) -> tuple[Batch, torch.cuda.Event]:
        batch = next(self._batches)
        with torch.cuda.stream(self._stream):
            clips, labels = (
                t.to(self._device, non_blocking=True) for t in (batch.clips, batch.labels)
            )
            copied = torch.cuda.Event()
            copied.record()
        return batch._replace(clips=clips, labels=labels), copied
