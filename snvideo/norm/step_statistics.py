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
    statistics_of,
)


class StepStatistics:
    """Batch statistics of the passes of one optimizer step, see `one_update`."""

    def __init__(self, layers: list[TrackingLayer]) -> None:
        self._layers = layers
        self._state = statistics_of(layers)
        self._kept = [tensor.clone() for tensor in self._state]
        self._counters = {layer: counter_of(layer) for layer in layers}
        self._before = {x: None if n is None else n.clone() for x, n in self._counters.items()}
        self._uses = dict.fromkeys(layers, 0)  # in the pass under way
        self._seen: set[TrackingLayer] = set()
        self._sums = {layer: [torch.zeros_like(b) for b in _buffers(layer)] for layer in layers}
        self._counts: dict[TrackingLayer, float | Tensor] = dict.fromkeys(layers, 0.0)  # of passes
        self.passes, self.cancelled = 0, False

    def collect(self) -> None:
        """To be called after every pass, once it has gone backward, if it does."""
        self.passes += 1
        sums, buffers = [], []
        for layer in self._layers:
            weight = self._weight(layer)
            if not isinstance(weight, Tensor) and not weight:
                continue
            self._counts[layer] = self._counts[layer] + weight
            for total, buffer in zip(self._sums[layer], _buffers(layer), strict=True):
                sums.append(total)
                if isinstance(weight, Tensor):
                    buffer = buffer * weight.to(buffer.dtype)
                buffers.append(buffer)
        if sums:
            torch._foreach_add_(sums, buffers)
            # Batch Renormalization reads them: every pass finds those of before the step.
            torch._foreach_copy_(self._state, self._kept)
        self._uses = dict.fromkeys(self._layers, 0)

    def _weight(self, layer: TrackingLayer) -> float | Tensor:
        """1 if the pass under way has moved a layer's statistics, else 0."""
        if self._uses[layer] or layer in self._seen or not _is_moving(layer):
            return float(self._uses[layer] > 0)
        # It may be compiled. Its counter tells, as a tensor: a GPU is not waited for.
        counter, before = self._counters[layer], self._before[layer]
        return 1.0 if counter is None or before is None else (counter != before).float()

    @property
    def is_uncollected(self) -> bool:
        """True after a pass of layers that are not compiled, until `collect` is called."""
        return any(self._uses.values())

    def cancel(self) -> None:
        """Leave the running statistics as they were; all processes have to agree on it."""
        self.cancelled = True

    def before_use(self, layer: TrackingLayer, args: Any, named: dict[str, Any]) -> None:
        """Choose a momentum so that running statistics are the mean over a pass's uses so far."""
        if torch.compiler.is_compiling():  # the momentum stays 1: the last use counts
            return
        # Inside backward, activation checkpointing repeats what has been entered.
        repeats = torch._C._current_graph_task_id() != -1
        x = input_of(args, named)
        is_empty = isinstance(x, Tensor) and not x.numel()
        if not repeats and not is_empty and _is_moving(layer):
            if layer not in self._seen:  # and so was not used in the passes before
                self._seen.add(layer)
                self._counts[layer] = 0.0
                torch._foreach_zero_(self._sums[layer])
            self._uses[layer] += 1
        layer.momentum = 0.0 if repeats else 1 / max(1, self._uses[layer])

    def means(self) -> tuple[list[list[Tensor]], list[Tensor]]:
        """Mean over passes and processes of every layer's buffers, and how many passes it is of.

        All processes have to call.
        """
        sums = [total for layer in self._layers for total in self._sums[layer]]
        found = list(self._counts.values())
        sure = [0.0 if isinstance(count, Tensor) else count for count in found]
        counts = torch.tensor(sure, device=sums[0].device)
        for position, count in enumerate(found):
            if isinstance(count, Tensor):
                counts[position] = count
        add_over_processes([*sums, counts])
        passes = list(counts.unbind())
        torch._foreach_div_(sums, [count for count in passes for _ in range(2)])
        return list(self._sums.values()), passes


def _buffers(layer: TrackingLayer) -> tuple[Tensor, Tensor]:
    return layer.running_mean, layer.running_var


def counter_of(layer: TrackingLayer) -> Tensor | None:
    """Number of passes that a layer has counted, if it does."""
    counter = getattr(layer, "num_batches_tracked", None)
    counts = isinstance(counter, Tensor) and not isinstance(layer, _InstanceNorm)  # its stays 0
    return counter if counts else None


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

    Raises:
        RuntimeError: after a pass without the call of `collect` that has to follow it.

    Example::

        >>> import torch
        >>> from snvideo.norm import BatchNorm2d, tracking_layers
        >>> layer = BatchNorm2d(4)
        >>> with one_update(tracking_layers(layer)) as statistics:
        ...     for inputs in torch.randn(3, 8, 4, 5, 5):
        ...         layer(inputs).square().mean().backward()
        ...         statistics.collect()
        >>> int(layer.num_batches_tracked)
        1
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
    if found.is_uncollected and not found.cancelled:
        raise RuntimeError("one_update: call collect() of its statistics after every pass")
    if layers and found.passes and not found.cancelled:
        for layer, means, passes in zip(layers, *found.means(), strict=True):
            _enter(layer, means, passes)


def _enter(layer: TrackingLayer, means: list[Tensor], passes: Tensor) -> None:
    """Update a layer's running statistics by means over a number of passes, 0 for not at all."""
    counter = counter_of(layer)
    was_used = passes > 0  # a tensor: a GPU is not waited for
    if counter is not None:
        counter.add_(was_used)
    for buffer, mean in zip(_buffers(layer), means, strict=True):
        weight = layer.momentum
        if weight is None:
            weight = 0.0 if counter is None else counter.clamp(1).to(buffer.dtype).reciprocal()
        buffer.lerp_(torch.where(was_used, mean, buffer), weight)
