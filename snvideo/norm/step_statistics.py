"""Batch statistics of the passes of one optimizer step, entered as one update."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.instancenorm import _InstanceNorm

from snvideo.norm.statistics import (
    TrackingLayer,
    add_over_processes,
    input_of,
    is_tracking,
    kept_statistics,
    momentum_one,
)


class StepStatistics:
    """Batch statistics of the passes of one optimizer step, see `one_update`."""

    def __init__(self, layers: list[TrackingLayer]) -> None:
        self._layers = layers
        self._buffers = [buffer for layer in layers for buffer in _buffers(layer)]
        self._kept = [buffer.clone() for buffer in self._buffers]
        self._uses = dict.fromkeys(layers, 0)  # in the pass under way
        self._seen: set[TrackingLayer] = set()
        self._sums = {layer: [torch.zeros_like(b) for b in _buffers(layer)] for layer in layers}
        self._counts = dict.fromkeys(layers, 0)  # of passes
        self._buffers = [buffer for layer in layers for buffer in _buffers(layer)]
        self._kept = [buffer.clone() for buffer in self._buffers]
        self.passes, self.cancelled = 0, False

    def collect(self) -> None:
        """To be called after every forward pass."""
        self.passes += 1
        entered = [layer for layer in self._layers if self._moved(layer)]
        for layer in entered:
            self._counts[layer] += 1
        if entered:
            sums = [total for layer in entered for total in self._sums[layer]]
            torch._foreach_add_(sums, [b for layer in entered for b in _buffers(layer)])
            # Batch Renormalization reads running statistics in every pass: those of the last step.
            torch._foreach_copy_(self._buffers, self._kept)
            # Batch Renormalization reads them: every pass finds those of before the step.
            torch._foreach_copy_(self._buffers, self._kept)
        self._uses = dict.fromkeys(self._layers, 0)

    def cancel(self) -> None:
        """Leave the running statistics as they were; all processes have to agree on it."""
        self.cancelled = True

    def before_use(self, layer: TrackingLayer, args: Any, named: dict[str, Any]) -> None:
        """Choose a momentum so that running statistics are the mean over a pass's uses so far."""
        if torch.compiler.is_compiling():  # the momentum stays 1: the last use counts
            return
        # Inside backward, activation checkpointing repeats what has been entered.
        repeats = torch._C._current_graph_task_id() != -1
        if not repeats and _is_moving(layer) and input_of(args, named).numel():
            if layer not in self._seen:  # and so was not used in the passes before
                self._seen.add(layer)
                self._counts[layer] = 0
                torch._foreach_zero_(self._sums[layer])
            self._uses[layer] += 1
        layer.momentum = 0.0 if repeats else 1 / max(1, self._uses[layer])

    def means(self) -> tuple[list[list[Tensor]], list[Tensor]]:
        """Mean over passes and processes of every layer's buffers, and how many passes it is of.

        All processes have to call.
        """
        sums = [total for layer in self._layers for total in self._sums[layer]]
        counts = torch.tensor([float(n) for n in self._counts.values()], device=sums[0].device)
        add_over_processes([*sums, counts])
        passes = list(counts.unbind())
        torch._foreach_div_(sums, [count for count in passes for _ in range(2)])
        return list(self._sums.values()), passes

    def _moved(self, layer: TrackingLayer) -> bool:
        """True if the pass under way has moved a layer's statistics."""
        # A layer that was never seen may be compiled.
        return self._uses[layer] > 0 or (layer not in self._seen and _is_moving(layer))


def _buffers(layer: TrackingLayer) -> tuple[Tensor, Tensor]:
    return layer.running_mean, layer.running_var


def _is_moving(layer: TrackingLayer) -> bool:
    return layer.training and is_tracking(layer)


@contextmanager
def one_update(layers: list[TrackingLayer]) -> Iterator[StepStatistics]:
    """Make the passes of one optimizer step count as one update of the running statistics.

    A step of k passes on W processes would otherwise move the running statistics k times, and
    differently in each process. The update is the mean over passes and processes, entered with each
    layer's own momentum (None: as one more of all updates so far).

    A layer that a pass uses more than once enters it with the mean over these uses; in a compiled
    network, with the last. What activation checkpointing computes again counts once. A layer that
    no pass has used, or that is in evaluation mode, keeps its statistics.

    Args:
        layers: the result of `tracking_layers`.
    """
    found = StepStatistics(layers)
    hooks = [
        layer.register_forward_pre_hook(found.before_use, with_kwargs=True) for layer in layers
    ]
    try:
        with kept_statistics(layers), momentum_one(layers):
            yield found
    finally:
        for hook in hooks:
            hook.remove()
    if layers and found.passes and not found.cancelled:
        for layer, means, passes in zip(layers, *found.means(), strict=True):
            _enter(layer, means, passes)


def _enter(layer: TrackingLayer, means: list[Tensor], passes: Tensor) -> None:
    """Update a layer's running statistics by means over a number of passes, 0 for not at all."""
    counts = not isinstance(layer, _InstanceNorm)  # whose counter stays 0
    counter = getattr(layer, "num_batches_tracked", None) if counts else None
    was_used = passes > 0  # a tensor: a GPU is not waited for
    if isinstance(counter, Tensor):
        counter.add_(was_used)
    for buffer, mean in zip(_buffers(layer), means, strict=True):
        weight = layer.momentum
        if weight is None:
            weight = 0.0 if counter is None else counter.to(buffer.dtype).reciprocal()
        buffer.lerp_(torch.where(was_used, mean, buffer), weight)
