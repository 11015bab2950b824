"""Registry of backbones: published video networks by name, built with any norm."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from pytorchvideo.models.x3d import create_x3d
from torch import nn
from torchvision.models import video
from torchvision.models.video.resnet import BasicBlock, VideoResNet

from snvideo.errors import SnvideoError
from snvideo.models.csn import csn
from snvideo.models.drop_path import add_drop_path
from snvideo.models.dropout import ClipDropout, replace_dropout
from snvideo.models.non_local import non_local_i3d
from snvideo.models.resnet import (
    C2D,
    I3D,
    SLOW,
    TINY_DEPTH,
    TINY_DEPTH_2,
    TINY_WIDTH,
    r2plus1d,
    resnet,
)
from snvideo.models.slowfast import slowfast
from snvideo.models.tsm import tsm
from snvideo.norm import convert_norm, create_norm, standardize_weights, start_by_depth
from snvideo.norm.factory import NormLayer


class Backbone(NamedTuple):
    """A network, and the view of a video that it was published with."""

    build: Callable[[int, NormLayer, float], nn.Module]
    """(classes, norm, dropout) -> the network, to be completed by `create_model`."""
    frames: int
    """Frames of a clip."""
    stride: int
    """From one frame of a clip to the next, in frames of the video."""
    crop: int
    """Height and width of a test view, pixels."""


def x3d(classes: int, norm: NormLayer, dropout: float, depth_factor: float = 2.2) -> nn.Module:
    """X3D (Feichtenhofer, arXiv 2004.04730), in all views.

    Args:
        classes, norm, dropout: as for `resnet`.
        depth_factor: blocks of the stages, as multiples of 1, 2, 5 and 3, rounded up.
    """
    net = create_x3d(
        model_num_class=classes,
        depth_factor=depth_factor,
        dropout_rate=dropout,
        norm=norm,
        inner_act=nn.SiLU,  # x * sigmoid(x) in one operation; the builder's own takes two
        head_activation=None,  # a softmax otherwise
    )
    # The builder's pool has the size of one clip length and crop.
    net.blocks[-1].pool.pool = nn.AdaptiveAvgPool3d(1)
    return net


def video_resnet(
    create: Callable[..., VideoResNet], classes: int, norm: NormLayer, dropout: float
) -> nn.Module:
    """R3D, MC3 or R(2+1)D of 18 layers (Tran et al., arXiv 1711.11248).

    Parameters and buffers have torchvision's names, so that its weights load.

    Args:
        create: a builder of torchvision, as `torchvision.models.video.r3d_18`.
        classes, norm: as for `resnet`.
        dropout: rate before the classifier; torchvision has none.
    """
    net = create(num_classes=classes)
    convert_norm(net, norm)
    for block in net.modules():
        if isinstance(block, BasicBlock):
            block.conv2[-1].block_final_bn = True  # as pytorchvideo marks it
    # Behind the pool, which has no parameters that would get other names.
    net.avgpool = nn.Sequential(net.avgpool, ClipDropout(dropout, net.fc.in_features))
    return net


BACKBONES: dict[str, Backbone] = {
    "c2d_r50_8x8": Backbone(partial(resnet, C2D, 50), 8, 8, 256),
    "i3d_r50_8x8": Backbone(partial(resnet, I3D, 50), 8, 8, 256),
    # The baseline of the GN and SN papers on Kinetics: time shrinks from 32 to 16, 8 and 4 frames.
    "i3d_r50_32x2": Backbone(partial(resnet, I3D, 50, halve_stem=True), 32, 2, 256),
    "i3d_r101_8x8": Backbone(partial(resnet, I3D, 101), 8, 8, 256),
    "i3d_r101_32x2": Backbone(partial(resnet, I3D, 101, halve_stem=True), 32, 2, 256),
    "i3d_nln_r50_8x8": Backbone(partial(non_local_i3d, 50), 8, 8, 256),
    "i3d_nln_r50_32x2": Backbone(partial(non_local_i3d, 50, halve_stem=True), 32, 2, 256),
    "slow_r50_4x16": Backbone(partial(resnet, SLOW, 50), 4, 16, 256),
    "slow_r50_8x8": Backbone(partial(resnet, SLOW, 50), 8, 8, 256),
    "slow_r101_8x8": Backbone(partial(resnet, SLOW, 101), 8, 8, 256),
    # Frames and stride are those of the fast pathway, the name's those of the slow one.
    "slowfast_r50_4x16": Backbone(partial(slowfast, 50, 8, 5), 32, 2, 256),
    "slowfast_r50_8x8": Backbone(partial(slowfast, 50, 4, 7), 32, 2, 256),
    "slowfast_r101_8x8": Backbone(partial(slowfast, 101, 4, 5), 32, 2, 256),
    "r2plus1d_r50_16x4": Backbone(partial(r2plus1d, 50), 16, 4, 256),
    "tsm_r50_8x8": Backbone(partial(tsm, 50), 8, 8, 256),
    "x3d_xs": Backbone(x3d, 4, 12, 182),
    "x3d_s": Backbone(x3d, 13, 6, 182),
    "x3d_m": Backbone(x3d, 16, 5, 256),
    "x3d_l": Backbone(partial(x3d, depth_factor=5.0), 16, 5, 356),
    "ir_csn_r101_32x2": Backbone(partial(csn, 101), 32, 2, 256),
    "ip_csn_r101_32x2": Backbone(partial(csn, 101, preserve_interactions=True), 32, 2, 256),
    "ir_csn_r152_32x2": Backbone(partial(csn, 152), 32, 2, 256),
    "ip_csn_r152_32x2": Backbone(partial(csn, 152, preserve_interactions=True), 32, 2, 256),
    # At 15 frames a second, with which torchvision tests them: every other one of most videos.
    "r3d_18": Backbone(partial(video_resnet, video.r3d_18), 16, 2, 112),
    "mc3_18": Backbone(partial(video_resnet, video.mc3_18), 16, 2, 112),
    "r2plus1d_18": Backbone(partial(video_resnet, video.r2plus1d_18), 16, 2, 112),
    # Unpublished, for CPUs, with the view of the toy videos.
    "c2d_tiny": Backbone(partial(resnet, C2D, TINY_DEPTH, width=TINY_WIDTH), 8, 4, 48),
    "i3d_tiny": Backbone(partial(resnet, I3D, TINY_DEPTH, width=TINY_WIDTH), 8, 4, 48),
    "i3d_r26_tiny": Backbone(partial(resnet, I3D, TINY_DEPTH_2, width=TINY_WIDTH), 8, 4, 48),
    "i3d_nln_tiny": Backbone(partial(non_local_i3d, TINY_DEPTH, width=TINY_WIDTH), 8, 4, 48),
    "slow_tiny": Backbone(partial(resnet, SLOW, TINY_DEPTH, width=TINY_WIDTH), 8, 4, 48),
    "slowfast_tiny": Backbone(  # an eighth of the stem's channels would be two
        partial(slowfast, TINY_DEPTH, 4, 5, width=TINY_WIDTH, beta=4), 16, 2, 48
    ),
    "r2plus1d_tiny": Backbone(partial(r2plus1d, TINY_DEPTH, width=TINY_WIDTH), 8, 4, 48),
    "tsm_tiny": Backbone(partial(tsm, TINY_DEPTH, width=TINY_WIDTH), 8, 4, 48),
    "ir_csn_tiny": Backbone(partial(csn, TINY_DEPTH, width=TINY_WIDTH), 8, 4, 48),
    "ip_csn_tiny": Backbone(
        partial(csn, TINY_DEPTH, preserve_interactions=True, width=TINY_WIDTH), 8, 4, 48
    ),
}


def list_models() -> list[str]:
    """Names of all backbones."""
    return list(BACKBONES)


def get_backbone(name: str) -> Backbone:
    """One of `BACKBONES`.

    Raises:
        SnvideoError: for an unknown name.
    """
    if name not in BACKBONES:
        raise SnvideoError(f"unknown model '{name}': expected one of {', '.join(BACKBONES)}")
    return BACKBONES[name]


def create_model(
    name: str,
    num_classes: int,
    norm: str | NormLayer = "bn",
    dropout: float = 0.5,
    *,
    drop_path: float = 0.0,
    weight_standardization: bool = False,
    zero_init_last: bool = True,
    **norm_options: Any,
) -> nn.Module:
    """A backbone with any norm, randomly initialised.

    Args:
        name: one of `list_models`.
        num_classes: size of the logits.
        norm: as for `snvideo.norm.create_norm`.
        dropout: rate before the classifier.
        drop_path: rate of the last residual branch, see `snvideo.models.drop_path`.
        weight_standardization: standardize the weights of all convolutions.
        zero_init_last: every residual branch starts at zero, by the scale of its last norm (Goyal
            et al., arXiv 1706.02677), whatever the norm; otherwise at one.
        norm_options: further keyword arguments for every norm layer.

    Shape:
        (N, 3, T, H, W) -> logits (N, num_classes), without softmax. Heads pool over all that is
        left, so clip length and crop are free where strides allow it.

    Raises:
        SnvideoError: for an unknown name, or drop path in a network without residual branches.

    Example::

        >>> import torch
        >>> model = create_model("i3d_tiny", num_classes=10, norm="sn")
        >>> model(torch.randn(2, 3, 8, 48, 48)).shape
        torch.Size([2, 10])
    """
    model = get_backbone(name).build(num_classes, create_norm(norm, **norm_options), dropout)
    replace_dropout(model)
    for module in model.modules():
        # pytorchvideo zeroes Batch Normalization only, and torchvision none.
        if getattr(module, "block_final_bn", False):
            nn.init.constant_(module.get_parameter("weight"), 0.0 if zero_init_last else 1.0)
        # The builders compute strides with numpy, whose integers torch.compile cannot trace.
        if isinstance(module, nn.Conv3d):
            module.stride = tuple(int(stride) for stride in module.stride)
    start_by_depth(model)
    if drop_path:
        add_drop_path(model, drop_path)
    if weight_standardization:
        standardize_weights(model)
    return model
