"""Diagnosis of the norms of a network: the noise of their batch statistics, without training."""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.instancenorm import _InstanceNorm

from snvideo.norm import noise
from snvideo.norm.factory import GROUPS
from snvideo.norm.functional import instance_statistics
from snvideo.norm.statistics import input_of, kept_modes, tracking_layers, without_labels
from snvideo.norm.switch_norm import SwitchNorm
from snvideo.norm.takeover import CHANNEL_NORMS

SIZES = (1, 2, 4, 8, 16, 32)
"""Clips of a group at which the noise of every layer is stated."""


@dataclass(frozen=True)
class NormDiagnosis:
    """Statistics of one use of a norm, see `snvideo.norm.noise` for the formulas."""

    layer: str
    """Name in the model."""
    use: int
    """1, and more for a norm that a pass uses more than once: each has statistics of its own."""
    kind: str
    """Name of the layer's class."""
    channels: int
    constant: int
    """Channels without any spread, which the other figures leave out."""
    positions: int
    """Values of a channel in a clip."""
    clips: int
    """Clips that all figures are of."""
    group: int
    """Clips of a group in the passes."""
    mean_error: float
    """Root mean square of (m_bn - mu) / sigma over the groups as they were in the passes."""
    variance_error: float
    """Root mean square of (v_bn - sigma^2) / sigma^2 over the same groups."""
    noise: float
    """sqrt(mean_error^2 + variance_error^2 / 4)."""
    noise_by_size: dict[int, float]
    """Noise of so many clips drawn independently from those of the passes: 1 to 32, and `group`."""
    distances: dict[str, float]
    """How far instance, group, layer and batch statistics lie from the population's, in units of
    the noise. Batch is the noise itself. That of group and layer has a constant part, for channels
    differ, which is no noise."""
    channel_groups: int
    """Groups of channels of the group statistics."""
    effective_samples: float
    """Independent values that a clip's mean of a channel is worth, of `positions`."""


@dataclass(frozen=True)
class Diagnosis:
    """Diagnosed norms in the order of their use, and those that could not be, with the reason."""

    layers: list[NormDiagnosis]
    left_out: dict[str, str] = field(default_factory=dict)


def diagnose(
    model: nn.Module, batches: Iterable[Any], clips_per_group: int | None = None
) -> Diagnosis:
    """Measure the noise of batch statistics at the input of every norm, without training.

    Every Batch, Group, Layer, Instance and Switchable Normalization takes part, whatever statistics
    it normalizes with, and so does any layer with running statistics; others that are called norms
    are listed as left out. The network is seen at this moment: noise after some training is
    another.

    The inputs of a norm are those that the network has now. Behind norms of few clips, or of one
    alone, clips look alike, for these have taken their differences away: noise there is small, and
    no sign that batch statistics would serve. To know what they would be worth, pass large batches
    through the network with Batch Normalization over all of each:
    `convert_norm(copy.deepcopy(model), "bn", group_size=None)`.

    A model in evaluation mode passes in training mode; one in training mode is taken as it is, with
    the parts that are frozen. Mode, buffers (running statistics), random number generators and
    gradients are left as found, and every pass finds the buffers as they are.

    Args:
        model: any network, of 1, 2 or 3 dimensions.
        batches: inputs, each what `model` takes, alone or with labels (N,), of whole groups.
            A few hundred groups are enough; tables of 16 bytes a clip and channel are kept in the
            memory of the host.
        clips_per_group: clips that batch statistics are taken over; None: `group_size` of each
            layer that has one, else the whole batch. It does not change what the network computes.

    Returns:
        figures of every use of a norm. A layer that sees k samples a clip, as of a network that has
        folded the frames into the batch, has the k consecutive samples of a clip joined.

    Raises:
        ValueError: for a network without norms, batches that are no whole groups or less than two
            groups in all, or a value that is not finite.

    Example::

        >>> model = nn.Sequential(nn.Conv1d(3, 8, 3), nn.BatchNorm1d(8))
        >>> found = diagnose(model, (torch.randn(8, 3, 64) for _ in range(20)), clips_per_group=4)
        >>> [(layer.layer, layer.clips, layer.noise < 0.2) for layer in found.layers]
        [('1', 160, True)]
    """
    if clips_per_group is not None and clips_per_group < 1:
        raise ValueError(f"clips_per_group is 1 or more (got {clips_per_group})")
    norms = _norms(model)
    if not norms:
        raise ValueError("the network has no norm whose statistics could be diagnosed")
    tables = _collect(model, norms, batches, clips_per_group)
    used = {table.layer for table in tables}
    left_out = {name: "no pass used it" for name, norm in norms.items() if norm not in used}
    left_out |= _unknown_norms(model, set(norms))
    layers = []
    for table in tables:
        if table.reason is None:
            found = table.diagnose()
            if isinstance(found, NormDiagnosis):
                layers.append(found)
                continue
            table.reason = found
        left_out[table.name if table.use == 1 else f"{table.name} (use {table.use})"] = table.reason
    return Diagnosis(layers, left_out)


