"""Whose weights they are: each library's names for the same layers, and what it leaves unsaid.

A format is recognised by names that it alone has, or refused. Names are translated to the shared
ones of `models.pretrained.name_mapping`; a tensor whose name a format does not know is kept under
its own, so that nothing takes it and it is reported.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml
from torch import Tensor

from snvideo.errors import SnvideoError
from snvideo.models.pretrained.metadata import RGB, About
from snvideo.models.pretrained.native import about_of, tested_tensors
from snvideo.models.pretrained.reader import Contents

IMAGENET: tuple[RGB, RGB] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
KINETICS: tuple[RGB, RGB] = ((0.45, 0.45, 0.45), (0.225, 0.225, 0.225))

NormKind = Literal["sn", "bn", "gn", "ln", "in", "unknown"]


class Source(NamedTuple):
    """Weights of somebody, in words that a network of ours understands."""

    origin: str
    """The file, or the library and name that they come from."""
    format: str
    """Whose: a few words."""
    tensors: dict[str, Tensor]
    shared_names: bool
    """Whether the names are those of `layers`; otherwise they are the network's own."""
    norm: NormKind
    mean_std: tuple[RGB, RGB]
    """What the input was normalized with, for values 0..1."""
    sha256: str | None
    images: bool = False
    """Whether they are of a network for images, whose classes are not those of videos."""
    time_stride: int | None = None
    """Of the stem's convolution, where the format says; the tensors do not tell."""
    classes: tuple[str, ...] | None = None
    """Names in the order of the logits, where the file has them."""
    about: About | None = None
    """Of a file of ours."""
    notes: tuple[str, ...] = ()
    """What was done to them on the way, and what else is to be known."""
    exact: bool = True
    """Whether a network of ours computes what theirs does, where all is taken over."""


def recognise(contents: Contents, origin: str) -> Source:
    """Tell whose weights a file holds, and translate their names.

    Args:
        contents: of the file.
        origin: for messages, and for the report.

    Raises:
        SnvideoError: if no format, or one that cannot be used, is recognised.
    """
    about = about_of(contents, Path(origin))
    if about is not None:
        return _ours(contents, origin, about)
    tensors = {_bare(name): tensor for name, tensor in contents.tensors.items()}
    for marks, read in _FORMATS:
        if any(re.search(marks, name) for name in tensors):
            return read(tensors, contents, origin)
    some = ", ".join(list(contents.tensors)[:3])
    raise SnvideoError(
        f"{origin}: no known format has tensors such as {some}; known are ResNets of torchvision, "
        "timm and SwitchNorm, torchvision's video networks, pytorchvideo, PySlowFast, mmaction2, "
        "and files of snvideo"
    )


def _bare(name: str) -> str:
    """Without what wrappers put before it."""
    for wrapper in ("module.", "_orig_mod."):
        name = name.removeprefix(wrapper)
    return name


def _norm_kind(tensors: Mapping[str, Tensor]) -> NormKind:
    fields = {name.rpartition(".")[2] for name in tensors}
    return "sn" if "mean_logits" in fields else "bn" if "running_mean" in fields else "gn"


_KINDS: dict[str, NormKind] = {"syncsn": "sn", "syncbn": "bn", "frozen_bn": "bn"}


def _ours(contents: Contents, origin: str, about: About) -> Source:
    seen = about.preprocessing
    return Source(
        origin,
        "snvideo",
        tested_tensors(contents, origin),
        shared_names=False,
        norm=_KINDS.get(about.norm, about.norm),
        mean_std=(seen.mean, seen.std),
        sha256=contents.sha256,
        classes=about.classes,
        about=about,
    )


# ResNets for images ---------------------------------------------------------------------------

_STEM = {"conv1": "stem.conv", "bn1": "stem.norm", "sn1": "stem.norm", "fc": "head"}
_LETTER = {"1": "a", "2": "b", "3": "c"}


def _image_name(name: str) -> str:
    """Of torchvision, timm and the official SwitchNorm; they differ in what norms are called."""
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
        layer = f"{'conv' if part == 'conv' else 'norm'}_{_LETTER.get(number, number)}"
    return f"res{int(stage) + 1}.{block}.{layer}.{field}"


def _image_resnet(tensors: dict[str, Tensor], contents: Contents, origin: str) -> Source:
    translated = {_image_name(name): tensor for name, tensor in tensors.items()}
    return Source(
        origin,
        "ResNet for images (torchvision, timm)",
        translated,
        shared_names=True,
        norm=_norm_kind(translated),
        mean_std=IMAGENET,
        sha256=contents.sha256,
        images=True,
    )


