"""Batches on their way to a GPU while it works on the one before."""

from collections.abc import Iterator

import torch
from torch import Tensor

from snvideo.data.dataset import Batch


class Prefetched(Iterator[Batch]):
    """Batches whose clips and labels are on a GPU, copied one ahead on a stream of their own.

    Copies overlap with computation only from pinned memory, which the loader's batches are in.

    Args:
        batches: in pinned memory.
        device: a GPU.
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
            try:
                self._ahead = self._copy()
            except StopIteration:
                return

    def _copy(self) -> tuple[Batch, torch.cuda.Event]:
        batch = next(self._batches)

        def moved(tensor: Tensor) -> Tensor:
            return tensor.to(self._device, non_blocking=True)

        with torch.cuda.stream(self._stream):
            batch = batch._replace(clips=moved(batch.clips), labels=moved(batch.labels))
            copied = torch.cuda.Event()
            copied.record()
        return batch, copied
