"""Weight formats of other libraries: their names for the same layers, and facts of their networks.

A format is identified by names that it alone has. Names are translated to the canonical ones of
`models.pretrained.name_mapping`; a tensor of unknown name keeps it, and is reported.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml
from torch import Tensor

from snvideo.errors import SnvideoError
from snvideo.models.pretrained.metadata import RGB, WeightsMetadata
from snvideo.models.pretrained.native import evaluation_weights, read_metadata
from snvideo.models.pretrained.reader import Contents

IMAGENET: tuple[RGB, RGB] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
KINETICS: tuple[RGB, RGB] = ((0.45, 0.45, 0.45), (0.225, 0.225, 0.225))
TORCHVISION: tuple[RGB, RGB] = ((0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989))

NormKind = Literal["sn", "bn", "gn", "ln", "in", "unknown"]


class WeightsSource(NamedTuple):
    """Weights to start a network from, of a known format."""

    origin: str
    """The file, or the library and name that they come from."""
    format: str
    """Name of the format."""
    tensors: dict[str, Tensor]
    norm: NormKind
    mean_std: tuple[RGB, RGB]
    """Normalization of the input, for values 0..1."""
    sha256: str | None
    canonical_names: bool = False
    """Names are those of `canonical_layers`; otherwise they are the network's own."""
    images: bool = False
    """Of a network for images, whose classes are not those of videos."""
    time_stride: int | None = None
    """Of the stem's convolution, where the format says; the tensors do not tell."""
    classes: tuple[str, ...] | None = None
    """Names in the order of the logits, where the file has them."""
    metadata: WeightsMetadata | None = None
    """Of a file of snvideo."""
    notes: tuple[str, ...] = ()
    """Changes made in translation, and caveats."""
    exact: bool = True
    """With all tensors loaded, a network gives the logits of the original."""


def identify(contents: Contents, origin: str) -> WeightsSource:
    """Identify the format of weights, and translate their names.

    Args:
        contents: of the file.
        origin: for messages, and for the report.

    Raises:
        SnvideoError: if no format, or one that cannot be used, is identified.
    """
    metadata = read_metadata(contents, Path(origin))
    if metadata is not None:
        return WeightsSource(
            origin,
            "snvideo",
            evaluation_weights(contents, origin),
            _KINDS.get(metadata.norm, "bn"),
            (metadata.preprocessing.mean, metadata.preprocessing.std),
            contents.sha256,
            classes=metadata.classes,
            metadata=metadata,
        )
    tensors = {
        name.removeprefix("module.").removeprefix("_orig_mod."): tensor  # of wrappers
        for name, tensor in contents.tensors.items()
    }
    fields = {name.rpartition(".")[2] for name in tensors}
    norm: NormKind
    norm = "sn" if "mean_logits" in fields else "bn" if "running_mean" in fields else "gn"
    for name, known in _FORMATS.items():
        if any(re.search(known.pattern, tensor) for tensor in tensors):
            facts = norm, known.mean_std, contents.sha256, known.canonical_names
            return known.translate(WeightsSource(origin, name, tensors, *facts), contents)
    some = ", ".join(list(contents.tensors)[:3])
    raise SnvideoError(
        f"{origin}: no known format has tensors such as {some}; known are ResNets of torchvision, "
        "timm and SwitchNorm, torchvision's video networks, pytorchvideo, PySlowFast, mmaction2, "
        "and files of snvideo"
    )


_KINDS: dict[str, NormKind] = {"sn": "sn", "syncsn": "sn", "gn": "gn", "ln": "ln", "in": "in"}


def _rename(source: WeightsSource, translate: Callable[[str], str]) -> dict[str, Tensor]:
    return {translate(name): tensor for name, tensor in source.tensors.items()}


# ResNets for images ---------------------------------------------------------------------------

_STEM = {"conv1": "stem.conv", "bn1": "stem.norm", "sn1": "stem.norm", "fc": "head"}
_LETTER = {"1": "a", "2": "b", "3": "c"}
_KIND = {"conv": "conv", "bn": "norm", "sn": "norm"}


def _image_name(name: str) -> str:
    """Of torchvision, timm and the official SwitchNorm; they differ in the names of norms."""
    module, _, field = name.rpartition(".")
    if module in _STEM:
        return f"{_STEM[module]}.{field}"
    found = re.fullmatch(r"layer(\d)\.(\d+)\.(conv|bn|sn|downsample\.)(\d)", module)
    if not found:
        return name
    stage, block, part, number = found.groups()
    if part == "downsample.":
        layer = "shortcut.conv" if number == "0" else "shortcut.norm"
    else:
        layer = f"{_KIND[part]}_{_LETTER.get(number, number)}"
    return f"res{int(stage) + 1}.{block}.{layer}.{field}"


