"""Residual networks of bottleneck blocks: C2D, I3D, Slow and R(2+1)D, large and tiny.

The tiny networks have a quarter of the width and one block a stage, or two, for CPUs.
"""

from collections.abc import Callable
from typing import NamedTuple

from pytorchvideo.models import resnet as builder
from pytorchvideo.models.head import create_res_basic_head
from pytorchvideo.models.net import Net
from pytorchvideo.models.r2plus1d import create_2plus1d_bottleneck_block
from pytorchvideo.models.stem import create_res_basic_stem
from torch import nn

from snvideo.norm.factory import NormLayer

TINY_WIDTH = 16
"""Channels of a tiny network's stem; a ResNet-50 has 64."""

TINY_DEPTH = 14
"""Layers of a tiny network, one block a stage."""

TINY_DEPTH_2 = 26
"""Layers of a tiny network of two blocks a stage, whose second ones a signal can pass by."""

# The builder's own start at 50 layers.
builder._MODEL_STAGE_DEPTH |= {TINY_DEPTH: (1, 1, 1, 1), TINY_DEPTH_2: (2, 2, 2, 2)}


class TemporalKernels(NamedTuple):
    """Temporal extents of a network's kernels."""

    stem: int
    """Frames of the first convolution."""
    stages: tuple[tuple[int, ...], ...]
    """Frames of the first convolution of each block, per stage res2..res5; several alternate along
    the blocks of their stage."""
    pooled: bool
    """A max pool after res2 halves time."""


C2D = TemporalKernels(1, ((1,), (1,), (1,), (1,)), pooled=True)
"""Frames meet in the pool after res2 and in the head alone (Wang et al., arXiv 1711.07971)."""

I3D = TemporalKernels(5, ((3,), (3, 1), (3, 1), (1, 3)), pooled=True)
"""Every other block from res3 on is inflated (Wang et al., arXiv 1711.07971)."""

SLOW = TemporalKernels(1, ((1,), (1,), (3,), (3,)), pooled=False)
"""The slow pathway of SlowFast by itself (Feichtenhofer et al., arXiv 1812.03982)."""


def resnet(
    kernels: TemporalKernels,
    depth: int,
    classes: int,
    norm: NormLayer,
    dropout: float,
    halve_stem: bool = False,
    width: int = 64,
    bottleneck: Callable[..., nn.Module] = builder.create_bottleneck_block,
) -> nn.Module:
    """C2D, I3D or Slow.

    Args:
        kernels: `C2D`, `I3D` or `SLOW`.
        depth: 50, 101 or 152 layers, `TINY_DEPTH_2`, or `TINY_DEPTH`, with the longest of
            alternating kernels.
        classes: size of the logits.
        norm: makes every norm.
        dropout: rate before the classifier.
        halve_stem: the stem's convolution halves time, and so does its pool.
        width: channels of the stem.
        bottleneck: a builder of residual branches with the arguments of pytorchvideo's.
    """
    stem_time = 2 if halve_stem else 1
    tiny = depth == TINY_DEPTH
    stages = [(max(stage),) if tiny else stage for stage in kernels.stages]
    return builder.create_resnet(
        model_depth=depth,
        model_num_class=classes,
        dropout_rate=dropout,
        norm=norm,
        stem_dim_out=width,
        stem_conv_kernel_size=(kernels.stem, 7, 7),
        stem_conv_stride=(stem_time, 2, 2),
        stem_pool_kernel_size=(3 if halve_stem else 1, 3, 3),
        stem_pool_stride=(stem_time, 2, 2),
        stage1_pool=nn.MaxPool3d if kernels.pooled else None,
        stage_conv_a_kernel_size=[[(frames, 1, 1) for frames in stage] for stage in stages],
        bottleneck=bottleneck,
        # Adaptive: a fixed (T, 7, 7) pool fails on small crops and hides a wrong clip length.
        head_pool=nn.AdaptiveAvgPool3d,
    )


def r2plus1d(
    depth: int, classes: int, norm: NormLayer, dropout: float, width: int = 64
) -> nn.Module:
    """R(2+1)D of bottleneck blocks (after Tran et al., arXiv 1711.11248); arguments of `resnet`."""
    blocks = [
        create_res_basic_stem(
            in_channels=3,
            out_channels=width,
            conv_kernel_size=(1, 7, 7),
            conv_stride=(1, 2, 2),
            conv_padding=(0, 3, 3),
            pool=None,
            norm=norm,
        )
    ]
    channels = width
    for number, length in enumerate(builder._MODEL_STAGE_DEPTH[depth]):
        inner = width * 2**number
        stage = builder.create_res_stage(
            depth=length,
            dim_in=channels,
            dim_inner=inner,
            dim_out=4 * inner,
            bottleneck=create_2plus1d_bottleneck_block,
            conv_a_kernel_size=(1, 1, 1),
            conv_a_stride=(1, 1, 1),
            conv_a_padding=(0, 0, 0),
            conv_b_kernel_size=(3, 3, 3),
            conv_b_stride=(1 if number < 2 else 2, 2, 2),
            conv_b_padding=(1, 1, 1),
            norm=norm,
        )
        blocks.append(stage)
        channels = 4 * inner
    head = create_res_basic_head(
        in_features=channels,
        out_features=classes,
        pool=nn.AdaptiveAvgPool3d,
        dropout_rate=dropout,
    )
    return Net(blocks=nn.ModuleList([*blocks, head]))