def _norms(model: nn.Module) -> dict[str, nn.Module]:
    """Norms by name. nn.LayerNorm is one over channels that come last."""
    tracking = set(tracking_layers(model))

    def is_norm(module: nn.Module) -> bool:
        if type(module) is nn.LayerNorm:
            return len(module.normalized_shape) == 1
        return isinstance(module, CHANNEL_NORMS) or module in tracking

    return {name: module for name, module in model.named_modules() if is_norm(module)}


def _unknown_norms(model: nn.Module, known: set[str]) -> dict[str, str]:
    """Layers that call themselves norms and are not known, with the reason to leave them out."""
    return {
        name: f"no known layout: {type(module).__name__}"
        for name, module in model.named_modules()
        if name not in known
        and "norm" in type(module).__name__.lower()
        and not any(True for _ in module.children())
    }


class _Table:
    """Moments that one use of a norm has seen, pass by pass."""

    def __init__(self, name: str, use: int, layer: nn.Module) -> None:
        self.name, self.use, self.layer = name, use, layer
        self.parts: list[Tensor] = []  # (2, n, C) each
        self.samples = self.group = self.positions = 0  # samples of a clip, clips of a group
        self.reason: str | None = None  # not to be diagnosed

    def add(self, x: Tensor, clips: int, group: int) -> None:
        """Enter the moments of an input (n, C, ...) of a pass of so many clips."""
        samples, rest = divmod(len(x), clips)
        if rest or not samples:
            self.reason = f"it saw {len(x)} samples in a pass of {clips} clips"
        elif self.parts and samples != self.samples:
            self.reason = f"it saw {self.samples} samples of a clip, and {samples} in another pass"
        elif self.parts and group != self.group:
            raise ValueError(
                f"expected batches of one size (got {group} clips after {self.group}): leave out "
                "the last one, or give clips_per_group"
            )
        else:
            self.samples, self.group = samples, group
            self.positions = samples * math.prod(x.shape[2:])
            self.parts.append(instance_statistics(x).cpu())

    def diagnose(self) -> NormDiagnosis | str:
        """The figures, or the reason why there are none."""
        clips = noise.joined(self.parts, self.samples)
        self.parts.clear()  # tables are large
        number, channels = clips.mean.shape
        if not all(table.isfinite().all() for table in clips):
            raise ValueError(
                f"norm '{self.name}' was given values that are not finite: weights or inputs are "
                "broken, or the numbers too large for their dtype"
            )
        if number < 2 * self.group:
            raise ValueError(
                f"expected at least two groups of {self.group} clips to compare "
                f"(norm '{self.name}' saw {number} clips)"
            )
        varies = noise.population(clips).varies
        if not varies.any():
            return f"all of its {channels} channels are constant"
        measured = noise.grouped_errors(clips, self.group)
        sizes = sorted({*SIZES, self.group})
        by_size = {size: noise.expected_errors(clips, size).noise(varies) for size in sizes}
        channel_groups = _channel_groups(self.layer, channels)
        at_hand = measured.noise(varies)
        return NormDiagnosis(
            layer=self.name,
            use=self.use,
            kind=type(self.layer).__name__,
            channels=channels,
            constant=channels - int(varies.sum()),
            positions=self.positions,
            clips=number,
            group=self.group,
            mean_error=float(measured.mean[varies].mean().sqrt()),
            variance_error=float(measured.variance[varies].mean().sqrt()),
            noise=at_hand,
            noise_by_size=by_size,
            distances={
                "instance": by_size[1],
                "group": noise.group_errors(clips, channel_groups).noise(varies),
                "layer": noise.layer_errors(clips).noise(varies),
                "batch": at_hand,
            },
            channel_groups=channel_groups,
            effective_samples=noise.effective_samples(clips),
        )


