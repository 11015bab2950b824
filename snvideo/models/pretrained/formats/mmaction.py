"""mmaction2: its ResNets in 3D, SlowFast, CSN and TSM."""

from __future__ import annotations

import re

from snvideo.errors import SnvideoError
from snvideo.models.pretrained.formats.source import (
    KIND,
    LETTER,
    STAGE,
    TORCHVISION,
    Rules,
    WeightsSource,
    rename,
)
from snvideo.models.pretrained.reader import Contents


def _pathway(found: re.Match[str]) -> str:
    return (found[1] or "").replace("_path", "")


_MMACTION: Rules = {
    r"cls_head\.fc_cls": lambda m: "head",
    r"backbone\.(slow_path\.|fast_path\.)?conv1\.(conv|bn)": (
        lambda m: f"{_pathway(m)}stem.{KIND[m[2]]}"
    ),
    r"backbone\.(slow_path\.|fast_path\.)?layer([1-4])\.(\d+)\.conv([123])\.(conv|bn)(?:\.net)?": (
        lambda m: f"{_pathway(m)}{STAGE[m[2]]}.{m[3]}.{KIND[m[5]]}_{LETTER[m[4]]}"
    ),
    r"backbone\.(slow_path\.|fast_path\.)?layer([1-4])\.(\d+)\.downsample\.(conv|bn)": (
        lambda m: f"{_pathway(m)}{STAGE[m[2]]}.{m[3]}.shortcut.{KIND[m[4]]}"
    ),
    # The second convolution of CSN is a list: of the depthwise one, or of two.
    r"backbone\.layer([1-4])\.(\d+)\.conv2\.([01])\.(conv|bn)": (
        lambda m: f"{STAGE[m[1]]}.{m[2]}.second.{m[3]}.{KIND[m[4]]}"
    ),
    r"backbone\.slow_path\.(?:conv1|layer(\d))_lateral\.(conv|bn)": (
        lambda m: f"fuse{int(m[1] or 0) + 1}.{KIND[m[2]]}"
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


def mmaction(source: WeightsSource, contents: Contents) -> WeightsSource:
    """A network of mmaction2, and what differs in its pools and norms.

    Raises:
        SnvideoError: for a SlowFast whose lateral connections have no norms.
    """
    shifted = any(name.endswith(".conv1.conv.net.weight") for name in source.tensors)
    source = rename(source, _MMACTION)._replace(shifted=shifted)
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
