"""Temporal shift: channels that residual branches take from the frames before and after."""

from typing import Any

import torch
from pytorchvideo.models import resnet as builder
from torch import Tensor, nn
from torch.nn import functional

from snvideo.models.resnet import TemporalKernels, resnet
from snvideo.norm.factory import NormLayer

FRAMES = TemporalKernels(1, ((1,), (1,), (1,), (1,)), pooled=False)
"""Without kernels and pools along time: a ResNet for images, frame by frame."""

DIVISION = 8
"""One in so many channels comes from the next frame, and one from the last."""


def tsm(depth: int, classes: int, norm: NormLayer, dropout: float, width: int = 64) -> nn.Module:
    """TSM (Lin et al., arXiv 1811.08383): a ResNet on frames, in whose every residual branch some
    channels are those of the frames before and after; arguments of `resnet`.

    The authors' head classifies frames and averages their logits, and dropout has other masks for
    each frame; here one classifier reads the average of all frames, which without dropout gives the
    same logits.
    """
    bottleneck = shifted_bottleneck
    return resnet(FRAMES, depth, classes, norm, dropout, width=width, bottleneck=bottleneck)


class ShiftedBottleneck(builder.BottleneckBlock):
    """A bottleneck block that sees `temporal_shift` of its input; the shortcut beside it does not.

    Shape:
        (N, C, T, H, W) -> as of the block without it.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Output of the branch."""
        return super().forward(temporal_shift(x))


def temporal_shift(x: Tensor) -> Tensor:
    """Channels moved along time, zeros where no frame is (Lin et al., arXiv 1811.08383).

    Args:
        x: (N, C, T, H, W).

    Returns:
        the same shape: the first C // 8 channels are those of the next frame, as many after them
        those of the frame before, all others those of the same frame.
    """
    moved = x.shape[1] // DIVISION
    ahead, behind, rest = x.split([moved, moved, x.shape[1] - 2 * moved], dim=1)
    ahead = functional.pad(ahead, (0, 0, 0, 0, 0, 1))[:, :, 1:]
    behind = functional.pad(behind, (0, 0, 0, 0, 1, 0))[:, :, :-1]
    return torch.cat([ahead, behind, rest], dim=1)


def shifted_bottleneck(**options: Any) -> ShiftedBottleneck:
    """A block with a shift; arguments of pytorchvideo's `create_bottleneck_block`."""
    block = builder.create_bottleneck_block(**options)
    block.__class__ = ShiftedBottleneck  # of the same layers
    return block
