"""Clips one behind the other over whole videos, read in parts of bounded size."""

from collections.abc import Iterator, Sequence

import numpy as np

from snvideo.data import sampling
from snvideo.data.config import DataConfig
from snvideo.data.dataset import EvalBatch, EvalDataset, SampleKey
from snvideo.data.index import ClipIndex, Video
from snvideo.data.loader import BatchLoader

_FRAMES = 256  # most frames of a sample: it lies in memory as a whole, as do those read ahead


class ConsecutiveClips(EvalDataset):
    """Views of the clips of `sampling.consecutive_starts`, a sample for some of them at a time.

    In the key of a sample the number of its part of the video stands for the epoch.
    """

    def __init__(self, index: ClipIndex, config: DataConfig, crops: int) -> None:
        super().__init__(index, config, 1, crops)
        self._clips = max(1, _FRAMES // config.clip.frames)  # of a sample

    def starts(self, video: Video) -> np.ndarray:
        """Starts of all clips of a video, in frames (clips,)."""
        return sampling.consecutive_starts(self.config.clip, video.fps, video.frames)

    def key_numbers(self, key: SampleKey) -> np.ndarray:
        """Frames of the clips of a part of a video, int64 (clips, T)."""
        begin = key.epoch * self._clips
        return self.numbers(self.index[key.video])[begin : begin + self._clips]

    def parts(self, row: int) -> int:
        """Number of samples of a video."""
        return -(-len(self.starts(self.index[row])) // self._clips)


def consecutive_loader(
    dataset: ConsecutiveClips, rows: Sequence[int]
) -> Iterator[tuple[int, bool, EvalBatch]]:
    """Samples of videos, one after another.

    Yields:
        row of the video, whether this is its last sample, and a batch of this sample alone; of a
        video that cannot be read, each sample from the one that failed on is unreadable.
    """
    keys = (
        [SampleKey(sampling.TEST, part, row, row)]
        for row in rows
        for part in range(dataset.parts(row))
    )
    places = ((row, part) for row in rows for part in reversed(range(dataset.parts(row))))
    batches = BatchLoader(dataset, keys, dataset.config)
    for (row, left), batch in zip(places, batches, strict=True):
        yield row, not left, batch