def _image_resnet(source: WeightsSource, contents: Contents) -> WeightsSource:
    return source._replace(tensors=_rename(source, _image_name), images=True)


_SN_FIELDS = {"mean_weight": "mean_logits", "var_weight": "var_logits"}


def _switchnorm_resnet(source: WeightsSource, contents: Contents) -> WeightsSource:
    """The SN paper's ImageNet models: norms are called sn, and hold (1, C, 1, 1) for (C,)."""
    if any(name.startswith("sn_out") for name in source.tensors):
        raise SnvideoError(
            f"{source.origin} is a ResNet v2 of SwitchNorm, whose norms come before the "
            "convolutions: use its ResNet v1 (resnet50v1)"
        )
    translated = {}
    for name, tensor in source.tensors.items():
        module, _, field = _image_name(name).rpartition(".")
        is_norm = "norm" in module.rpartition(".")[2]
        field = _SN_FIELDS.get(field, field) if is_norm else field
        translated[f"{module}.{field}"] = tensor.flatten() if is_norm else tensor
    return source._replace(tensors=translated, norm="sn", images=True)


# Networks for videos --------------------------------------------------------------------------


def _pytorchvideo(source: WeightsSource, contents: Contents) -> WeightsSource:
    """Networks of pytorchvideo, and bare state dicts of snvideo, which have the same names."""
    if {"index_hash", "classes"} <= contents.extra.keys():
        raise SnvideoError(
            f"{source.origin} is a checkpoint of an older snvideo, without metadata: its run "
            "writes model.safetensors when it ends with this one"
        )
    if source.norm == "gn":
        source = source._replace(norm="unknown")  # layer and instance norms look the same
    if "blocks.0.conv.weight" not in source.tensors:  # two pathways
        return source
    if contents.envelope == "model_state":  # all of its published ones
        return source._replace(time_stride=1)
    note = "the file does not say what strides its network had: see that they are these"
    return source._replace(notes=(note,))


def _pyslowfast_name(name: str) -> str:
    module, _, field = name.rpartition(".")
    if module == "head.projection":
        return f"head.{field}"
    if found := re.fullmatch(r"s1\.pathway(\d)_stem\.(conv|bn)", module):
        return f"pathway{found[1]}.stem.{_KIND[found[2]]}.{field}"
    if found := re.fullmatch(r"s([1-4])_fuse\.(conv_f2s|bn)", module):
        return f"fuse{found[1]}.{_KIND[found[2].removesuffix('_f2s')]}.{field}"
    found = re.fullmatch(r"s([2-5])\.pathway(\d)_res(\d+)\.(branch1|branch2\.[abc])(_bn)?", module)
    if not found:
        return name
    stage, pathway, block, part, norm = found.groups()
    kind = "norm" if norm else "conv"
    layer = f"shortcut.{kind}" if part == "branch1" else f"{kind}_{part[-1]}"
    return f"pathway{pathway}.res{stage}.{block}.{layer}.{field}"


def _pyslowfast(source: WeightsSource, contents: Contents) -> WeightsSource:
    two = any("pathway1" in name for name in source.tensors)
    translated = {}
    for name, tensor in _rename(source, _pyslowfast_name).items():
        for number, pathway in enumerate(("slow.", "fast.") if two else ("", "")):
            name = name.replace(f"pathway{number}.", pathway)
        translated[name] = tensor
    data = _pyslowfast_data(contents.extra.get("cfg"))
    notes: tuple[str, ...] = ()
    if data.get("REVERSE_INPUT_CHANNEL") is True:
        for name, tensor in translated.items():
            if name.endswith("stem.conv.weight") and tensor.dim() == 5:
                translated[name] = tensor.flip(1)
        notes = ("its input is BGR: the channels of the first convolution were turned round",)
    mean, std = (_rgb(data.get("MEAN")), _rgb(data.get("STD")))
    return source._replace(
        tensors=translated,
        mean_std=(mean or source.mean_std[0], std or source.mean_std[1]),
        time_stride=1,  # of all its ResNets
        notes=notes,
    )


def _pyslowfast_data(text: Any) -> Mapping[str, Any]:
    """Section DATA of the YAML config in its checkpoints; empty if it cannot be read."""
    try:
        data = yaml.safe_load(text)["DATA"] if isinstance(text, str) else None
    except (yaml.YAMLError, ValueError, TypeError, KeyError):
        data = None
    return _mapping(data)


