"""R(2+1)D: every 3D kernel split into one along time and one in space."""

from pytorchvideo.models.r2plus1d import create_2plus1d_bottleneck_block, create_r2plus1d
from torch import nn

from snvideo.models import tiny
from snvideo.norm.factory import NormLayer

TEMPORAL_STRIDES = (1, 1, 2, 2)
"""Of the stages res2..res5."""


def r2plus1d(depth: int, classes: int, norm: NormLayer, dropout: float) -> nn.Module:
    """R(2+1)D of bottleneck blocks (after Tran et al., arXiv 1711.11248).

    Args:
        depth: 50, 101 or 152 layers.
        classes: size of the logits.
        norm: makes every norm.
        dropout: rate before the classifier.
    """
    return create_r2plus1d(
        model_depth=depth,
        model_num_class=classes,
        dropout_rate=dropout,
        norm=norm,
        stage_temporal_stride=TEMPORAL_STRIDES,
        head_pool=nn.AdaptiveAvgPool3d,
        head_activation=None,  # a softmax otherwise
    )


def tiny_r2plus1d(classes: int, norm: NormLayer, dropout: float) -> nn.Module:
    """The same of one block a stage and a quarter of the width.

    Args:
        classes, norm, dropout: as for `r2plus1d`.
    """
    blocks = [tiny.stem(tiny.WIDTH, norm, kernel=1, pool=None)]
    channels = tiny.WIDTH
    for number, time in enumerate(TEMPORAL_STRIDES):
        inner = tiny.WIDTH * 2**number
        blocks.append(
            tiny.stage(
                channels,
                inner,
                norm,
                (time, 2, 2),
                kernel_b=3,
                bottleneck=create_2plus1d_bottleneck_block,
            )
        )
        channels = 4 * inner
    return tiny.net(blocks, channels, classes, dropout)
