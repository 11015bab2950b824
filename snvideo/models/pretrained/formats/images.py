"""ResNets for images: torchvision, timm, SwitchNorm, and TSM, which is one with shifts."""

from __future__ import annotations

from snvideo.models.pretrained.formats.source import (
    KIND,
    LETTER,
    STAGE,
    Rules,
    WeightsSource,
    rename,
)
from snvideo.models.pretrained.reader import Contents

_IMAGE: Rules = {
    r"(conv|bn|sn)1": lambda m: f"stem.{KIND[m[1]]}",
    r"fc": lambda m: "head",
    r"layer([1-4])\.(\d+)\.(conv|bn|sn)([123])": (
        lambda m: f"{STAGE[m[1]]}.{m[2]}.{KIND[m[3]]}_{LETTER[m[4]]}"
    ),
    r"layer([1-4])\.(\d+)\.downsample\.([01])": (
        lambda m: f"{STAGE[m[1]]}.{m[2]}.shortcut.{KIND[m[3]]}"
    ),
}


def image_resnet(source: WeightsSource, contents: Contents) -> WeightsSource:
    """A ResNet of torchvision or timm."""
    return rename(source, _IMAGE)._replace(images=True)


def switchnorm_resnet(source: WeightsSource, contents: Contents) -> WeightsSource:
    """The SN paper's ImageNet models: norms are called sn, and hold (1, C, 1, 1) for (C,)."""
    source, translated = rename(source, _IMAGE), {}
    for name, tensor in source.tensors.items():
        if "norm" in name:
            name = name.replace("mean_weight", "mean_logits").replace("var_weight", "var_logits")
            tensor = tensor.flatten()
        translated[name] = tensor
    return source._replace(tensors=translated, norm="sn", images=True)


def tsm_of_authors(source: WeightsSource, contents: Contents) -> WeightsSource:
    """TSM of its authors: a ResNet for images whose first convolutions are wrapped in shifts."""
    tensors = {
        name.removeprefix("base_model.")
        .replace(".conv1.net.", ".conv1.")
        .replace("new_fc", "fc"): t
        for name, t in source.tensors.items()
    }
    source = rename(source._replace(tensors=tensors), _IMAGE)
    return source._replace(time_stride=1, shifted=True)