_SN_FIELDS = {"mean_weight": "mean_logits", "var_weight": "var_logits"}


def _switchnorm_resnet(tensors: dict[str, Tensor], contents: Contents, origin: str) -> Source:
    """The SN paper's ImageNet models: norms are called sn, and hold (1, C, 1, 1) for (C,)."""
    if any(name.startswith("sn_out") for name in tensors):
        raise SnvideoError(
            f"{origin} is a ResNet v2 of SwitchNorm, whose norms come before the convolutions: "
            "use its ResNet v1 (resnet50v1)"
        )
    translated = {}
    for name, tensor in tensors.items():
        module, _, field = _image_name(name).rpartition(".")
        is_norm = "norm" in module.rpartition(".")[2]
        field = _SN_FIELDS.get(field, field) if is_norm else field
        translated[f"{module}.{field}"] = tensor.flatten() if is_norm else tensor
    return Source(
        origin,
        "ResNet for images of SwitchNorm",
        translated,
        shared_names=True,
        norm="sn",
        mean_std=IMAGENET,
        sha256=contents.sha256,
        images=True,
    )


# Networks for videos --------------------------------------------------------------------------


def _pytorchvideo(tensors: dict[str, Tensor], contents: Contents, origin: str) -> Source:
    """Under the names that our networks have, too: theirs, or a bare state dict of ours."""
    if {"index_hash", "classes"} <= contents.facts.keys():
        raise SnvideoError(
            f"{origin} is a checkpoint of an older snvideo, which does not say what it is of: its "
            "run writes model.safetensors when it ends with this one"
        )
    published = contents.envelope == "model_state"
    single = "blocks.0.conv.weight" in tensors
    kind = _norm_kind(tensors)
    notes: tuple[str, ...] = ()
    if single and not published:
        notes = ("the file does not say what strides its network had: see that they are these",)
    return Source(
        origin,
        "pytorchvideo",
        tensors,
        shared_names=False,
        norm="unknown" if kind == "gn" else kind,  # layer and instance norms look the same
        mean_std=KINETICS,
        sha256=contents.sha256,
        time_stride=1 if single and published else None,  # of all of its published ones
        notes=notes,
    )


def _torchvision_video(tensors: dict[str, Tensor], contents: Contents, origin: str) -> Source:
    return Source(
        origin,
        "torchvision's video networks",
        tensors,
        shared_names=False,
        norm=_norm_kind(tensors),
        mean_std=((0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)),
        sha256=contents.sha256,
    )


def _pyslowfast_name(name: str) -> str:
    module, _, field = name.rpartition(".")
    if module == "head.projection":
        return f"head.{field}"
    found = re.fullmatch(r"s1\.pathway(\d)_stem\.(conv|bn)", module)
    if found:
        layer = "conv" if found[2] == "conv" else "norm"
        return f"pathway{found[1]}.stem.{layer}.{field}"
    found = re.fullmatch(r"s([1-4])_fuse\.(conv_f2s|bn)", module)
    if found:
        return f"fuse{found[1]}.{'conv' if found[2] == 'conv_f2s' else 'norm'}.{field}"
    found = re.fullmatch(r"s([2-5])\.pathway(\d)_res(\d+)\.(branch1|branch2\.[abc])(_bn)?", module)
    if not found:
        return name
    stage, pathway, block, part, norm = found.groups()
    kind = "norm" if norm else "conv"
    layer = f"shortcut.{kind}" if part == "branch1" else f"{kind}_{part[-1]}"
    return f"pathway{pathway}.res{stage}.{block}.{layer}.{field}"


def _pyslowfast(tensors: dict[str, Tensor], contents: Contents, origin: str) -> Source:
    pathways = ("slow.", "fast.") if any("pathway1" in name for name in tensors) else ("", "")
    translated = {}
    for name, tensor in tensors.items():
        known = _pyslowfast_name(name)
        for number, pathway in enumerate(pathways):
            known = known.replace(f"pathway{number}.", pathway)
        translated[known] = tensor
    data = _pyslowfast_data(contents.facts.get("cfg"))
    notes: tuple[str, ...] = ()
    if data.get("REVERSE_INPUT_CHANNEL") is True:
        for name, tensor in translated.items():
            if name.endswith("stem.conv.weight") and tensor.dim() == 5:
                translated[name] = tensor.flip(1)
        notes = ("its input is BGR: the channels of the first convolution were turned round",)
    mean, std = (
        _rgb(data.get(key)) or default
        for key, default in zip(("MEAN", "STD"), KINETICS, strict=True)
    )
    return Source(
        origin,
        "PySlowFast",
        translated,
        shared_names=True,
        norm=_norm_kind(translated),
        mean_std=(mean, std),
        sha256=contents.sha256,
        time_stride=1,  # of all its ResNets
        notes=notes,
    )


