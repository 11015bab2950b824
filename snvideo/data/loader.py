"""DataLoaders whose state is a few numbers: where in the run, and nothing else."""

from collections.abc import Iterator, Sequence

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
from snvideo.data.quarantine import Quarantine
from snvideo.data.survive import Batches


def train_batches(
    index: ClipIndex,
    config: DataConfig,
    seed: int,
    passes: Iterator[tuple[int, Sequence[int]]],
    stream: int = sampling.TRAIN,
    quarantine: Quarantine | None = None,
) -> Iterator[Batch]:
    """Training batches of a run, across epochs, from wherever `passes` begins.

    Args:
        index: videos of the training split.
        config: clips, views and the number of workers.
        seed: of the run; order and augmentation depend on it and on the place in the run alone.
        passes: for every pass its epoch and the positions in that epoch's order.
        stream: `sampling.TRAIN`, or `sampling.STATISTICS` for clips that are not trained on.
        quarantine: of the run: videos that are not opened; what proves unreadable is added to it.

    Returns:
        an iterator of batches, one a pass.
    """

    def places() -> Iterator[list[Place]]:
        order_epoch, order = -1, None
        for epoch, positions in passes:
            if epoch != order_epoch:
                order_epoch, order = epoch, sampling.epoch_order(seed, epoch, len(index))
            yield [Place(stream, epoch, position, int(order[position])) for position in positions]

    clips = TrainClips(index, config, seed, quarantine)
    return Batches(clips, places(), collate_clips, config, clips.quarantine)


def test_batches(
    index: ClipIndex,
    config: DataConfig,
    videos: Sequence[int],
    batch: int,
    clips: int,
    crops: int,
    quarantine: Quarantine | None = None,
) -> Iterator[Views]:
    """Test views of the given videos, every video once and all its views together.

    Args:
        index: videos of the test split.
        config: clips, views and the number of workers.
        videos: rows of the index.
        batch: views that a batch should hold, if a video has no more.
        clips, crops: views of each video.
        quarantine: of the run: videos that are not opened; what proves unreadable is added to it.
    """
    step = max(1, batch // (clips * crops))
    places = [Place(sampling.TEST, 0, i, video) for i, video in enumerate(videos)]
    batches = (places[begin : begin + step] for begin in range(0, len(places), step))
    views = TestVideos(index, config, clips, crops, quarantine)
    return Batches(views, batches, collate_views, config, views.quarantine)


test_batches.__test__ = False  # not a test case, whatever pytest makes of the name
