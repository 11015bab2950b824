"""Caffe2: the networks of PySlowFast's model zoo that were trained before it, in .pkl files."""

from __future__ import annotations

import re

from snvideo.models.pretrained.formats.source import NO_POOL, Rules, WeightsSource
from snvideo.models.pretrained.reader import Contents

_BLOB = re.compile(r"(.*?)(_bn)?_(w|b|s|rm|riv)")
"""A layer, the norm behind it, and what is in the blob."""

_FIELDS = {
    "w": "weight",
    "b": "bias",
    "s": "weight",
    "rm": "running_mean",
    "riv": "running_var",  # by its name an inverse, but a variance
}

_CAFFE2: Rules = {
    r"(t_)?(?:res_)?conv1": lambda m: f"{_pathway(m[1])}stem.{{kind}}",
    r"(t_)?res([2-5])_(\d+)_branch1": (
        lambda m: f"{_pathway(m[1])}res{m[2]}.{m[3]}.shortcut.{{kind}}"
    ),
    r"(t_)?res([2-5])_(\d+)_branch2([abc])": (
        lambda m: f"{_pathway(m[1])}res{m[2]}.{m[3]}.{{kind}}_{m[4]}"
    ),
    r"nonlocal_conv([2-5])_(\d+)_(theta|phi|g|out)": (
        lambda m: f"slow.res{m[1]}.{m[2]}.non_local.conv_{m[3]}"
    ),
    r"nonlocal_conv([2-5])_(\d+)": lambda m: f"slow.res{m[1]}.{m[2]}.non_local.norm",
    r"t_pool1_subsample": lambda m: "fuse1.{kind}",
    r"t_res([2-4])_\d+_branch2c_bn_subsample": lambda m: f"fuse{m[1]}.{{kind}}",
    r"pred": lambda m: "head",
}
"""Layers, whose `kind` is that of the blob."""

_OF_TRAINING = re.compile(r".*_momentum|lr|model_iter")


def _pathway(fast: str | None) -> str:
    return "fast." if fast else "slow."


def caffe2(source: WeightsSource, contents: Contents) -> WeightsSource:
    """A network of Caffe2; what its optimizer left there is left out."""
    two = any(name.startswith("t_") for name in source.tensors)
    tensors, left_out = {}, 0
    for name, tensor in source.tensors.items():
        if _OF_TRAINING.fullmatch(name):
            left_out += 1
            continue
        name = _canonical(name)
        tensors[name if two else name.removeprefix("slow.")] = tensor
    stem = tensors.get("stem.conv.weight")
    kernels = [t for name, t in tensors.items() if name.endswith("conv_a.weight")]
    flat = stem is not None and all(t.dim() == 5 and t.shape[2] == 1 for t in (stem, *kernels))
    notes: tuple[str, ...] = (
        "a Caffe2 file says neither what strides its network had nor what its input was: see that "
        "they are those of this one, and RGB",
    )
    if left_out:
        notes += (f"{left_out} blobs of its optimizer were left out",)
    if any(".non_local." in name for name in tensors):
        notes += ("nor what its non-local blocks compute: see that it is softmax",)
    if flat:
        notes += (f"the published C2D {NO_POOL}",)
    return source._replace(
        tensors=tensors,
        canonical_names=True,
        norm="bn",
        shifted=False,
        notes=notes,
        exact=not flat,
    )


def _canonical(blob: str) -> str:
    """Canonical name of a blob; its own if there is none."""
    if found := _BLOB.fullmatch(blob):
        layer, norm, field = found.groups()
        for pattern, canonical in _CAFFE2.items():
            if match := re.fullmatch(pattern, layer):
                kind = "norm" if norm else "conv"
                return f"{canonical(match).format(kind=kind)}.{_FIELDS[field]}"
    return blob