def _pyslowfast_data(text: Any) -> Mapping[str, Any]:
    """What the YAML config that its checkpoints hold says of data; empty if it cannot be read."""
    try:
        data = yaml.safe_load(text)["DATA"] if isinstance(text, str) else None
    except (yaml.YAMLError, ValueError, TypeError, KeyError):
        data = None
    return data if isinstance(data, Mapping) else {}


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
        kind = "norm" if kind == "bn" else kind
        pathway = (pathway or "").replace("_path", "")
        if stage is None:
            return f"{pathway}stem.{kind}.{field}"
        layer = f"shortcut.{kind}" if part == "downsample" else f"{kind}_{_LETTER[number]}"
        return f"{pathway}res{int(stage) + 1}.{block}.{layer}.{field}"
    found = re.fullmatch(r"backbone\.slow_path\.(?:conv1|layer(\d))_lateral\.(conv|bn)", module)
    if found:
        kind = "norm" if found[2] == "bn" else found[2]
        return f"fuse{int(found[1] or 0) + 1}.{kind}.{field}"
    return name


def _mmaction(tensors: dict[str, Tensor], contents: Contents, origin: str) -> Source:
    translated = {_mmaction_name(name): tensor for name, tensor in tensors.items()}
    if "fuse1.conv.weight" in translated:
        if "fuse1.norm.weight" not in translated:
            raise SnvideoError(
                f"{origin} is a SlowFast of mmaction2 whose lateral connections have no norm: "
                "no network here computes that; take one with lateral_norm, or PySlowFast's"
            )
        # Its classifier reads the fast pathway's features first, ours the slow one's.
        weight, last = (translated.get(x) for x in ("head.weight", "fast.res5.0.conv_c.weight"))
        if weight is not None and last is not None and weight.dim() == 2 and last.dim() == 5:
            translated["head.weight"] = weight.roll(-len(last), 1)
    meta = contents.facts.get("meta")
    meta = meta if isinstance(meta, Mapping) else {}
    dataset = meta.get("dataset_meta")
    names = dataset.get("classes") if isinstance(dataset, Mapping) else None
    stem = translated.get("stem.conv.weight")
    pools = _mmaction_pools(stem)
    return Source(
        origin,
        "mmaction2",
        translated,
        shared_names=True,
        norm=_norm_kind(translated),
        mean_std=IMAGENET,
        sha256=contents.sha256,
        time_stride=_mmaction_stride(stem, meta.get("cfg")),
        classes=tuple(map(str, names)) if isinstance(names, (list, tuple)) else None,
        notes=pools,
        exact=not pools,
    )


def _mmaction_pools(stem: Tensor | None) -> tuple[str, ...]:
    """What its networks have that ours, with the pools of the papers, do not compute."""
    until = "logits differ until it is trained on"
    if stem is not None and stem.dim() == 4:
        return (f"the first pool of mmaction2's C2D is not padded, here it is: {until}",)
    if stem is not None and stem.dim() == 5 and stem.shape[2] == 5:
        return (f"the first pool of mmaction2's I3D sees one frame, here three: {until}",)
    return ()


def _mmaction_stride(stem: Tensor | None, config: Any) -> int | None:
    """What its config says, or what all of its published I3Ds have: 2, and 1 for all others."""
    stated = re.search(r"conv1_stride_t=(\d)", config) if isinstance(config, str) else None
    if stated:
        return int(stated[1])
    if stem is None or stem.dim() != 5:
        return None
    return 2 if stem.shape[2] == 5 else 1


_FORMATS: tuple[tuple[str, Callable[[dict[str, Tensor], Contents, str], Source]], ...] = (
    (r"^blocks\.\d+\.(multipathway_|res_blocks\.)", _pytorchvideo),
    (r"^s\d\.pathway\d_", _pyslowfast),
    (r"^backbone\.(slow_path\.|fast_path\.)?conv1\.conv\.", _mmaction),
    (r"^(sn1|sn_out|layer\d\.\d+\.sn\d)\.", _switchnorm_resnet),
    (r"^stem\.0\.weight$", _torchvision_video),
    (r"^layer1\.0\.conv1\.weight$", _image_resnet),
)
"""What each format alone has, and how it is read; tried in order."""
