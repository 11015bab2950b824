"""Loading of weights of any format into a network: all that belongs there, or nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Literal

import torch
from torch import Tensor, nn

from snvideo.errors import SnvideoError
from snvideo.models.config import WeightsConfig
from snvideo.models.pretrained.formats import NormKind, WeightsSource
from snvideo.models.pretrained.load_report import LoadReport, Status, TensorEntry
from snvideo.models.pretrained.metadata import layer_strides
from snvideo.models.pretrained.name_mapping import (
    canonical_layers,
    classifier_name,
    match_classes,
    read_classes,
)
from snvideo.models.pretrained.native import check_strides
from snvideo.models.registry import BACKBONES, create_model
from snvideo.norm import SwitchNorm

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
    return _Loader(model, source, config, classes, name).load()


class _Loader:
    """One loading: new values, and all that does not fit."""

    def __init__(
        self,
        model: nn.Module,
        source: WeightsSource,
        config: WeightsConfig,
        classes: Sequence[str],
        name: str,
    ) -> None:
        self.model, self.source, self.config = model, source, config
        self.classes, self.name, self.origin = classes, name, source.origin
        self.modules = dict(model.named_modules())
        self.head = classifier_name(model)
        self.tensors = self._source_tensors()
        self.new: dict[str, Tensor] = {}
        self.entries: list[TensorEntry] = []
        self.used: set[str] = set()
        self.missing: list[str] = []
        self.shapes: list[str] = []  # that do not fit
        self.new_classes = 0

    def load(self) -> LoadReport:
        """Load all that fits, or raise a SnvideoError."""
        source = self.source
        for name, tensor in self.tensors.items():
            if not tensor.is_floating_point() and not name.endswith(_COUNTER):
                raise SnvideoError(
                    f"{self.origin}: {name} is of {tensor.dtype}: expected floating point, "
                    "as before any quantization"
                )
        self._load_layers()
        mismatches = self._mismatches()
        if mismatches:
            fitting = self._find_backbone()
            raise SnvideoError(
                f"{self.origin} ({source.format}) is not {self.name}: tensors {mismatches}"
                + (f"; it fits {fitting}" if fitting else "")
            )
        self._check_strides()
        if self.config.norms == "keep":
            for layer in self.modules.values():
                if norm_kind(layer) is not None and (why := norm_mismatch(source.norm, layer)):
                    raise SnvideoError(f"{self.origin} {why}")
        self._load_classifier()
        for name in self.new:
            if not self.tensors[name].float().isfinite().all():
                raise SnvideoError(
                    f"{self.origin}: {name} has values that are not finite: the file is damaged, "
                    "or its training had gone wrong"
                )
        self.model.load_state_dict(self.model.state_dict() | self.new)
        facts = source.origin, source.format, source.sha256
        return LoadReport(*facts, tuple(self.entries), source.notes, self.new_classes)

    def _source_tensors(self) -> dict[str, Tensor]:
        """Tensors of the source by the names of the network."""
        if not self.source.canonical_names:
            return dict(self.source.tensors)
        layers = canonical_layers(self.model)
        if "stem.conv" not in layers and "slow.stem.conv" not in layers:
            raise SnvideoError(
                f"{self.origin} ({self.source.format}) can start C2D, I3D, Slow and SlowFast, not "
                f"{self.name}"
            )

        def own_name(name: str) -> str:
            layer, dot, field = name.rpartition(".")
            return layers.get(layer, layer) + dot + field

        return {own_name(name): tensor for name, tensor in self.source.tensors.items()}

    def _load_layers(self) -> None:
        """All layers but the classifier."""
        for name, module in self.modules.items():
            own = dict(module.named_parameters(recurse=False))
            if name == self.head or not own:
                continue
            if norm_kind(module) is not None:
                self._load_norm(name, module)
            else:
                for field, tensor in own.items():
                    self._load_weight(f"{name}.{field}", tensor)

    def _load_weight(self, name: str, own: Tensor) -> None:
        """A kernel or a bias."""
        if (found := self.tensors.get(name)) is None:
            self.missing.append(name)
            return
        self.used.add(name)
        image_shape = (*own.shape[:2], *own.shape[3:])
        if found.dim() == 4 and own.dim() == 5 and found.shape == image_shape:
            self.new[name] = inflate(found.to(own.dtype), own.shape[2], self.config.inflate)
            self.entries.append(TensorEntry(name, "inflated", own.numel()))
        elif found.shape == own.shape:
            self.new[name] = found
            self.entries.append(TensorEntry(name, "loaded", own.numel()))
        else:
            self._note_shapes(name, found, own)

    def _note_shapes(self, name: str, found: Tensor, own: Tensor) -> None:
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
        if norm_mismatch(self.source.norm, layer):
            return  # an error later, unless a worse one is found
        for field, value in convert_norm_fields(found, layer, self.origin).items():
            if value.shape != own[field].shape:
                self._note_shapes(f"{name}.{field}", value, own[field])
                return
            self.new[f"{name}.{field}"] = value
            self._report(name, {field: value}, "loaded")
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

    def _mismatches(self) -> str:
        """Tensors that are missing, too many, or of other shape; empty if all fits."""
        heads = {f"{self.head}.weight", f"{self.head}.bias", "head.weight", "head.bias"}
        rest = self.tensors.keys() - self.used - heads
        spare = [x for x in self.tensors if x in rest and not x.endswith(_COUNTER)]
        found = {"missing": self.missing, "too many": spare, "of other shape": self.shapes}
        return ", ".join(f"{len(x)} {what} (such as {x[0]})" for what, x in found.items() if x)

    def _find_backbone(self) -> str | None:
        """The backbone that the kernels fit; None if that is this one, or there is none."""
        shapes = {name: tensor.to("meta") for name, tensor in self.source.tensors.items()}
        source = self.source._replace(tensors=shapes)
        config = self.config.model_copy(update={"norms": "new"})

        def fits(model: nn.Module) -> bool:
            with suppress(SnvideoError):
                loader = _Loader(model, source, config, self.classes, self.name)
                loader._load_layers()
                loader._check_strides()
                return not loader._mismatches()
            return False

        def build(name: str) -> nn.Module:
            with torch.device("meta"):
                return create_model(name, len(self.classes))

        found = (name for name in BACKBONES if fits(build(name)))
        return None if fits(self.model) else next(found, None)

    def _check_strides(self) -> None:
        source = self.source
        if source.metadata is not None:
            check_strides(self.model, source.metadata, source.origin)
            return
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

    def _load_classifier(self) -> None:
        """Rows of classes that both have; all others stay as they are."""
        own = dict(self.modules[self.head].named_parameters())
        found = self._fields(self.head, own)
        if self.source.images or self.config.head == "new":
            why = "classes of images" if self.source.images else "classifier is to start anew"
            self._report(self.head, own, "reset", why)
            self._report(self.head, found, "dropped", why)
            return
        if found.keys() != own.keys():
            raise SnvideoError(f"{self.origin} has no classifier: {_NEW_HEAD}")
        weight, bias, features = found["weight"], found["bias"], own["weight"].shape[1:]
        if weight.shape[1:] != features or bias.shape != weight.shape[:1]:
            raise SnvideoError(
                f"{self.origin}: its classifier has {_shape(weight)} weights and {_shape(bias)} "
                f"biases, that of {self.name} reads {features[0]} features: {_NEW_HEAD}"
            )
        names = self._source_classes(len(weight))
        numbers = match_classes(self.classes, names, self.config.classes or self.origin)
        rows = {here: there for here, there in enumerate(numbers) if there is not None}
        if not rows:
            raise SnvideoError(
                f"{self.origin} has none of the {len(numbers)} classes of the index, such as "
                f"'{self.classes[0]}': {_NEW_HEAD}"
            )
        self.new_classes, spare = len(numbers) - len(rows), len(weight) - len(set(rows.values()))
        notes = []
        if self.new_classes:
            notes.append(f"{self.new_classes} of {len(numbers)} classes are new and start anew")
        if spare:
            notes.append(f"{spare} of the source's {len(weight)} classes are not used")
        for field, tensor in found.items():
            value = own[field].detach().cpu().clone()
            value[list(rows)] = tensor[list(rows.values())].to(value.dtype)
            self.new[f"{self.head}.{field}"] = value
            self._report(self.head, {field: value}, "loaded", ", ".join(notes))

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


def norm_kind(layer: nn.Module) -> NormKind | None:
    """Kind of a norm, whatever its class and library; None for other layers."""
    if isinstance(layer, SwitchNorm):
        return "sn"
    if isinstance(layer, nn.GroupNorm):
        return "ln" if layer.num_groups == 1 else "gn"
    if isinstance(layer, nn.modules.instancenorm._InstanceNorm):
        return "in"
    return "bn" if isinstance(layer, nn.modules.batchnorm._NormBase) else None


def norm_mismatch(source: NormKind, layer: nn.Module) -> str | None:
    """The reason why a layer cannot load a norm, and the remedy; None if it can.

    One of the same kind can. A Batch Normalization may become a Switchable one that leans to its
    batch part, and then computes nearly the same.
    """
    kind = norm_kind(layer)
    if source == kind:
        return None
    if source == "unknown":
        return (
            "does not say which norm it has, and holds no statistics that would show it: "
            f"{_NEW_NORMS}"
        )
    if source != "bn" or not isinstance(layer, SwitchNorm):
        return (
            f"has the norm {source}, this network {kind}, to which that means nothing: set "
            f"model.norm.name={source}, or {_NEW_NORMS}"
        )
    if not layer.use_batch:
        return (
            "has Batch Normalization, but with one clip per GPU SN has no batch part to load it "
            f"into: use more clips per GPU, or {_NEW_NORMS}"
        )
    if layer.start != "batch":
        return (
            "has Batch Normalization: SN starts near it only if it leans to its batch part: set "
            f"model.norm.start=batch, or {_NEW_NORMS}"
        )
    return None


def convert_norm_fields(
    found: Mapping[str, Tensor], layer: nn.Module, origin: str
) -> dict[str, Tensor]:
    """Values for the fields of a compatible layer.

    Args:
        found: the fields that the source has for this layer.
        layer: loads them.
        origin: for messages.

    Raises:
        SnvideoError: if its batch part is needed and not there.
    """
    own = layer.state_dict()
    values = {field: found[field] for field in own if field in found}
    if not isinstance(layer, SwitchNorm) or "mean_logits" not in found:
        return values
    for field in _LOGITS:
        if field not in found:
            continue
        logits = found[field].to(own[field].dtype)
        if logits.shape == (2,) and layer.use_batch:
            raise SnvideoError(
                f"{origin} has SN without its batch part, this network has it: set "
                f"batch.clips_per_gpu=1, as it was trained, or {_NEW_NORMS}"
            )
        if logits.shape == (3,) and not layer.use_batch:
            # Statistics of one clip are both its instance and its batch: one weight for the two.
            logits = torch.stack([torch.logaddexp(logits[0], logits[2]), logits[1]])
        values[field] = logits
    return values


def _shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "a number"
