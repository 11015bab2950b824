"""Batch statistics over more than one pass: for training steps of several passes, and evaluation.

Layers are known by what they hold, running statistics, and not by their class, so every norm that
keeps them takes part, whoever wrote it.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor, nn

from snvideo.norm.distributed import resolve_process_group
from snvideo.norm.functional import batch_statistics
from snvideo.norm.reference import BatchStatistics

TrackingLayer: TypeAlias = Any
"""A module with running_mean, running_var, num_batches_tracked and momentum, of any class."""


def tracking_layers(model: nn.Module) -> list[TrackingLayer]:
    """Layers whose running batch statistics are to be kept up to date, in the model's order.

    Layers whose parameters are all frozen keep their statistics, too.
    """

    def tracks(module: nn.Module) -> bool:
        own = list(module.parameters(recurse=False))
        is_trained = not own or any(parameter.requires_grad for parameter in own)
        has_statistics = isinstance(getattr(module, "running_mean", None), Tensor)
        return has_statistics and hasattr(module, "momentum") and is_trained

    return [module for module in model.modules() if tracks(module)]


@contextmanager
def _momentum_one(layers: list[TrackingLayer]) -> Iterator[None]:
    """Make running statistics the batch statistics of the last pass."""
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = 1.0
    try:
        yield
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum


@contextmanager
def kept_statistics(layers: list[TrackingLayer]) -> Iterator[None]:
    """Restore the running statistics of the layers at the end."""
    names = ("running_mean", "running_var", "num_batches_tracked")
    buffers = [b for layer in layers for n in names if (b := getattr(layer, n)) is not None]
    kept = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        if buffers:
            torch._foreach_copy_(buffers, kept)


def _over_processes(sums: list[Tensor]) -> None:
    """Add up tensors of one dtype over all processes, in place and in one message."""
    if sums and dist.is_available() and dist.is_initialized():
        flat = torch.cat([tensor.flatten() for tensor in sums])
        dist.all_reduce(flat)
        for tensor, total in zip(sums, flat.split([t.numel() for t in sums]), strict=True):
            tensor.copy_(total.view_as(tensor))


class StepStatistics:
    """Batch statistics of the passes of one optimizer step, see `one_update`."""

    def __init__(self, buffers: list[Tensor]) -> None:
        self._buffers, self.passes, self.cancelled = buffers, 0, False
        self.sums: list[Tensor] = []

    def collect(self) -> None:
        """To be called after every forward pass."""
        self.passes += 1
        if not self.sums:
            self.sums = [buffer.clone() for buffer in self._buffers]
        else:
            torch._foreach_add_(self.sums, self._buffers)

    def cancel(self) -> None:
        """Leave the running statistics as they were; all processes have to agree on it."""
        self.cancelled = True


@contextmanager
def one_update(layers: list[TrackingLayer]) -> Iterator[StepStatistics]:
    """Make the passes of one optimizer step count as one update of the running statistics.

    A step of k passes on W processes would otherwise move the running statistics k times, and
    differently in each process. The update is the mean over passes and processes, entered with each
    layer's own momentum.

    Args:
        layers: the result of `tracking_layers`.
    """
    buffers = [b for layer in layers for b in (layer.running_mean, layer.running_var)]
    found = StepStatistics(buffers)
    with kept_statistics(layers), _momentum_one(layers):
        yield found
    if not found.sums or found.cancelled:
        return
    count = torch.full((1,), float(found.passes), device=buffers[0].device)
    _over_processes([*found.sums, count])
    torch._foreach_div_(found.sums, count[0])
    for position, (buffer, mean) in enumerate(zip(buffers, found.sums, strict=True)):
        buffer.lerp_(mean, layers[position // 2].momentum)
    for layer in layers:
        layer.num_batches_tracked.add_(1)


class _LayerSums:
    """Sums over the groups that reached one layer, in float64."""

    def __init__(self, layer: TrackingLayer) -> None:
        zeros = torch.zeros_like(layer.running_mean, dtype=torch.float64)
        self.mean, self.square, self.variance = zeros, zeros.clone(), zeros.clone()
        self.weight = zeros.new_zeros(1)

    def tensors(self) -> list[Tensor]:
        """Every sum."""
        return [self.weight, self.mean, self.square, self.variance]

    def add(self, batch: BatchStatistics, weight: float | Tensor) -> None:
        """Enter every group of a batch with a weight."""
        self.weight += weight * len(batch.mean)
        self.mean += weight * batch.mean.sum(0)
        self.square += weight * batch.mean.square().sum(0)
        self.variance += weight * batch.variance.sum(0)


def average_statistics(
    model: nn.Module,
    batches: Iterable[Tensor],
    kind: Literal["average", "population"] = "average",
) -> int:
    """Replace running statistics by those of some training batches, with the weights frozen.

    The SN paper evaluates with batch averages (arXiv 1806.10779, section 3.1); precise Batch
    Normalization combines them into those of the population (Wu & Johnson, arXiv 2105.07576,
    section 3). Moving averages are a poor estimate with few clips a group.

    Every layer's statistics are those of its input, taken as while training: over the batch, its
    ghost groups, or the batches of all processes. Mode, gradients and random number generators are
    left as found. Each process passes its own share of the batches; all end with the same.

    Args:
        model: any model; norms without running statistics are left alone.
        batches: inputs, each what `model` takes; of the size that the network was trained with, or
            several ghost groups. Synchronised norms need as many on every process.
        kind: "average" takes the mean of the groups' means and of their variances; "population" the
            mean and variance of all values, by the law of total variance.

    Returns:
        the number of batches passed by all processes together; 0 leaves everything as it was.
    """
    layers = tracking_layers(model)
    if not layers:
        return 0
    sums = {layer: _LayerSums(layer) for layer in layers}

    def collect(layer: TrackingLayer, inputs: tuple[Tensor, ...]) -> None:
        if not layer.training:  # frozen: it keeps its statistics
            return
        process_group = getattr(layer, "process_group", None)
        group_size = getattr(layer, "group_size", None)
        batch = batch_statistics(inputs[0], group_size, resolve_process_group(process_group))
        sums[layer].add(batch, batch.count if kind == "population" else 1)

    modes = [(module, module.training) for module in model.modules()]
    hooks = [layer.register_forward_pre_hook(collect) for layer in layers]
    passed = 0
    model.eval()
    for layer in layers:
        layer.train()
    try:
        with kept_statistics(layers), torch.no_grad():
            for batch in batches:
                model(batch)
                passed += 1
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes:
            module.training = training

    count = torch.tensor([passed], dtype=torch.float64, device=layers[0].running_mean.device)
    _over_processes([count, *(t for layer in layers for t in sums[layer].tensors())])
    for layer in layers:
        weight, *totals = sums[layer].tensors()
        if weight > 0:
            mean, square, variance = (total / weight for total in totals)
            if kind == "population":
                variance = variance + (square - mean.square()).clamp_min(0)
            layer.running_mean.copy_(mean)
            layer.running_var.copy_(variance)
    return int(count)
