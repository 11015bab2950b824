"""C2D, I3D and Slow: one residual network whose kernels differ along time."""

from typing import NamedTuple

from pytorchvideo.models.resnet import create_resnet
from torch import nn

from snvideo.models import tiny
from snvideo.norm.factory import NormLayer


class Kernels(NamedTuple):
    """Where a network looks along time."""

    stem: int
    """Frames of the kernel of the first convolution."""
    stages: tuple[tuple[int, ...], ...]
    """Frames of the kernel of the first convolution of each block, per stage res2..res5; several
    alternate along the blocks of their stage."""
    pooled: bool
    """Whether a max pool after res2 halves time."""


C2D = Kernels(1, ((1,), (1,), (1,), (1,)), pooled=True)
"""Frames meet in the pool after res2 and in the head alone (Wang et al., arXiv 1711.07971)."""

I3D = Kernels(5, ((3,), (3, 1), (3, 1), (1, 3)), pooled=True)
"""Every other block from res3 on is inflated (Wang et al., arXiv 1711.07971)."""

SLOW = Kernels(1, ((1,), (1,), (3,), (3,)), pooled=False)
"""The slow pathway of SlowFast by itself (Feichtenhofer et al., arXiv 1812.03982)."""


def resnet(
    kernels: Kernels,
    depth: int,
    classes: int,
    norm: NormLayer,
    dropout: float,
    halve_stem: bool = False,
) -> nn.Module:
    """A residual network of bottleneck blocks.

    Args:
        kernels: `C2D`, `I3D` or `SLOW`.
        depth: 50, 101 or 152 layers.
        classes: size of the logits.
        norm: makes every norm.
        dropout: rate before the classifier.
        halve_stem: the stem's convolution halves time, and so does its pool.
    """
    stem_time = 2 if halve_stem else 1
    return create_resnet(
        model_depth=depth,
        model_num_class=classes,
        dropout_rate=dropout,
        norm=norm,
        stem_conv_kernel_size=(kernels.stem, 7, 7),
        stem_conv_stride=(stem_time, 2, 2),
        stem_pool_kernel_size=(3 if halve_stem else 1, 3, 3),
        stem_pool_stride=(stem_time, 2, 2),
        stage1_pool=nn.MaxPool3d if kernels.pooled else None,
        stage_conv_a_kernel_size=[[(frames, 1, 1) for frames in stage] for stage in kernels.stages],
        # Adaptive: a fixed (T, 7, 7) pool fails on small crops and hides a wrong clip length.
        head_pool=nn.AdaptiveAvgPool3d,
    )


def tiny_resnet(kernels: Kernels, classes: int, norm: NormLayer, dropout: float) -> nn.Module:
    """The same of one block a stage and a quarter of the width; of alternating kernels the longest.

    Args:
        kernels, classes, norm, dropout: as for `resnet`.
    """
    blocks = [tiny.stem(tiny.WIDTH, norm, kernels.stem)]
    channels = tiny.WIDTH
    for number, stage in enumerate(kernels.stages):
        inner = tiny.WIDTH * 2**number
        stride = (1, 1, 1) if number == 0 else (1, 2, 2)
        blocks.append(tiny.stage(channels, inner, norm, stride, kernel_a=max(stage)))
        channels = 4 * inner
        if number == 0 and kernels.pooled:
            blocks.append(nn.MaxPool3d(kernel_size=(2, 1, 1), stride=(2, 1, 1)))
    return tiny.net(blocks, channels, classes, dropout)
