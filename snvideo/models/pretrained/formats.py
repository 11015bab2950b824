"""Weight formats of other libraries: their names for the same layers, and facts of their networks.

A format is identified by names that it alone has. Names are translated to the canonical ones of
`models.pretrained.name_mapping`; a tensor of unknown name keeps it, and is reported.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import yaml
from pydantic import BaseModel, Field
from torch import Tensor, nn

from snvideo.errors import SnvideoError
from snvideo.models.pretrained.metadata import RGB, WeightsMetadata
from snvideo.models.pretrained.native import read_own
from snvideo.models.pretrained.reader import Contents
from snvideo.norm import SwitchNorm, create_norm

IMAGENET: tuple[RGB, RGB] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
KINETICS: tuple[RGB, RGB] = ((0.45, 0.45, 0.45), (0.225, 0.225, 0.225))
TORCHVISION: tuple[RGB, RGB] = ((0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989))


class WeightsSource(NamedTuple):
    """Weights to start a network from, of a known format."""

    origin: str
    """The file, or the library and name that they come from."""
    format: str
    """Name of the format."""
    tensors: dict[str, Tensor]
    norm: str | None
    """As from `norm_kind`; None where the file does not show it."""
    mean_std: tuple[RGB, RGB]
    """Normalization of the input, for values 0..1."""
    sha256: str | None
    canonical_names: bool = False
    """Names are those of `canonical_layers`; otherwise they are the network's own."""
    images: bool = False
    """Of a network for images, whose classes are not those of videos."""
    time_stride: int | None = None
    """Of the stem's convolution, where the format says; the tensors do not tell."""
    shifted: bool | None = None
    """Channels are shifted along time, as in TSM, where the format says; as above."""
    classes: tuple[str, ...] | None = None
    """Names in the order of the logits, where the file has them."""
    metadata: WeightsMetadata | None = None
    """Of a file of snvideo."""
    notes: tuple[str, ...] = ()
    """Changes made in translation, and caveats."""
    exact: bool = True
    """With all tensors loaded, a network gives the logits of the original."""


def norm_kind(layer: nn.Module) -> str | None:
    """Kind of a norm, whatever its class and library: sn, bn, gn, ln, in; None for other layers."""
    if isinstance(layer, SwitchNorm):
        return "sn"
    if isinstance(layer, nn.GroupNorm):
        return "ln" if layer.num_groups == 1 else "gn"
    if isinstance(layer, nn.modules.instancenorm._InstanceNorm):
        return "in"
    return "bn" if isinstance(layer, nn.modules.batchnorm._NormBase) else None