def _mapping(value: Any) -> Mapping[str, Any]:
    """The value if it is a mapping, or an empty one."""
    return value if isinstance(value, Mapping) else {}


def _rgb(value: Any) -> RGB | None:
    """Three numbers, or None for anything else."""
    if not isinstance(value, list) or {type(number) for number in value} - {int, float}:
        return None
    return (value[0], value[1], value[2]) if len(value) == 3 else None


def _mmaction_name(name: str) -> str:
    module, _, field = name.rpartition(".")
    if module == "cls_head.fc_cls":
        return f"head.{field}"
    found = re.fullmatch(
        r"backbone\.(slow_path\.|fast_path\.)?(?:layer(\d)\.(\d+)\.)?(conv(\d)|downsample)\.(conv|bn)",
        module,
    )
    if found:
        pathway, stage, block, part, number, kind = found.groups()
        kind, pathway = _KIND[kind], (pathway or "").replace("_path", "")
        if stage is None:
            return f"{pathway}stem.{kind}.{field}"
        layer = f"shortcut.{kind}" if part == "downsample" else f"{kind}_{_LETTER[number]}"
        return f"{pathway}res{int(stage) + 1}.{block}.{layer}.{field}"
    found = re.fullmatch(r"backbone\.slow_path\.(?:conv1|layer(\d))_lateral\.(conv|bn)", module)
    if found:
        return f"fuse{int(found[1] or 0) + 1}.{_KIND[found[2]]}.{field}"
    return name


def _mmaction(source: WeightsSource, contents: Contents) -> WeightsSource:
    translated = _rename(source, _mmaction_name)
    if "fuse1.conv.weight" in translated:
        if "fuse1.norm.weight" not in translated:
            raise SnvideoError(
                f"{source.origin} is a SlowFast of mmaction2 whose lateral connections have no "
                "norm: no network here computes that; take one with lateral_norm, or PySlowFast's"
            )
        # Its classifier reads the fast pathway's features first, that of pytorchvideo the slow's.
        weight, last = (translated.get(x) for x in ("head.weight", "fast.res5.0.conv_c.weight"))
        if weight is not None and last is not None and weight.dim() == 2 and last.dim() == 5:
            translated["head.weight"] = weight.roll(-len(last), 1)
    meta = _mapping(contents.extra.get("meta"))
    names = _mapping(meta.get("dataset_meta")).get("classes")
    config = meta.get("cfg")
    stated = re.search(r"conv1_stride_t=(\d)", config) if isinstance(config, str) else None
    stem = translated.get("stem.conv.weight")
    stride: int | None = None
    notes: tuple[str, ...] = ()
    if stem is not None and stem.dim() == 4:
        notes = (f"the first pool of mmaction2's C2D is not padded, here it is: {_POOLS}",)
    elif stem is not None and stem.dim() == 5:
        stride = 2 if stem.shape[2] == 5 else 1  # of all of its published ones
        if stride == 2:
            notes = (f"the first pool of mmaction2's I3D sees one frame, here three: {_POOLS}",)
    return source._replace(
        tensors=translated,
        time_stride=int(stated[1]) if stated else stride,
        classes=tuple(map(str, names)) if isinstance(names, (list, tuple)) else None,
        notes=notes,
        exact=not notes,
    )


_POOLS = "logits differ until it is trained on"
"""Of networks whose pools are not those of the papers, which the backbones here have."""


class _Format(NamedTuple):
    """A weight format."""

    pattern: str
    """Of tensor names that it alone has."""
    mean_std: tuple[RGB, RGB]
    canonical_names: bool
    translate: Callable[[WeightsSource, Contents], WeightsSource]


_FORMATS = {
    "pytorchvideo": _Format(
        r"^blocks\.\d+\.(multipathway_|res_blocks\.)", KINETICS, False, _pytorchvideo
    ),
    "PySlowFast": _Format(r"^s\d\.pathway\d_", KINETICS, True, _pyslowfast),
    "mmaction2": _Format(
        r"^backbone\.(slow_path\.|fast_path\.)?conv1\.conv\.", IMAGENET, True, _mmaction
    ),
    "ResNet for images of SwitchNorm": _Format(
        r"^(sn1|sn_out|layer\d\.\d+\.sn\d)\.", IMAGENET, True, _switchnorm_resnet
    ),
    "torchvision's video networks": _Format(
        r"^stem\.0\.weight$", TORCHVISION, False, lambda source, contents: source
    ),
    "ResNet for images (torchvision, timm)": _Format(
        r"^layer1\.0\.conv1\.weight$", IMAGENET, True, _image_resnet
    ),
}
"""Tried in this order."""
