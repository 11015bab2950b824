"""Batch statistics over more than one pass: their layers, and averages for evaluation.

Layers are known by what they hold, running statistics, and not by their class, so every norm that
keeps them takes part, whoever wrote it.
"""

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from snvideo.norm.batch_norm import BatchNorm1d
from snvideo.norm.batch_renorm import BatchRenorm1d
from snvideo.norm.distributed import resolve_process_group
from snvideo.norm.functional import batch_statistics
from snvideo.norm.reference import BatchStatistics

TrackingLayer: TypeAlias = Any
"""A module with running_mean, running_var and momentum, of any class."""


def tracking_layers(model: nn.Module, *, frozen: bool = True) -> list[TrackingLayer]:
    """Layers whose running batch statistics are to be kept up to date, in the model's order.

    A layer behind a wrapper that shows its attributes (torch.compile, checkpoint wrappers) is
    there once; one whose `track_running_stats` has been switched off is not.

    Args:
        model: any module.
        frozen: include layers of which no parameter is trained, as in a teacher or an average of
            weights.
    """

    def found(module: nn.Module) -> bool:
        own = list(module.parameters(recurse=False))
        is_trained = not own or any(parameter.requires_grad for parameter in own)
        # not what a wrapper hands through
        held = vars(module) | dict(module.named_buffers(recurse=False))
        has_statistics = isinstance(held.get("running_mean"), Tensor)
        return has_statistics and hasattr(module, "momentum") and (frozen or is_trained)

    return [module for module in model.modules() if found(module) and is_tracking(module)]


def is_tracking(layer: TrackingLayer) -> bool:
    """True unless the layer's statistics have been switched off."""
    return getattr(layer, "track_running_stats", True)


