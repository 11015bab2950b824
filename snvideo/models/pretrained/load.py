"""Loading of weights of any format into a network: all that belongs there, or nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from snvideo.errors import SnvideoError
from snvideo.models.config import WeightsConfig
from snvideo.models.non_local import NonLocal
from snvideo.models.pretrained.formats.source import WeightsSource, norm_kind
from snvideo.models.pretrained.load_report import LoadReport, Status, TensorEntry
from snvideo.models.pretrained.metadata import WeightsMetadata, layer_strides
from snvideo.models.pretrained.name_mapping import (
    canonical_layers,
    classifier_name,
    match_classes,
    read_classes,
)
from snvideo.models.pretrained.native import check_strides
from snvideo.models.tsm import ShiftedBottleneck
from snvideo.norm import SwitchNorm, create_norm, gain_changes
from snvideo.norm.mixture import ONE_SAMPLE, PAPER, ordered_parts

_COUNTER = "num_batches_tracked"  # of norms: means nothing in another training, and stays
_LOGITS = ("mean_logits", "var_logits")
_NORM_FIELDS = ("weight", "bias", "running_mean", "running_var", *_LOGITS)
_NEW_HEAD = "start the classifier anew with model.weights.head=new"
_NEW_NORMS = "start the norms anew with model.weights.norms=new"


def load_weights_into(
    model: nn.Module,
    source: WeightsSource,
    config: WeightsConfig,
    classes: Sequence[str],
    name: str = "this network",
) -> LoadReport:
    """Start a network from weights.

    Every layer but the classifier has to be there, and nothing else. An error changes nothing.

    Args:
        model: changed in place; its classifier and, where configured, its norms stay as they are.
        source: from `snvideo.models.pretrained.open_weights`.
        config: the treatment of kernels, norms and classes.
        classes: of the network, in the order of its logits.
        name: of the network, for messages.

    Returns:
        the status of every tensor.

    Raises:
        SnvideoError: if they do not fit: architecture, strides, norm or classes.
    """
    loader = _Loader(model, source, config, name)
    loader.load_layers()
    new_classes = loader.load_classifier(classes)
    for tensor in loader.new:
        if not loader.tensors[tensor].float().isfinite().all():
            raise SnvideoError(
                f"{source.origin}: {tensor} has values that are not finite: the file is damaged, "
                "or its training had gone wrong"
            )
    model.load_state_dict(model.state_dict() | loader.new)
    entries, notes = tuple(loader.entries), (*source.notes, *_gain_note(model, source, config))
    return LoadReport(source.origin, source.format, source.sha256, entries, notes, new_classes)


def check_layers(model: nn.Module, source: WeightsSource, name: str) -> None:
    """Check that weights have all layers of a network but norms and classifier, and no others.

    Raises SnvideoError if they do not; nothing is loaded, so the network may lie on "meta".
    """
    _Loader(model, source, WeightsConfig(source=source.origin, norms="new"), name).load_layers()


def _gain_note(model: nn.Module, source: WeightsSource, config: WeightsConfig) -> list[str]:
    """Distance of Switchable Normalization from the Batch Normalization that it started from."""
    if source.norm != "bn" or config.norms == "new":
        return []
    largest = max(gain_changes(model), key=lambda change: change.size, default=None)
    return [] if largest is None else [f"SN begins near BN: at the most, {largest}"]


class _Loader:
    """One loading: new values, and all that does not fit."""

    def __init__(
        self, model: nn.Module, source: WeightsSource, config: WeightsConfig, name: str
    ) -> None:
        self.model, self.source, self.config, self.name = model, source, config, name
        self.origin, self.head = source.origin, classifier_name(model)
        self.tensors = self._source_tensors()
        self.new: dict[str, Tensor] = {}
        self.entries: list[TensorEntry] = []
        self.used: set[str] = set()
        self.missing: list[str] = []
        self.shapes: list[str] = []  # that do not fit
        self.norm_mismatch: str | None = None

    def _source_tensors(self) -> dict[str, Tensor]:
        """Tensors of the source by the names of the network."""
        if not self.source.canonical_names:
            return dict(self.source.tensors)
        layers = canonical_layers(self.model)
        if "stem.conv" not in layers and "slow.stem.conv" not in layers:
            raise SnvideoError(
                f"{self.origin} ({self.source.format}) can start C2D, I3D, Slow, SlowFast, CSN and "
                f"TSM, not {self.name}"
            )
        split = {name: name.rpartition(".") for name in self.source.tensors}
        return {
            layers.get(layer, layer) + dot + field: self.source.tensors[name]
            for name, (layer, dot, field) in split.items()
        }

    def load_layers(self) -> None:
        """Load all layers but the classifier, or raise a SnvideoError."""
        added = self._added_layers()
        for name, module in self.model.named_modules():
            own = dict(module.named_parameters(recurse=False))
            if module in added:
                tensors = {
                    field: t for field, t in module.state_dict().items() if field != _COUNTER
                }
                self._report(name, tensors, "reset", "non-local blocks start anew")
            elif name != self.head and own and norm_kind(module) is not None:
                self._load_norm(name, module)
            elif name != self.head:
                for field, tensor in own.items():
                    self._load_weight(f"{name}.{field}", tensor)
        heads = {f"{self.head}.weight", f"{self.head}.bias", "head.weight", "head.bias"}
        spare = [
            name
            for name in self.tensors
            if name not in self.used | heads and not name.endswith(_COUNTER)
        ]
        found = {"missing": self.missing, "too many": spare, "of other shape": self.shapes}
        misfits = [f"{len(x)} {what} (such as {x[0]})" for what, x in found.items() if x]
        if misfits:
            raise SnvideoError(
                f"{self.origin} ({self.source.format}) is not {self.name}: tensors "
                f"{', '.join(misfits)}: choose the model.name that it was trained as"
            )
        self._check_strides()
        if self.norm_mismatch is not None:
            raise SnvideoError(f"{self.origin} {self.norm_mismatch}")

    def _added_layers(self) -> set[nn.Module]:
        """Layers of non-local blocks, if the source has none.

        They are added to a network that was trained without, as in their paper, and pass their
        input on until their last norm has learned otherwise.
        """
        if any(".non_local." in name for name in self.tensors):
            return set()
        blocks = (block for block in self.model.modules() if isinstance(block, NonLocal))
        return {layer for block in blocks for layer in block.children()}

    def _load_weight(self, name: str, own: Tensor) -> None:
        """A kernel or a bias."""
        if (found := self.tensors.get(name)) is None:
            self.missing.append(name)
            return
        self.used.add(name)
        if found.dim() == 4 and own.dim() == 5 and found.shape == own[:, :, 0].shape:
            self.new[name] = inflate(found.to(own.dtype), own.shape[2], self.config.inflate)
            self.entries.append(TensorEntry(name, "inflated", own.numel()))
        else:
            self._load(name, found, own)

    def _load(self, name: str, found: Tensor, own: Tensor) -> None:
        if found.shape == own.shape:
            self.new[name] = found
            self.entries.append(TensorEntry(name, "loaded", own.numel()))
        else:
            self.shapes.append(f"{name}: {_shape(found)} there, {_shape(own)} here")

    def _load_norm(self, name: str, layer: nn.Module) -> None:
        own = {field: t for field, t in layer.state_dict().items() if field != _COUNTER}
        found = self._fields(name, _NORM_FIELDS)
        self.used.update(f"{name}.{field}" for field in found)
        if self.config.norms == "new":
            self._report(name, own, "reset", "norms are to start anew")
            self._report(name, found, "dropped", "norms are to start anew")
            return
        if "weight" not in found:
            self.missing.append(f"{name}.weight")
            return
        self.norm_mismatch = self.norm_mismatch or norm_mismatch(self.source, layer)
        if self.norm_mismatch is not None:
            return  # an error later, unless a worse one is found
        for field in [field for field in own if field in found]:
            value = found[field]
            if field in _LOGITS and value.shape == (2,) and getattr(layer, "use_batch", False):
                raise SnvideoError(
                    f"{self.origin} has SN without its batch part, this network has it: set "
                    f"batch.clips_per_gpu=1, as it was trained, or {_NEW_NORMS}"
                )
            if field in _LOGITS and value.shape == (len(own[field]) + 1,):
                # Statistics of one clip are both its instance and its batch: one weight for both.
                value = torch.cat([torch.logaddexp(value[:1], value[-1:]), value[1:-1]])
            self._load(f"{name}.{field}", value, own[field])
        spare = {field: value for field, value in found.items() if field not in own}
        self._report(name, spare, "dropped", "a norm without batch part has no batch statistics")
        left = {field: own[field] for field in own if field not in found}
        if self.source.norm != "sn":
            logits = {field: left.pop(field) for field in _LOGITS if field in left}
            self._report(name, logits, "reset", "importance logits start at the batch part")
        self.missing += [f"{name}.{field}" for field in left]

    def _fields(self, layer: str, fields: Iterable[str]) -> dict[str, Tensor]:
        """Those fields of a layer that the source has."""
        names = {field: f"{layer}.{field}" for field in fields}
        return {field: self.tensors[x] for field, x in names.items() if x in self.tensors}

    def _report(
        self, layer: str, fields: Mapping[str, Tensor], status: Status, why: str = ""
    ) -> None:
        for field, tensor in fields.items():
            self.entries.append(TensorEntry(f"{layer}.{field}", status, tensor.numel(), why))

    def _check_strides(self) -> None:
        source = self.source
        if source.metadata is not None:
            check_strides(self.model, source.metadata, source.origin)
        shifted = any(isinstance(layer, ShiftedBottleneck) for layer in self.model.modules())
        if source.shifted not in (None, shifted):
            there, here = ("shifts" if one else "does not shift" for one in (not shifted, shifted))
            raise SnvideoError(
                f"{source.origin} ({source.format}) is of a network that {there} channels along "
                f"time, {self.name} {here} them: its tensors fit, and mean nothing there; choose "
                "the model.name that it was trained as"
            )
        stem = canonical_layers(self.model).get("stem.conv")
        if source.time_stride is None or stem is None:
            return
        own = layer_strides(self.model).get(stem, (1, 1, 1))[0]
        if own != source.time_stride:
            raise SnvideoError(
                f"{source.origin} ({source.format}) is of a network whose first convolution has "
                f"stride {source.time_stride} in time, {self.name} has {own}: its tensors fit, and "
                "mean nothing there; choose the model.name that it was trained as"
            )

    def load_classifier(self, classes: Sequence[str]) -> int:
        """Load rows of classes that both have; all others stay as they are, and are counted."""
        own = dict(self.model.get_submodule(self.head).named_parameters())
        found = self._fields(self.head, own)
        if self.source.images or self.config.head == "new":
            why = "classes of images" if self.source.images else "classifier is to start anew"
            self._report(self.head, own, "reset", why)
            self._report(self.head, found, "dropped", why)
            return 0
        if found.keys() != own.keys():
            raise SnvideoError(f"{self.origin} has no classifier: {_NEW_HEAD}")
        weight, bias, features = found["weight"], found["bias"], own["weight"].shape[1:]
        if weight.shape[1:] != features or bias.shape != weight.shape[:1]:
            raise SnvideoError(
                f"{self.origin}: its classifier has {_shape(weight)} weights and {_shape(bias)} "
                f"biases, that of {self.name} reads {features[0]} features: {_NEW_HEAD}"
            )
        names = self._source_classes(len(weight))
        numbers = match_classes(classes, names, self.config.classes or self.origin)
        rows = {here: there for here, there in enumerate(numbers) if there is not None}
        if not rows:
            raise SnvideoError(
                f"{self.origin} has none of the {len(numbers)} classes of the index, such as "
                f"'{classes[0]}': {_NEW_HEAD}"
            )
        new_classes, spare = len(numbers) - len(rows), len(weight) - len(set(rows.values()))
        notes = []
        if new_classes:
            notes.append(f"{new_classes} of {len(numbers)} classes are new and start anew")
        if spare:
            notes.append(f"{spare} of the source's {len(weight)} classes are not used")
        for field, tensor in found.items():
            value = own[field].detach().cpu().clone()
            value[list(rows)] = tensor[list(rows.values())].to(value.dtype)
            self.new[f"{self.head}.{field}"] = value
            self._report(self.head, {field: value}, "loaded", ", ".join(notes))
        return new_classes

    def _source_classes(self, count: int) -> tuple[str, ...]:
        """Names of the source's classes in the order of its logits."""
        path = self.config.classes
        names = self.source.classes if path is None else read_classes(path)
        if names is None:
            raise SnvideoError(
                f"{self.origin} does not name its {count} classes: give a file of their names in "
                f"order, model.weights.classes=FILE, or {_NEW_HEAD}"
            )
        if len(names) != count:
            raise SnvideoError(
                f"{path or self.origin} names {len(names)} classes, the classifier of "
                f"{self.origin} has {count}: give the names of its training, or {_NEW_HEAD}"
            )
        return names


