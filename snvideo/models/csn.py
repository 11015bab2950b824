"""Channel-separated networks: ir-CSN and ip-CSN, large and tiny.

Every convolution but the stem's is of 1 x 1 x 1 over all channels, or of 3 x 3 x 3 over one.
"""

from collections import OrderedDict
from functools import partial
from typing import Any

from pytorchvideo.models import resnet as builder
from torch import nn

from snvideo.norm.factory import NormLayer


def csn(
    depth: int,
    classes: int,
    norm: NormLayer,
    dropout: float,
    preserve_interactions: bool = False,
    width: int = 64,
) -> nn.Module:
    """CSN (Tran et al., arXiv 1904.02811): time is halved in res3, res4 and res5.

    Args:
        depth: 50, 101 or 152 layers, or `snvideo.models.resnet.TINY_DEPTH`; a block counts as
            three, in ip-CSN, too.
        classes, norm, dropout, width: as for `snvideo.models.resnet.resnet`.
        preserve_interactions: ip-CSN, in whose blocks a 1 x 1 x 1 convolution over all channels
            stands before the depthwise one; otherwise ir-CSN, which lacks it.
    """
    # pytorchvideo's create_csn makes the same ir-CSN, but has neither ip-CSN nor other depths.
    return builder.create_resnet(
        model_depth=depth,
        model_num_class=classes,
        dropout_rate=dropout,
        norm=norm,
        stem_dim_out=width,
        stem_conv_kernel_size=(3, 7, 7),
        stage_conv_a_kernel_size=((1, 1, 1),) * 4,
        stage_conv_b_kernel_size=((3, 3, 3),) * 4,
        stage_conv_b_num_groups=tuple(width * 2**number for number in range(4)),
        stage_temporal_stride=(1, 2, 2, 2),
        bottleneck=partial(_bottleneck, preserve_interactions),
        head_pool=nn.AdaptiveAvgPool3d,
    )


def _bottleneck(
    preserve_interactions: bool,
    *,
    conv_a_stride: tuple[int, int, int],
    conv_b_stride: tuple[int, int, int],
    dim_inner: int,
    norm: NormLayer,
    **options: Any,
) -> nn.Module:
    """A bottleneck block; other arguments are those of pytorchvideo's builder."""
    block = builder.create_bottleneck_block(
        # create_resnet halves time in conv_a; in CSN the depthwise convolution has all strides.
        conv_a_stride=(1, 1, 1),
        conv_b_stride=(conv_a_stride[0], *conv_b_stride[1:]),
        dim_inner=dim_inner,
        norm=norm,
        **options,
    )
    if preserve_interactions:
        # No activation between them, as in the authors' code (github.com/facebookresearch/VMZ).
        layers = {
            "pointwise": nn.Conv3d(dim_inner, dim_inner, 1, bias=False),
            "norm": norm(num_features=dim_inner, eps=1e-5, momentum=0.1),
            "depthwise": block.conv_b,
        }
        block.conv_b = nn.Sequential(OrderedDict(layers))
    return block