def identify(contents: Contents, origin: str) -> WeightsSource:
    """Identify the format of weights, and translate their names.

    Args:
        contents: of the file.
        origin: for messages, and for the report.

    Raises:
        SnvideoError: if no format, or one that cannot be used, is identified.
    """
    if own := read_own(contents, origin):
        metadata, tensors = own
        return WeightsSource(
            origin,
            "snvideo",
            tensors,
            norm_kind(create_norm(metadata.norm)(64)),
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
    norm = "sn" if "mean_logits" in fields else "bn" if "running_mean" in fields else "gn"
    for name, (pattern, mean_std, translate) in _FORMATS.items():
        if any(re.search(pattern, tensor) for tensor in tensors):
            source = WeightsSource(origin, name, tensors, norm, mean_std, contents.sha256)
            return translate(source, contents)
    raise SnvideoError(
        f"{origin}: no known format has tensors such as {', '.join(list(contents.tensors)[:3])}; "
        "known are ResNets of torchvision, timm and SwitchNorm, torchvision's video networks, "
        "pytorchvideo, PySlowFast, mmaction2, TSM, and files of snvideo"
    )


_Rules = dict[str, Callable[[re.Match[str]], str]]
"""Pattern of a layer's name -> its canonical name."""

_STAGE = {"1": "res2", "2": "res3", "3": "res4", "4": "res5"}
_LETTER = {"1": "a", "2": "b", "3": "c"}
_KIND = {"conv": "conv", "bn": "norm", "sn": "norm", "0": "conv", "1": "norm"}


def _rename(source: WeightsSource, rules: _Rules) -> WeightsSource:
    """The source with canonical names."""

    def translate(name: str) -> str:
        layer, _, field = name.rpartition(".")
        for pattern, canonical in rules.items():
            if found := re.fullmatch(pattern, layer):
                return f"{canonical(found)}.{field}"
        return name

    tensors = {translate(name): tensor for name, tensor in source.tensors.items()}
    return source._replace(tensors=tensors, canonical_names=True)


# ResNets for images of torchvision, timm and the official SwitchNorm --------------------------

_IMAGE: _Rules = {
    r"(conv|bn|sn)1": lambda m: f"stem.{_KIND[m[1]]}",
    r"fc": lambda m: "head",
    r"layer([1-4])\.(\d+)\.(conv|bn|sn)([123])": (
        lambda m: f"{_STAGE[m[1]]}.{m[2]}.{_KIND[m[3]]}_{_LETTER[m[4]]}"
    ),
    r"layer([1-4])\.(\d+)\.downsample\.([01])": (
        lambda m: f"{_STAGE[m[1]]}.{m[2]}.shortcut.{_KIND[m[3]]}"
    ),
}


def _image_resnet(source: WeightsSource, contents: Contents) -> WeightsSource:
    return _rename(source, _IMAGE)._replace(images=True)


def _switchnorm_resnet(source: WeightsSource, contents: Contents) -> WeightsSource:
    """The SN paper's ImageNet models: norms are called sn, and hold (1, C, 1, 1) for (C,)."""
    source, translated = _rename(source, _IMAGE), {}
    for name, tensor in source.tensors.items():
        if "norm" in name:
            name = name.replace("mean_weight", "mean_logits").replace("var_weight", "var_logits")
            tensor = tensor.flatten()
        translated[name] = tensor
    return source._replace(tensors=translated, norm="sn", images=True)


# Networks for videos --------------------------------------------------------------------------


def _pytorchvideo(source: WeightsSource, contents: Contents) -> WeightsSource:
    """Networks of pytorchvideo, and bare state dicts of snvideo, which have the same names."""
    if source.norm == "gn":
        source = source._replace(norm=None)  # layer and instance norms look the same
    if "blocks.0.conv.weight" not in source.tensors:  # two pathways
        return source
    if contents.envelope == "model_state":  # all of its published ones
        return source._replace(time_stride=1)
    note = "the file does not say what strides its network had: see that they are these"
    return source._replace(notes=(note,))


_PYSLOWFAST: _Rules = {
    r"head\.projection": lambda m: "head",
    r"s1\.(pathway\d)_stem\.(conv|bn)": lambda m: f"{m[1]}.stem.{_KIND[m[2]]}",
    r"s([1-4])_fuse\.(conv|bn)(?:_f2s)?": lambda m: f"fuse{m[1]}.{_KIND[m[2]]}",
    r"s([2-5])\.(pathway\d)_res(\d+)\.branch1(?:_(bn))?": (
        lambda m: f"{m[2]}.res{m[1]}.{m[3]}.shortcut.{_KIND[m[4] or 'conv']}"
    ),
    r"s([2-5])\.(pathway\d)_nonlocal(\d+)\.(conv_\w+|norm)": (
        lambda m: f"{m[2]}.res{m[1]}.{m[3]}.non_local.{m[4]}"
    ),
    r"s([2-5])\.(pathway\d)_res(\d+)\.branch2\.([abc])(?:_(bn))?": (
        lambda m: f"{m[2]}.res{m[1]}.{m[3]}.{_KIND[m[5] or 'conv']}_{m[4]}"
    ),
}


class _PySlowFastData(BaseModel):
    """Section DATA of the YAML config in PySlowFast's checkpoints."""

    mean: RGB = Field(KINETICS[0], alias="MEAN")
    std: RGB = Field(KINETICS[1], alias="STD")
    bgr: bool = Field(False, alias="REVERSE_INPUT_CHANNEL")


def _pyslowfast_config(contents: Contents) -> dict[str, Any]:
    """Sections of the YAML config in a checkpoint; none where there is none that can be read."""
    try:
        config = yaml.safe_load(contents.extra["cfg"])
    except (yaml.YAMLError, AttributeError, KeyError):
        return {}
    return config if isinstance(config, dict) else {}


class _PySlowFastNonLocal(BaseModel):
    """Section NONLOCAL of that config: settings of res2 to res5, for one pathway or two."""

    instantiation: str = Field(alias="INSTANTIATION")
    group: list[list[int]] = Field([[1]], alias="GROUP")
    pool: list[list[list[int]]] = Field([[[1, 2, 2]]], alias="POOL")


def _non_local_notes(source: WeightsSource, section: Any) -> tuple[str, ...]:
    """Notes on non-local blocks, which have the same tensors whatever they compute.

    Raises:
        SnvideoError: if they compute what no network here does.
    """
    if not any(".non_local." in name for name in source.tensors):
        return ()
    try:
        found = _PySlowFastNonLocal.model_validate(section)
    except ValueError:
        return ("the file does not say what its non-local blocks compute: see that it is softmax",)
    pools = {tuple(pool) for stage in found.pool for pool in stage}
    groups = {group for stage in found.group for group in stage}
    if (found.instantiation, pools, groups) != ("softmax", {(1, 2, 2)}, {1}):
        raise SnvideoError(
            f"{source.origin} has non-local blocks of the kind {found.instantiation}, pools "
            f"{sorted(pools)} and groups {sorted(groups)}: the networks here have softmax, pools "
            "(1, 2, 2) and no groups"
        )
    return ()


def _pyslowfast(source: WeightsSource, contents: Contents) -> WeightsSource:
    two = any("pathway1" in name for name in source.tensors)
    source, translated = _rename(source, _PYSLOWFAST), {}
    for name, tensor in source.tensors.items():
        for number, pathway in enumerate(("slow.", "fast.") if two else ("", "")):
            name = name.replace(f"pathway{number}.", pathway)
        translated[name] = tensor
    config = _pyslowfast_config(contents)
    try:
        data = _PySlowFastData.model_validate(config["DATA"])
    except (KeyError, ValueError):
        data = _PySlowFastData.model_validate({})
    notes = _non_local_notes(source, config.get("NONLOCAL"))
    if data.bgr:
        for name, tensor in translated.items():
            if name.endswith("stem.conv.weight") and tensor.dim() == 5:
                translated[name] = tensor.flip(1)
        notes += ("its input is BGR: the channels of the first convolution were turned round",)
    return source._replace(
        tensors=translated,
        mean_std=(data.mean, data.std),
        time_stride=1,  # of all its ResNets
        shifted=False,
        notes=notes,
    )


def _pathway(found: re.Match[str]) -> str:
    return (found[1] or "").replace("_path", "")


_MMACTION: _Rules = {
    r"cls_head\.fc_cls": lambda m: "head",
    r"backbone\.(slow_path\.|fast_path\.)?conv1\.(conv|bn)": (
        lambda m: f"{_pathway(m)}stem.{_KIND[m[2]]}"
    ),
    r"backbone\.(slow_path\.|fast_path\.)?layer([1-4])\.(\d+)\.conv([123])\.(conv|bn)(?:\.net)?": (
        lambda m: f"{_pathway(m)}{_STAGE[m[2]]}.{m[3]}.{_KIND[m[5]]}_{_LETTER[m[4]]}"
    ),
    r"backbone\.(slow_path\.|fast_path\.)?layer([1-4])\.(\d+)\.downsample\.(conv|bn)": (
        lambda m: f"{_pathway(m)}{_STAGE[m[2]]}.{m[3]}.shortcut.{_KIND[m[4]]}"
    ),
    # The second convolution of CSN is a list: of the depthwise one, or of two.
    r"backbone\.layer([1-4])\.(\d+)\.conv2\.([01])\.(conv|bn)": (
        lambda m: f"{_STAGE[m[1]]}.{m[2]}.second.{m[3]}.{_KIND[m[4]]}"
    ),
    r"backbone\.slow_path\.(?:conv1|layer(\d))_lateral\.(conv|bn)": (
        lambda m: f"fuse{int(m[1] or 0) + 1}.{_KIND[m[2]]}"
    ),
}


_SECOND = {
    False: {"0.conv": "conv_b", "0.norm": "norm_b"},
    True: {
        "0.conv": "conv_b.pointwise",
        "0.norm": "conv_b.norm",
        "1.conv": "conv_b.depthwise",
        "1.norm": "norm_b",
    },
}
"""Layers of the second convolution of CSN, without and with one over all channels."""

_CSN_EPS = 1e-3 - 1e-5
"""By how much more mmaction2's CSNs add to variances than the norms here do."""


def _mmaction_csn(source: WeightsSource) -> WeightsSource:
    """CSN of mmaction2, with the normalization and the eps of its configs, Tran et al.'s own."""
    preserves = any(".second.1." in name for name in source.tensors)
    tensors = {}
    for name, tensor in source.tensors.items():
        place, second, layer = name.partition(".second.")
        if second:
            part, _, field = layer.rpartition(".")
            name = f"{place}.{_SECOND[preserves].get(part, layer)}.{field}"
        # In an evaluation this is the same as their eps.
        tensors[name] = tensor + _CSN_EPS if name.endswith("running_var") else tensor
    note = "its norms add 0.001 to variances, here 0.00001: the difference was added to them"
    return source._replace(tensors=tensors, mean_std=TORCHVISION, notes=(note,), time_stride=1)


def _mmaction(source: WeightsSource, contents: Contents) -> WeightsSource:
    shifted = any(name.endswith(".conv1.conv.net.weight") for name in source.tensors)
    source = _rename(source, _MMACTION)._replace(shifted=shifted)
    translated = source.tensors
    if "fuse1.conv.weight" in translated:
        if "fuse1.norm.weight" not in translated:
            raise SnvideoError(
                f"{source.origin} is a SlowFast of mmaction2 whose lateral connections have no "
                "norm: no network here computes that; take one with lateral_norm, or PySlowFast's"
            )
        # Its classifier reads the fast pathway's features first, that of pytorchvideo the slow's.
        weight, last = (translated.get(x) for x in ("head.weight", "fast.res5.0.conv_c.weight"))
        if weight is not None and last is not None:
            translated["head.weight"] = weight.roll(-len(last), 1)
    meta = contents.extra.get("meta") or {}
    names = (meta.get("dataset_meta") or {}).get("classes")
    source = source._replace(classes=None if names is None else tuple(map(str, names)))
    if any(".second." in name for name in translated):
        return _mmaction_csn(source)
    stem = translated.get("stem.conv.weight")
    stride: int | None = None
    notes: tuple[str, ...] = ()
    if shifted:
        stride = 1
    elif stem is not None and stem.dim() == 4:
        notes = (f"the first pool of mmaction2's C2D is not padded, here it is: {_POOLS}",)
    elif stem is not None:
        stride = 2 if stem.shape[2:3] == (5,) else 1  # of all of its published ones
        if stride == 2:
            notes = (f"the first pool of mmaction2's I3D sees one frame, here three: {_POOLS}",)
    return source._replace(
        tensors=translated,
        time_stride=stride,
        notes=notes,
        exact=not notes,
    )


_POOLS = "logits differ until it is trained on"
"""Of networks whose pools are not those of the papers, which the backbones here have."""


def _tsm(source: WeightsSource, contents: Contents) -> WeightsSource:
    """TSM of its authors: a ResNet for images whose first convolutions are wrapped in shifts."""
    tensors = {
        name.removeprefix("base_model.")
        .replace(".conv1.net.", ".conv1.")
        .replace("new_fc", "fc"): t
        for name, t in source.tensors.items()
    }
    source = _rename(source._replace(tensors=tensors), _IMAGE)
    return source._replace(time_stride=1, shifted=True)


_Translate = Callable[[WeightsSource, Contents], WeightsSource]
_FORMATS: dict[str, tuple[str, tuple[RGB, RGB], _Translate]] = {
    "pytorchvideo": (r"^blocks\.\d+\.(multipathway_|res_blocks\.)", KINETICS, _pytorchvideo),
    "PySlowFast": (r"^s\d\.pathway\d_", KINETICS, _pyslowfast),
    "mmaction2": (r"^backbone\.(slow_path\.|fast_path\.)?conv1\.conv\.", IMAGENET, _mmaction),
    "TSM": (r"^base_model\.layer1\.0\.conv1\.net\.", IMAGENET, _tsm),
    "ResNet for images of SwitchNorm": (
        r"^(sn1|layer\d\.\d+\.sn\d)\.",
        IMAGENET,
        _switchnorm_resnet,
    ),
    "torchvision's video networks": (
        r"^stem\.0\.weight$",
        TORCHVISION,
        lambda source, contents: source,
    ),
    "ResNet for images (torchvision, timm)": (
        r"^layer1\.0\.conv1\.weight$",
        IMAGENET,
        _image_resnet,
    ),
}
"""Format -> pattern of tensor names that it alone has, its input's normalization, translation of
names. Tried in this order."""
