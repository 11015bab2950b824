"""Weight formats of other libraries, each identified by names that it alone has.

Names are translated to the canonical ones of `models.pretrained.name_mapping`; a tensor of unknown
name keeps it, and is reported.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from snvideo.errors import SnvideoError
from snvideo.models.pretrained.formats.caffe2 import caffe2
from snvideo.models.pretrained.formats.images import image_resnet, switchnorm_resnet, tsm_of_authors
from snvideo.models.pretrained.formats.mmaction import mmaction
from snvideo.models.pretrained.formats.pyslowfast import pyslowfast
from snvideo.models.pretrained.formats.source import (
    IMAGENET,
    KINETICS,
    TORCHVISION,
    WeightsSource,
    norm_kind,
)
from snvideo.models.pretrained.metadata import RGB
from snvideo.models.pretrained.native import read_own
from snvideo.models.pretrained.reader import Contents
from snvideo.norm import create_norm

__all__ = ["WeightsSource", "identify", "norm_kind"]


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
        "pytorchvideo, PySlowFast, Caffe2, mmaction2, TSM, and files of snvideo"
    )


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


_Translate = Callable[[WeightsSource, Contents], WeightsSource]
_FORMATS: dict[str, tuple[str, tuple[RGB, RGB], _Translate]] = {
    "pytorchvideo": (r"^blocks\.\d+\.(multipathway_|res_blocks\.)", KINETICS, _pytorchvideo),
    "PySlowFast": (r"^s\d\.pathway\d_", KINETICS, pyslowfast),
    "Caffe2": (r"^res_conv1_bn_s$", KINETICS, caffe2),
    "mmaction2": (r"^backbone\.(slow_path\.|fast_path\.)?conv1\.conv\.", IMAGENET, mmaction),
    "TSM": (r"^base_model\.layer1\.0\.conv1\.net\.", IMAGENET, tsm_of_authors),
    "ResNet for images of SwitchNorm": (
        r"^(sn1|layer\d\.\d+\.sn\d)\.",
        IMAGENET,
        switchnorm_resnet,
    ),
    "torchvision's video networks": (
        r"^stem\.0\.weight$",
        TORCHVISION,
        lambda source, contents: source,
    ),
    "ResNet for images (torchvision, timm)": (
        r"^layer1\.0\.conv1\.weight$",
        IMAGENET,
        image_resnet,
    ),
}
"""Format -> pattern of tensor names that it alone has, its input's normalization, translation of
names. Tried in this order."""
