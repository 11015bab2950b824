"""Parts of networks of one block a stage, for CPUs.

pytorchvideo's builders of whole networks know depths from 50 on, so its parts are put together.
"""

from collections.abc import Callable

from pytorchvideo.models.head import create_res_basic_head
from pytorchvideo.models.net import Net
from pytorchvideo.models.resnet import create_bottleneck_block, create_res_stage
from pytorchvideo.models.stem import create_res_basic_stem
from torch import nn

from snvideo.norm.factory import NormLayer

WIDTH = 16
"""Channels of the stem, of which a ResNet-50 has 64."""


def stem(
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


def stage(
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
        kernel_a, kernel_b: frames that the first and the 3 x 3 convolution see.
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


def net(
    blocks: list[nn.Module],
    channels: int,
    classes: int,
    dropout: float,
    pool: Callable | None = nn.AdaptiveAvgPool3d,
) -> Net:
    """Close a network with pool, dropout and classifier, and initialise all of it.

    Args:
        blocks: in their order.
        channels: of the last one's output.
        classes: size of the logits.
        dropout: rate before the classifier.
        pool: None where the last block has pooled already.
    """
    head = create_res_basic_head(
        in_features=channels, out_features=classes, pool=pool, dropout_rate=dropout
    )
    return Net(blocks=nn.ModuleList([*blocks, head]))
