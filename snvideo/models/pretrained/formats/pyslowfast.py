"""PySlowFast: its ResNets, SlowFast, and X3D."""

from __future__ import annotations

from typing import Any

import yaml
from pydantic import BaseModel, Field

from snvideo.errors import SnvideoError
from snvideo.models.pretrained.formats.pyslowfast_x3d import (
    FOLDED,
    STEM,
    X3D,
    fold_shortcut_norm,
)
from snvideo.models.pretrained.formats.source import (
    KIND,
    KINETICS,
    NO_POOL,
    Rules,
    WeightsSource,
    rename,
)
from snvideo.models.pretrained.metadata import RGB
from snvideo.models.pretrained.reader import Contents

_PYSLOWFAST: Rules = {
    r"head\.projection": lambda m: "head",
    r"s1\.(pathway\d)_stem\.(conv|bn)": lambda m: f"{m[1]}.stem.{KIND[m[2]]}",
    r"s([1-4])_fuse\.(conv|bn)(?:_f2s)?": lambda m: f"fuse{m[1]}.{KIND[m[2]]}",
    r"s([2-5])\.(pathway\d)_res(\d+)\.branch1(?:_(bn))?": (
        lambda m: f"{m[2]}.res{m[1]}.{m[3]}.shortcut.{KIND[m[4] or 'conv']}"
    ),
    r"s([2-5])\.(pathway\d)_nonlocal(\d+)\.(conv_\w+|norm|bn)": (
        lambda m: f"{m[2]}.res{m[1]}.{m[3]}.non_local.{m[4].replace('bn', 'norm')}"
    ),
    r"s([2-5])\.(pathway\d)_res(\d+)\.branch2\.([abc])(?:_(bn))?": (
        lambda m: f"{m[2]}.res{m[1]}.{m[3]}.{KIND[m[5] or 'conv']}_{m[4]}"
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


def _resnet(source: WeightsSource) -> WeightsSource:
    """A ResNet of one pathway or two."""
    two = any("pathway1" in name for name in source.tensors)
    source, translated = rename(source, _PYSLOWFAST), {}
    for name, tensor in source.tensors.items():
        for number, pathway in enumerate(("slow.", "fast.") if two else ("", "")):
            name = name.replace(f"pathway{number}.", pathway)
        translated[name] = tensor
    return source._replace(tensors=translated, time_stride=1)  # of all that there are


def _x3d(source: WeightsSource) -> WeightsSource:
    """X3D, in the network's own names."""
    source = rename(source, X3D)._replace(canonical_names=False)
    folded = fold_shortcut_norm(source.tensors)
    notes = () if folded is source.tensors else (FOLDED,)
    return source._replace(tensors=folded, notes=notes)


def pyslowfast(source: WeightsSource, contents: Contents) -> WeightsSource:
    """A network of PySlowFast, with what its config says of its input and its blocks.

    Raises:
        SnvideoError: for non-local blocks that compute what no network here does.
    """
    is_x3d = any(".pathway0_stem.conv_xy." in name for name in source.tensors)
    source = _x3d(source) if is_x3d else _resnet(source)
    config = _pyslowfast_config(contents)
    try:
        data = _PySlowFastData.model_validate(config["DATA"])
    except (KeyError, ValueError):
        data = _PySlowFastData.model_validate({})
    notes = source.notes + _non_local_notes(source, config.get("NONLOCAL"))
    tensors = dict(source.tensors)
    if data.bgr:
        for name, tensor in tensors.items():
            if name.endswith(("stem.conv.weight", f"{STEM}.weight")) and tensor.dim() == 5:
                tensors[name] = tensor.flip(1)
        notes += ("its input is BGR: the channels of the first convolution were turned round",)
    model = config.get("MODEL")
    arch = str(model.get("ARCH", "")) if isinstance(model, dict) else ""
    pooled = not arch.endswith("_nopool")
    if not pooled:
        notes += (f"{arch} {NO_POOL}",)
    return source._replace(
        tensors=tensors,
        mean_std=(data.mean, data.std),
        shifted=False,
        notes=notes,
        exact=pooled,
    )
