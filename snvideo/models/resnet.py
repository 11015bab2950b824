"""Residual networks of bottleneck blocks: C2D, I3D, Slow and R(2+1)D, large and tiny.

The tiny networks have one block a stage and a quarter of the width, for CPUs. pytorchvideo's
builders of whole networks start at 50 layers, so the tiny ones are assembled from its parts.
"""

from collections.abc import Callable
from typing import NamedTuple

from pytorchvideo.models.head import create_res_basic_head
from pytorchvideo.models.net import Net
from pytorchvideo.models.r2plus1d import create_2plus1d_bottleneck_block, create_r2plus1d
from pytorchvideo.models.resnet import create_bottleneck_block, create_res_stage, create_resnet
from pytorchvideo.models.stem import create_res_basic_stem
from torch import nn

from snvideo.norm.factory import NormLayer

TINY_WIDTH = 16
"""Channels of a tiny network's stem; a ResNet-50 has 64."""

R2PLUS1D_STRIDES = (1, 1, 2, 2)
"""Temporal strides of the stages res2..res5 of R(2+1)D."""


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
) -> nn.Module:
    """C2D, I3D or Slow.

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


def r2plus1d(depth: int, classes: int, norm: NormLayer, dropout: float) -> nn.Module:
    """R(2+1)D of bottleneck blocks (after Tran et al., arXiv 1711.11248); arguments of `resnet`."""
    return create_r2plus1d(
        model_depth=depth,
        model_num_class=classes,
        dropout_rate=dropout,
        norm=norm,
        stage_temporal_stride=R2PLUS1D_STRIDES,
        head_pool=nn.AdaptiveAvgPool3d,
        head_activation=None,  # a softmax otherwise
    )


def tiny_resnet(
    kernels: TemporalKernels, classes: int, norm: NormLayer, dropout: float
) -> nn.Module:
    """Tiny C2D, I3D or Slow, with the longest of alternating kernels; arguments of `resnet`."""
    blocks = [tiny_stem(TINY_WIDTH, norm, kernels.stem)]
    channels = TINY_WIDTH
    for number, stage in enumerate(kernels.stages):
        inner = TINY_WIDTH * 2**number
        stride = (1, 1, 1) if number == 0 else (1, 2, 2)
        blocks.append(tiny_stage(channels, inner, norm, stride, kernel_a=max(stage)))
        channels = 4 * inner
        if number == 0 and kernels.pooled:
            blocks.append(nn.MaxPool3d(kernel_size=(2, 1, 1), stride=(2, 1, 1)))
    return tiny_net(blocks, channels, classes, dropout)


def tiny_r2plus1d(classes: int, norm: NormLayer, dropout: float) -> nn.Module:
    """Tiny R(2+1)D; arguments of `resnet`."""
    blocks = [tiny_stem(TINY_WIDTH, norm, kernel=1, pool=None)]
    channels = TINY_WIDTH
    bottleneck = create_2plus1d_bottleneck_block
    for number, time in enumerate(R2PLUS1D_STRIDES):
        inner, stride = TINY_WIDTH * 2**number, (time, 2, 2)
        blocks.append(tiny_stage(channels, inner, norm, stride, kernel_b=3, bottleneck=bottleneck))
        channels = 4 * inner
    return tiny_net(blocks, channels, classes, dropout)


def tiny_stem(
    channels: int, norm: NormLayer, kernel: int, pool: Callable | None = nn.MaxPool3d
) -> nn.Module:
    """A convolution over `kernel` frames, norm, ReLU and, but for None, a pool in space."""
    return create_res_basic_stem(
        in_channels=3,
        out_channels=channels,
        conv_kernel_size=(kernel, 7, 7),
        conv_stride=(1, 2, 2),
        conv_padding=(kernel // 2, 3, 3),
        pool=pool,
        norm=norm,
    )


def tiny_stage(
    channels: int,
    inner: int,
    norm: NormLayer,
    stride: tuple[int, int, int],
    *,
    kernel_a: int = 1,
    kernel_b: int = 1,
    bottleneck: Callable[..., nn.Module] = create_bottleneck_block,
) -> nn.Module:
    """A stage of one bottleneck block.

    Args:
        channels: of the input; the output has four times `inner`.
        inner: channels within the block.
        norm: makes every norm.
        stride: of the 3 x 3 convolution, along (T, H, W).
        kernel_a, kernel_b: frames of the kernels of the first and the 3 x 3 convolution.
        bottleneck: makes the block's inside.
    """
    return create_res_stage(
        depth=1,
        dim_in=channels,
        dim_inner=inner,
        dim_out=4 * inner,
        bottleneck=bottleneck,
        conv_a_kernel_size=(kernel_a, 1, 1),
        conv_a_stride=(1, 1, 1),
        conv_a_padding=(kernel_a // 2, 0, 0),
        conv_b_kernel_size=(kernel_b, 3, 3),
        conv_b_stride=stride,
        conv_b_padding=(kernel_b // 2, 1, 1),
        norm=norm,
    )


def tiny_net(
    blocks: list[nn.Module],
    channels: int,
    classes: int,
    dropout: float,
    pool: Callable | None = nn.AdaptiveAvgPool3d,
) -> Net:
    """Blocks, whose last gives `channels`, closed by a pool (None: they have pooled), dropout and
    classifier; all of it initialised."""
    head = create_res_basic_head(
        in_features=channels, out_features=classes, pool=pool, dropout_rate=dropout
    )
    return Net(blocks=nn.ModuleList([*blocks, head]))
