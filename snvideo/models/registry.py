"""Backbones by name, finished alike for every norm."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from torch import nn
from torchvision.models import video

from snvideo.errors import SnvideoError
from snvideo.models.dropout import clip_dropout
from snvideo.models.r2plus1d import r2plus1d, tiny_r2plus1d
from snvideo.models.resnet import C2D, I3D, SLOW, resnet, tiny_resnet
from snvideo.models.slowfast import slowfast, tiny_slowfast
from snvideo.models.video_resnet import video_resnet
from snvideo.models.x3d import x3d
from snvideo.norm import create_norm
from snvideo.norm.factory import NormLayer


class Backbone(NamedTuple):
    """A network, and the view of a video that it was published with."""

    build: Callable[[int, NormLayer, float], nn.Module]
    """(classes, norm, dropout) -> the network, not yet finished: see `build_model`."""
    frames: int
    """Of a clip."""
    stride: int
    """From one frame of a clip to the next, in frames of the video."""
    crop: int
    """Height and width of a test view, pixels."""


BACKBONES: dict[str, Backbone] = {
    "c2d_r50_8x8": Backbone(partial(resnet, C2D, 50), 8, 8, 256),
    "i3d_r50_8x8": Backbone(partial(resnet, I3D, 50), 8, 8, 256),
    # The baseline of the GN and SN papers on Kinetics: time shrinks from 32 to 16, 8 and 4 frames.
    "i3d_r50_32x2": Backbone(partial(resnet, I3D, 50, halve_stem=True), 32, 2, 256),
    "i3d_r101_8x8": Backbone(partial(resnet, I3D, 101), 8, 8, 256),
    "i3d_r101_32x2": Backbone(partial(resnet, I3D, 101, halve_stem=True), 32, 2, 256),
    "slow_r50_4x16": Backbone(partial(resnet, SLOW, 50), 4, 16, 256),
    "slow_r50_8x8": Backbone(partial(resnet, SLOW, 50), 8, 8, 256),
    "slow_r101_8x8": Backbone(partial(resnet, SLOW, 101), 8, 8, 256),
    # Frames and stride are those of the fast pathway, the name's those of the slow one.
    "slowfast_r50_4x16": Backbone(partial(slowfast, 50, 8, 5), 32, 2, 256),
    "slowfast_r50_8x8": Backbone(partial(slowfast, 50, 4, 7), 32, 2, 256),
    "slowfast_r101_8x8": Backbone(partial(slowfast, 101, 4, 5), 32, 2, 256),
    "r2plus1d_r50_16x4": Backbone(partial(r2plus1d, 50), 16, 4, 256),
    "x3d_xs": Backbone(x3d, 4, 12, 182),
    "x3d_s": Backbone(x3d, 13, 6, 182),
    "x3d_m": Backbone(x3d, 16, 5, 256),
    # At 15 frames a second, with which torchvision tests them: every other one of most videos.
    "r3d_18": Backbone(partial(video_resnet, video.r3d_18), 16, 2, 112),
    "mc3_18": Backbone(partial(video_resnet, video.mc3_18), 16, 2, 112),
    "r2plus1d_18": Backbone(partial(video_resnet, video.r2plus1d_18), 16, 2, 112),
    # Nobody published these: for CPUs, with the view of the toy videos.
    "c2d_tiny": Backbone(partial(tiny_resnet, C2D), 8, 4, 48),
    "i3d_tiny": Backbone(partial(tiny_resnet, I3D), 8, 4, 48),
    "slow_tiny": Backbone(partial(tiny_resnet, SLOW), 8, 4, 48),
    "slowfast_tiny": Backbone(tiny_slowfast, 16, 2, 48),
    "r2plus1d_tiny": Backbone(tiny_r2plus1d, 8, 4, 48),
}


def backbone(name: str) -> Backbone:
    """One of `BACKBONES`.

    Raises:
        SnvideoError: for an unknown name.
    """
    if name not in BACKBONES:
        raise SnvideoError(f"unknown model '{name}': expected one of {', '.join(BACKBONES)}")
    return BACKBONES[name]


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
        a module (N, 3, T, H, W) -> logits (N, num_classes); no softmax. Heads pool whatever is
        left of time and space, so clip length and crop are free where strides allow it.

    Raises:
        SnvideoError: for an unknown name.
    """
    model = backbone(name).build(num_classes, create_norm(norm, **norm_options), dropout)
    clip_dropout(model)
    _zero_last_scale(model)
    _plain_strides(model)
    return model


def _zero_last_scale(model: nn.Module) -> None:
    """Start every residual branch at zero (Goyal et al., arXiv 1706.02677), whatever its norm.

    The last norm of each branch is marked, but pytorchvideo zeroes it for Batch Normalization only,
    which would give one norm a better start than the others, and torchvision for none.
    """
    for module in model.modules():
        if getattr(module, "block_final_bn", False):
            nn.init.zeros_(module.weight)


def _plain_strides(model: nn.Module) -> None:
    """The builders compute strides with numpy, whose integers torch.compile cannot trace."""
    for module in model.modules():
        if isinstance(module, nn.Conv3d):
            module.stride = tuple(int(stride) for stride in module.stride)