def inflate(kernel: Tensor, frames: int, rule: Literal["repeat", "centre"]) -> Tensor:
    """A kernel over time that gives in a still video what a 2D kernel gives in its frame.

    Args:
        kernel: (out, in, H, W).
        frames: of the new kernel.
        rule: "repeat" puts the kernel into every frame and divides it by their number (Carreira &
            Zisserman, arXiv 1705.07750, section 2.4), which darkens the first and last frames, as
            padding in time is black; "centre" puts it into the middle frame alone.

    Returns:
        (out, in, frames, H, W).
    """
    if rule == "repeat":
        return kernel.unsqueeze(2).repeat(1, 1, frames, 1, 1) / frames
    inflated = kernel.new_zeros(*kernel.shape[:2], frames, *kernel.shape[2:])
    inflated[:, :, frames // 2] = kernel
    return inflated


def norm_mismatch(weights: WeightsSource, layer: nn.Module) -> str | None:
    """The reason why a layer cannot load norms of a kind, and the remedy; None if it can.

    One of the same kind can. A Batch Normalization may become a Switchable one that leans to its
    batch part, and then computes nearly the same.
    """
    source, kind = weights.norm, norm_kind(layer)
    metadata = weights.metadata if source in ("gn", "ln") else None
    if isinstance(layer, nn.GroupNorm) and metadata and (source == kind or metadata.norm_options):
        return _groups_mismatch(metadata, layer)
    if source == kind:
        return _mixture_mismatch(weights, layer) if isinstance(layer, SwitchNorm) else None
    if source is None:
        return (
            "does not say which norm it has, and holds no statistics that would show it: "
            f"{_NEW_NORMS}"
        )
    if source != "bn" or not isinstance(layer, SwitchNorm):
        return (
            f"has the norm {source}, this network {kind}, to which that means nothing: set "
            f"model.norm.name={source}, or {_NEW_NORMS}"
        )
    if layer.use_batch and layer.start == "batch":
        return None
    remedy = "with one clip per GPU SN has no batch part: use more clips per GPU"
    if layer.use_batch:
        remedy = "SN starts near it only if it leans to its batch part: set model.norm.start=batch"
    return f"has Batch Normalization, and {remedy}, or {_NEW_NORMS}"


def _groups_mismatch(metadata: WeightsMetadata, layer: nn.GroupNorm) -> str | None:
    """The reason why another number of groups makes another norm of the same tensors."""
    channels = layer.num_channels
    stored: Any = create_norm(metadata.norm, **metadata.norm_options)(channels)
    if stored.num_groups == layer.num_groups:
        return None
    return (
        f"has {stored.num_groups} groups of {channels} channels, this network {layer.num_groups}: "
        f"set model.norm.groups or model.norm.channels_per_group, or {_NEW_NORMS}"
    )


def _mixture_mismatch(weights: WeightsSource, layer: SwitchNorm) -> str | None:
    """The reason why logits of one mixture mean nothing to another, of equally many parts."""
    options = weights.metadata.norm_options if weights.metadata is not None else {}
    stored = PAPER if weights.metadata is None or weights.metadata.use_batch else ONE_SAMPLE
    named, ratios = options.get("parts", stored.parts), options.get("ratios", "softmax")
    parts, own = ordered_parts(named), layer.mixture
    # Statistics of one clip are both its instance and its batch: such a network has no batch part.
    same = ratios == "softmax" and parts[0] == "instance" and parts[-1] == "batch"
    one_clip = parts[:-1] if same else parts
    if ratios == own.ratios and own.parts in (parts, one_clip):
        return None
    if not options and own in (PAPER, ONE_SAMPLE):
        return None  # the paper's two forms, which have an error of their own
    return (
        f"has SN of {', '.join(parts)} by {ratios}, this network of {', '.join(own.parts)} by "
        f"{own.ratios}: set model.norm.parts and model.norm.ratios, or {_NEW_NORMS}"
    )


def _shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "a number"
