"""Weights of anybody into a network of ours: all that belongs there, or nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress

import torch
from torch import Tensor, nn

from snvideo.errors import SnvideoError
from snvideo.models.config import WeightsConfig
from snvideo.models.pretrained.classes import match, read_classes
from snvideo.models.pretrained.formats import Source
from snvideo.models.pretrained.inflate import inflate, is_inflated
from snvideo.models.pretrained.load_report import Entry, Report
from snvideo.models.pretrained.metadata import strides
from snvideo.models.pretrained.name_mapping import classifier, layers
from snvideo.models.pretrained.native import check_strides
from snvideo.models.pretrained.norms import kind, may_become, refuse, taken_over
from snvideo.models.registry import BACKBONES, build_model

_COUNTER = "num_batches_tracked"
"""Of norms: means nothing in another training, and is left as it is."""
_LOGITS = ("mean_logits", "var_logits")
_NORM_FIELDS = ("weight", "bias", "running_mean", "running_var", *_LOGITS)
_ANEW = "model.weights.head=new"


def transfer(
    model: nn.Module,
    source: Source,
    config: WeightsConfig,
    classes: Sequence[str],
    name: str = "this network",
) -> Report:
    """Start a network from weights.

    Every layer but the classifier has to be there, and nothing else: a convolution that would stay
    random, or weights that nothing takes, are an error, and then the network is as it was.

    Args:
        model: takes them; its classifier and, where told to, its norms stay as they are.
        source: from `snvideo.models.pretrained.formats.recognise`.
        config: what is to become of kernels, norms and classes.
        classes: of the network, in the order of its logits.
        name: of the network, for messages.

    Returns:
        what became of every tensor.

    Raises:
        SnvideoError: if they do not fit: architecture, strides, norm or classes.
    """
    return _Transfer(model, source, config, classes, name).done()


class _Transfer:
    """One transfer: what is planned, and what stands against it."""

    def __init__(
        self,
        model: nn.Module,
        source: Source,
        config: WeightsConfig,
        classes: Sequence[str],
        name: str,
    ) -> None:
        self.model, self.source, self.config = model, source, config
        self.classes, self.name = classes, name
        self.modules = dict(model.named_modules())
        self.head = classifier(model)
        self.theirs = self._in_our_names()
        self.new: dict[str, Tensor] = {}
        self.entries: list[Entry] = []
        self.used: set[str] = set()
        self.missing: list[str] = []
        self.shapes: list[str] = []
        self.new_classes = 0

    def done(self) -> Report:
        self._check_numbers()
        self._layers()
        misfits = self.misfits()
        if misfits:
            fitting = self._who_fits()
            raise SnvideoError(
                f"{self.source.origin} ({self.source.format}) is not {self.name}: tensors "
                f"{misfits}" + (f"; it fits {fitting}" if fitting else "")
            )
        self._check_strides()
        self._check_norms()
        self._classifier()
        self._check_finite()
        state = self.model.state_dict()
        state.update(self.new)
        self.model.load_state_dict(state)
        source = self.source
        return Report(
            source.origin,
            source.format,
            source.sha256,
            tuple(self.entries),
            source.notes,
            self.new_classes,
        )

    def _in_our_names(self) -> dict[str, Tensor]:
        """Their tensors by the names of our network; what has no place there keeps its own."""
        if not self.source.shared_names:
            return dict(self.source.tensors)
        places = layers(self.model)
        if "stem.conv" not in places and "slow.stem.conv" not in places:
            raise SnvideoError(
                f"{self.source.origin} ({self.source.format}) can start C2D, I3D, Slow and "
                f"SlowFast, not {self.name}"
            )
        found = {}
        for name, tensor in self.source.tensors.items():
            layer, _, field = name.rpartition(".")
            found[f"{places[layer]}.{field}" if layer in places else name] = tensor
        return found

    def _layers(self) -> None:
        """Plan for all layers but the classifier."""
        for name, module in self.modules.items():
            own = dict(module.named_parameters(recurse=False))
            if name == self.head or not own:
                continue
            if kind(module) is not None:
                self._norm(name, module)
            else:
                for field, tensor in own.items():
                    self._weight(f"{name}.{field}", tensor)

    def _weight(self, name: str, own: Tensor) -> None:
        """A kernel or a bias."""
        found = self.theirs.get(name)
        if found is None:
            self.missing.append(name)
            return
        self.used.add(name)
        if is_inflated(found, own.shape):
            self.new[name] = inflate(found.to(own.dtype), own.shape[2], self.config.inflate)
            self.entries.append(Entry(name, "inflated", own.numel()))
        elif found.shape == own.shape:
            self.new[name] = found
            self.entries.append(Entry(name, "loaded", own.numel()))
        else:
            self.shapes.append(f"{name}: {_shape(found)} there, {_shape(own)} here")

    def _norm(self, name: str, layer: nn.Module) -> None:
        own = {field: t for field, t in layer.state_dict().items() if field != _COUNTER}
        found = {
            field: self.theirs[f"{name}.{field}"]
            for field in _NORM_FIELDS
            if f"{name}.{field}" in self.theirs
        }
        self.used.update(f"{name}.{field}" for field in found)
        if self.config.norms == "new":
            self._reset(name, own, "norms are to start anew")
            self._drop(name, found, "norms are to start anew")
            return
        if "weight" not in found:
            self.missing.append(f"{name}.weight")
            return
        if not may_become(self.source.norm, layer):
            return  # to be refused, if nothing worse is found
        for field, value in taken_over(found, layer, self.source.origin).items():
            if value.shape != own[field].shape:
                shapes = f"{_shape(value)} there, {_shape(own[field])} here"
                self.shapes.append(f"{name}.{field}: {shapes}")
                return
            self.new[f"{name}.{field}"] = value
            self.entries.append(Entry(f"{name}.{field}", "loaded", value.numel()))
        spare = {field: value for field, value in found.items() if field not in own}
        self._drop(name, spare, "a norm without batch part has no batch statistics")
        left = {field: own[field] for field in own if field not in found}
        if self.source.norm != "sn":
            logits = {field: left.pop(field) for field in _LOGITS if field in left}
            self._reset(name, logits, "importance logits start at the batch part")
        self.missing += [f"{name}.{field}" for field in left]

    def _reset(self, layer: str, fields: Mapping[str, Tensor], why: str) -> None:
        """Say that fields stay as a new network has them."""
        for field, tensor in fields.items():
            self.entries.append(Entry(f"{layer}.{field}", "reset", tensor.numel(), why))

    def _drop(self, layer: str, fields: Mapping[str, Tensor], why: str) -> None:
        """Say that fields of theirs are not taken."""
        for field, tensor in fields.items():
            self.entries.append(Entry(f"{layer}.{field}", "dropped", tensor.numel(), why))

    # What stands against it -------------------------------------------------------------------

    def misfits(self) -> str:
        """Layers that are missing, too many, or of other shape; empty if all fits."""
        heads = {f"{self.head}.weight", f"{self.head}.bias", "head.weight", "head.bias"}
        spare = [
            name
            for name in self.theirs
            if name not in self.used | heads and not name.endswith(_COUNTER)
        ]
        found = (
            ("missing", self.missing),
            ("too many", spare),
            ("of other shape", self.shapes),
        )
        return ", ".join(f"{len(x)} {what} (such as {x[0]})" for what, x in found if x)

    def _who_fits(self) -> str | None:
        """A network of the zoo whose kernels these are; None if they are those of this one."""
        shapes = {name: tensor.to("meta") for name, tensor in self.source.tensors.items()}
        source = self.source._replace(tensors=shapes)
        if self._kernels_fit(self.model, source):
            return None
        for name in BACKBONES:
            with torch.device("meta"):
                model = build_model(name, len(self.classes))
            if self._kernels_fit(model, source):
                return name
        return None

    def _kernels_fit(self, model: nn.Module, source: Source) -> bool:
        """Whether a network could take all of theirs but the norms, by their shapes."""
        only_kernels = self.config.model_copy(update={"norms": "new"})
        with suppress(SnvideoError):
            other = _Transfer(model, source, only_kernels, self.classes, self.name)
            other._layers()
            other._check_strides()
            return not other.misfits()
        return False

    def _check_numbers(self) -> None:
        for name, tensor in self.theirs.items():
            if not tensor.is_floating_point() and not name.endswith(_COUNTER):
                raise SnvideoError(
                    f"{self.source.origin}: {name} is of {tensor.dtype}: expected floating point, "
                    "as before any quantization"
                )

    def _check_finite(self) -> None:
        for name in self.new:
            if not self.theirs[name].float().isfinite().all():
                raise SnvideoError(
                    f"{self.source.origin}: {name} has values that are not finite: the file is "
                    "damaged, or its training had gone wrong"
                )

    def _check_norms(self) -> None:
        if self.config.norms == "keep":
            for layer in self.modules.values():
                if kind(layer) is not None:
                    refuse(self.source.norm, layer, self.source.origin)

    def _check_strides(self) -> None:
        source = self.source
        if source.about is not None:
            check_strides(self.model, source.about, source.origin)
            return
        if source.time_stride is None:
            return
        stem = layers(self.model).get("stem.conv")
        own = strides(self.model).get(stem or "", (1, 1, 1))[0]
        if stem is not None and own != source.time_stride:
            raise SnvideoError(
                f"{source.origin} ({source.format}) is of a network whose first convolution has "
                f"stride {source.time_stride} in time, {self.name} has {own}: its tensors fit, and "
                "mean nothing there; choose the model.name that it was trained as"
            )

    # The classifier ---------------------------------------------------------------------------

    def _classifier(self) -> None:
        """Rows of classes that both have; all others stay as they are."""
        own = dict(self.modules[self.head].named_parameters())
        found = {
            field: self.theirs[f"{self.head}.{field}"]
            for field in own
            if f"{self.head}.{field}" in self.theirs
        }
        if self.source.images or self.config.head == "new":
            why = "classes of images" if self.source.images else "classifier is to start anew"
            self._reset(self.head, own, why)
            self._drop(self.head, found, why)
            return
        if found.keys() != own.keys():
            raise SnvideoError(
                f"{self.source.origin} has no classifier: start it anew with {_ANEW}"
            )
        weight, bias, features = found["weight"], found["bias"], own["weight"].shape[1:]
        if weight.shape[1:] != features or bias.shape != weight.shape[:1]:
            raise SnvideoError(
                f"{self.source.origin}: its classifier has {_shape(weight)} weights and "
                f"{_shape(bias)} biases, that of {self.name} reads {features[0]} features: start "
                f"it anew with {_ANEW}"
            )
        names = self._their_classes(len(weight))
        rows = match(self.classes, names, self.config.classes or self.source.origin)
        both = [(mine, row) for mine, row in enumerate(rows) if row is not None]
        if not both:
            raise SnvideoError(
                f"{self.source.origin} knows none of the {len(rows)} classes of the index, such as "
                f"'{self.classes[0]}': start the classifier anew with {_ANEW}"
            )
        mine, theirs = (list(numbers) for numbers in zip(*both, strict=True))
        lost, spare = len(rows) - len(both), len(weight) - len(set(theirs))
        self.new_classes = lost
        found_out = (
            (lost, f"{lost} of {len(rows)} classes are not among theirs and start anew"),
            (spare, f"{spare} of their {len(weight)} classes are not among ours"),
        )
        why = ", ".join(words for number, words in found_out if number)
        for field, tensor in found.items():
            value = own[field].detach().cpu().clone()
            value[mine] = tensor[theirs].to(value.dtype)
            name = f"{self.head}.{field}"
            self.new[name] = value
            self.entries.append(Entry(name, "loaded", value.numel(), why))

    def _their_classes(self, count: int) -> tuple[str, ...]:
        """Names of so many classes in the order of their logits."""
        path, origin = self.config.classes, self.source.origin
        names = self.source.classes if path is None else read_classes(path)
        anew = f"or start the classifier anew with {_ANEW}"
        if names is None:
            raise SnvideoError(
                f"{origin} does not name its {count} classes: give a file of their names in order, "
                f"model.weights.classes=FILE, {anew}"
            )
        if len(names) != count:
            raise SnvideoError(
                f"{path or origin} names {len(names)} classes, the classifier of {origin} has "
                f"{count}: give the names that it was trained with, {anew}"
            )
        return names


def _shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "a number"