def input_of(args: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """First input of a layer, from what a hook of its passes is given."""
    return next(iter((*args, *named.values())), None)


@contextmanager
def momentum_one(layers: list[TrackingLayer]) -> Iterator[None]:
    """Make running statistics the batch statistics of the last pass."""
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = 1.0
    try:
        yield
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum


def statistics_of(layers: list[TrackingLayer]) -> list[Tensor]:
    """Running statistics and counters that the layers hold."""
    names = ("running_mean", "running_var", "num_batches_tracked")
    held = (getattr(layer, name, None) for layer in layers for name in names)
    return [tensor for tensor in held if isinstance(tensor, Tensor)]


@contextmanager
def kept_statistics(layers: list[TrackingLayer]) -> Iterator[None]:
    """Restore the running statistics of the layers at the end."""
    buffers = statistics_of(layers)
    kept = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        if buffers:
            torch._foreach_copy_(buffers, kept)


@contextmanager
def kept_modes(model: nn.Module) -> Iterator[None]:
    """Restore the training or evaluation mode of every module at the end."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def add_over_processes(sums: list[Tensor]) -> None:
    """Add up tensors over all processes, in place and in one message."""
    if sums and dist.is_available() and dist.is_initialized():
        flat = torch.cat([tensor.flatten() for tensor in sums])
        dist.all_reduce(flat)
        for tensor, total in zip(sums, flat.split([t.numel() for t in sums]), strict=True):
            tensor.copy_(total.view_as(tensor))


def _has_own_forward(layer: TrackingLayer) -> bool:
    """True for a Batch Normalization that may take its statistics over something else."""
    known = _BatchNorm.forward, BatchNorm1d.forward, BatchRenorm1d.forward
    is_own = isinstance(layer, _BatchNorm) and not isinstance(layer, nn.SyncBatchNorm)
    return is_own and type(layer).forward not in known


def _statistics_of_pass(layer: TrackingLayer, x: Tensor) -> BatchStatistics | None:
    """Batch statistics that a layer took in the pass that it has just done, while training.

    Args:
        layer: of any class; one that is not known takes them over its batch.
        x: (N, C, ...), the layer's input; without N where nn.InstanceNorm takes it so.

    Returns:
        the statistics; None of an empty batch that no other process may fill.
    """
    process_group = getattr(layer, "process_group", None)
    if isinstance(layer, nn.SyncBatchNorm):  # for which None is all processes
        process_group = process_group or "world"
    processes = resolve_process_group(process_group)
    if x.numel() == 0 and processes is None:
        return None
    if _has_own_forward(layer):  # it has stored them, with momentum 1
        count = x.numel() // layer.num_features
        variance = layer.running_var.double() * ((count - 1) / count)
        return BatchStatistics(layer.running_mean.double()[None], variance[None], count)
    if isinstance(layer, _InstanceNorm):  # the mean over its samples' own
        x = x.unsqueeze(0) if x.dim() == layer._get_no_batch_dim() else x
        return batch_statistics(x, group_size=1)
    return batch_statistics(x, getattr(layer, "group_size", None), processes)


class _LayerSums:
    """Sums over the groups that reached one layer, in float64."""

    def __init__(self, layer: TrackingLayer, kind: Literal["average", "population"]) -> None:
        zeros = torch.zeros_like(layer.running_mean, dtype=torch.float64).flatten()
        self.mean, self.square, self.variance = zeros, zeros.clone(), zeros.clone()
        self.weight = zeros.new_zeros(1)
        # Instance Normalization evaluates with the variance inside of a sample, not between them.
        self.joins = kind == "population" and not isinstance(layer, _InstanceNorm)

    def tensors(self) -> list[Tensor]:
        """Every sum."""
        return [self.weight, self.mean, self.square, self.variance]

    def add(self, batch: BatchStatistics) -> None:
        """Enter every group of a batch."""
        weight = batch.count if self.joins else 1
        self.weight += weight * len(batch.mean)
        self.mean += weight * batch.mean.sum(0)
        self.square += weight * batch.mean.square().sum(0)
        self.variance += weight * batch.variance.sum(0)

    def store(self, layer: TrackingLayer) -> None:
        """Make the sums the layer's running statistics."""
        mean, square, variance = (total / self.weight for total in self.tensors()[1:])
        if self.joins:
            variance = variance + (square - mean.square()).clamp_min(0)
        layer.running_mean.copy_(mean.view_as(layer.running_mean))
        layer.running_var.copy_(variance.view_as(layer.running_var))


def average_statistics(
    model: nn.Module,
    batches: Iterable[Any],
    kind: Literal["average", "population"] = "average",
    layers: list[TrackingLayer] | None = None,
) -> int:
    """Replace running statistics by those of some training batches, with the weights frozen.

    The SN paper evaluates with batch averages (arXiv 1806.10779, section 3.1); precise Batch
    Normalization combines them into those of the population (Wu & Johnson, arXiv 2105.07576,
    section 3). Moving averages are a poor estimate with few clips a group.

    Every layer's statistics are those of its input, taken as while training: over the batch, its
    ghost groups, the batches of all processes, or each sample in Instance Normalization. Mode,
    gradients and random number generators are left as found. Each process passes its own share of
    the batches; all end with the same.

    Args:
        model: any model, frozen ones too; norms without running statistics are left alone.
        batches: inputs, each what `model` takes, alone or with labels (N,) as data loaders give
            them; of the size that the network was trained with, or
            several ghost groups. Synchronised norms need as many on every process.
        kind: "average" takes the mean of the groups' means and of their variances; "population" the
            mean and variance of all values, by the law of total variance (Instance Normalization
            has the average in both).
        layers: those whose statistics are replaced; None: all of `tracking_layers(model)`.

    Returns:
        the number of batches passed by all processes together; 0 leaves everything as it was.

    Raises:
        ValueError: for an unknown kind.

    Warns:
        UserWarning: if there is nothing to average.
    """
    if kind not in ("average", "population"):
        raise ValueError(f"kind is 'average' or 'population' (got {kind!r})")
    layers = tracking_layers(model) if layers is None else layers
    if not layers:
        _say_nothing_to_average("the network has no layer that keeps running statistics")
        return 0
    sums = {layer: _LayerSums(layer, kind) for layer in layers}

    def collect(layer: TrackingLayer, args: Any, named: dict[str, Any], _: Any) -> None:
        if layer.training and is_tracking(layer):  # a frozen norm stays in evaluation mode
            batch = _statistics_of_pass(layer, input_of(args, named))
            if batch is not None:
                sums[layer].add(batch)

    hooks = [layer.register_forward_hook(collect, with_kwargs=True) for layer in layers]
    passed = 0
    try:
        storing = [layer for layer in layers if _has_own_forward(layer)]
        with (
            kept_modes(model),
            kept_statistics(layers),
            momentum_one(storing),
            torch.no_grad(),
            torch.compiler.set_stance("force_eager"),  # compiled code skips hooks later than it
        ):
            model.eval()
            for layer in layers:
                layer.train()
            for batch in batches:
                model(without_labels(batch))
                passed += 1
    finally:
        for hook in hooks:
            hook.remove()

    count = torch.tensor([passed], dtype=torch.float64, device=layers[0].running_mean.device)
    add_over_processes([count, *(t for layer in layers for t in sums[layer].tensors())])
    averaged = [layer for layer in layers if sums[layer].weight > 0]
    for layer in averaged:
        sums[layer].store(layer)
    if not averaged:
        reason = "no norm has been in a pass that moves its statistics" if count else "no batches"
        _say_nothing_to_average(reason)
    return int(count)


def without_labels(batch: Any) -> Any:
    """The input in a batch (x, y) of a data loader, or the batch, which may be several inputs."""
    pair = isinstance(batch, list | tuple) and len(batch) == 2
    return batch[0] if pair and isinstance(batch[1], Tensor) and batch[1].dim() < 2 else batch


def _say_nothing_to_average(reason: str) -> None:
    warnings.warn(f"average_statistics changed nothing: {reason}", stacklevel=3)
