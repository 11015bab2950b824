"""Backbones by name, finished alike for every norm."""

from collections.abc import Callable
from typing import Any

from torch import nn

from snvideo.errors import SnvideoError
from snvideo.models import resnet, slowfast
from snvideo.models.dropout import clip_dropout
from snvideo.norm import create_norm
from snvideo.norm.factory import NormLayer

BACKBONES: dict[str, Callable[[int, NormLayer, float], nn.Module]] = {
    build.__name__: build
    for build in (
        resnet.c2d_r50_8x8,
        resnet.i3d_r50_8x8,
        resnet.i3d_r50_32x2,
        resnet.i3d_tiny,
        resnet.slow_r50_8x8,
        slowfast.slowfast_r50_8x8,
    )
}


def build_model(
    name: str,
    num_classes: int,
    norm: str | NormLayer = "bn",
    dropout: float = 0.5,
    **norm_options: Any,
) -> nn.Module:
    """A backbone with any norm, randomly initialised.

    Args:
        name: one of `BACKBONES`.
        num_classes: size of the logits.
        norm: as for `snvideo.norm.create_norm`.
        dropout: rate before the classifier.
        norm_options: further keyword arguments for every norm layer.

    Returns:
        a module (N, 3, T, H, W) -> logits (N, num_classes); no softmax.

    Raises:
        SnvideoError: for an unknown name.
    """
    if name not in BACKBONES:
        raise SnvideoError(f"unknown model '{name}': expected one of {', '.join(BACKBONES)}")
    model = BACKBONES[name](num_classes, create_norm(norm, **norm_options), dropout)
    clip_dropout(model)
    _zero_last_scale(model)
    _plain_strides(model)
    return model


def _zero_last_scale(model: nn.Module) -> None:
    """Start every residual branch at zero (Goyal et al., arXiv 1706.02677), whatever its norm.

    The builders mark the last norm of each branch, but zero it for Batch Normalization only, which
    would give one norm a better start than the others.
    """
    for module in model.modules():
        if getattr(module, "block_final_bn", False):
            nn.init.zeros_(module.weight)


def _plain_strides(model: nn.Module) -> None:
    """The builders compute strides with numpy, whose integers torch.compile cannot trace."""
    for module in model.modules():
        if isinstance(module, nn.Conv3d):
            module.stride = tuple(int(stride) for stride in module.stride)