def _channel_groups(layer: nn.Module, channels: int) -> int:
    """Groups of the layer's own group statistics, or the usual number."""
    groups = 1
    if isinstance(layer, nn.GroupNorm) and layer.num_groups < channels:
        groups = layer.num_groups
    elif isinstance(layer, SwitchNorm):
        groups = layer.mixture.channel_groups
    return groups if groups > 1 else math.gcd(GROUPS, channels)


def _collect(
    model: nn.Module,
    norms: dict[str, nn.Module],
    batches: Iterable[Any],
    clips_per_group: int | None,
) -> list[_Table]:
    """Moments of every use of a norm, in the order of their first uses."""
    tables: dict[tuple[str, int], _Table] = {}
    uses = dict.fromkeys(norms, 0)  # in the pass under way
    clips = 0

    def hook_of(name: str) -> Any:
        def enter(layer: nn.Module, args: Any, named: dict[str, Any]) -> None:
            x = _channels_second(layer, input_of(args, named))
            if x is None:
                return
            uses[name] += 1
            use = uses[name]
            table = tables.setdefault((name, use), _Table(name, use, layer))
            samples = max(1, len(x) // clips)  # which are what a layer's own group is counted in
            own = (getattr(layer, "group_size", None) or 0) // samples
            group = clips_per_group or own or clips
            if clips % group:
                raise ValueError(f"expected batches of whole groups of {group} clips (got {clips})")
            table.add(x, clips, group)

        return enter

    hooks = [
        norm.register_forward_pre_hook(hook_of(name), with_kwargs=True)
        for name, norm in norms.items()
    ]
    try:
        with (
            kept_modes(model),
            _kept_generators(),
            torch.no_grad(),
            torch.compiler.set_stance("force_eager"),  # compiled code skips hooks later than it
        ):
            if not model.training:
                model.train()
            for batch in batches:
                inputs = without_labels(batch)
                clips = _clips(inputs)
                uses = dict.fromkeys(norms, 0)
                with _kept_buffers(model):
                    model(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    if not clips:
        raise ValueError("there are no batches to diagnose norms with")
    return list(tables.values())


def _channels_second(layer: nn.Module, x: Any) -> Tensor | None:
    """The input of a norm as (N, C, ...); None of one without values."""
    if not isinstance(x, Tensor) or not x.numel() or x.dim() < 2:
        return None
    if isinstance(layer, _InstanceNorm) and x.dim() == layer._get_no_batch_dim():
        return x.unsqueeze(0)
    return x.movedim(-1, 1) if type(layer) is nn.LayerNorm else x


def _clips(inputs: Any) -> int:
    """Number of clips of a batch, by the first tensor in it."""
    if isinstance(inputs, Tensor):
        return len(inputs)
    values = inputs.values() if isinstance(inputs, dict) else inputs
    for value in values if isinstance(values, Iterable) else ():
        if isinstance(value, Tensor | list | tuple | dict):
            return _clips(value)
    raise ValueError(f"expected batches with a tensor (N, ...) in them (got {type(inputs)})")


@contextmanager
def _kept_buffers(model: nn.Module) -> Iterator[None]:
    """Restore the values of all buffers at the end."""
    kept = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        for buffer, value in kept:
            buffer.copy_(value)


@contextmanager
def _kept_generators() -> Iterator[None]:
    """Restore torch's random number generators of all devices in use at the end."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=list(devices)):
        yield
