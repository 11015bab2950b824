"""I3D, C2D and Slow: one residual network whose kernels differ along time."""

from pytorchvideo.models.head import create_res_basic_head
from pytorchvideo.models.net import Net
from pytorchvideo.models.resnet import (
    create_bottleneck_block,
    create_res_stage,
    create_resnet,
)
from pytorchvideo.models.stem import create_res_basic_stem
from torch import nn

from snvideo.norm.factory import NormLayer

# Temporal kernels of the first convolution of each block, per stage res2..res5; a list alternates
# along the blocks of its stage. I3D inflates every other block (Wang et al., arXiv 1711.07971).
_STILL = ((1, 1, 1),) * 4
_I3D = (
    (3, 1, 1),
    [(3, 1, 1), (1, 1, 1)],
    [(3, 1, 1), (1, 1, 1)],
    [(1, 1, 1), (3, 1, 1)],
)
_SLOW = ((1, 1, 1), (1, 1, 1), (3, 1, 1), (3, 1, 1))


def _resnet50(classes: int, norm: NormLayer, dropout: float, **shape: object) -> nn.Module:
    return create_resnet(
        model_depth=50,
        model_num_class=classes,
        dropout_rate=dropout,
        norm=norm,
        # Adaptive: a fixed (T, 7, 7) pool fails on small crops and hides a wrong clip length.
        head_pool=nn.AdaptiveAvgPool3d,
        **shape,
    )


def c2d_r50_8x8(classes: int, norm: NormLayer, dropout: float) -> nn.Module:
    """C2D ResNet-50: no temporal kernel, one temporal pooling after res2."""
    return _resnet50(
        classes,
        norm,
        dropout,
        stem_conv_kernel_size=(1, 7, 7),
        stage1_pool=nn.MaxPool3d,
        stage_conv_a_kernel_size=_STILL,
    )


def i3d_r50_8x8(classes: int, norm: NormLayer, dropout: float) -> nn.Module:
    """I3D ResNet-50 of the PySlowFast and pytorchvideo zoos: temporal stride 2 after res2 only."""
    return _resnet50(
        classes,
        norm,
        dropout,
        stem_conv_kernel_size=(5, 7, 7),
        stage1_pool=nn.MaxPool3d,
        stage_conv_a_kernel_size=_I3D,
    )


def i3d_r50_32x2(classes: int, norm: NormLayer, dropout: float) -> nn.Module:
    """I3D ResNet-50 on 32 frames, the Kinetics baseline of the GN and SN papers.

    Time is halved by the stem's convolution, by its pooling and after res2: 32 -> 16 -> 8 -> 4.
    """
    return _resnet50(
        classes,
        norm,
        dropout,
        stem_conv_kernel_size=(5, 7, 7),
        stem_conv_stride=(2, 2, 2),
        stem_pool_kernel_size=(3, 3, 3),
        stem_pool_stride=(2, 2, 2),
        stage1_pool=nn.MaxPool3d,
        stage_conv_a_kernel_size=_I3D,
    )


def slow_r50_8x8(classes: int, norm: NormLayer, dropout: float) -> nn.Module:
    """The Slow pathway alone (Feichtenhofer et al., arXiv 1812.03982): no temporal pooling."""
    return _resnet50(
        classes, norm, dropout, stem_conv_kernel_size=(1, 7, 7), stage_conv_a_kernel_size=_SLOW
    )


def i3d_tiny(classes: int, norm: NormLayer, dropout: float, width: int = 16) -> nn.Module:
    """I3D of one block a stage and a quarter of the width, for CPUs: 0.6 M parameters.

    The builder for whole networks knows depths from 50 on, so its parts are put together here.
    """
    blocks = [
        create_res_basic_stem(
            in_channels=3,
            out_channels=width,
            conv_kernel_size=(5, 7, 7),
            conv_stride=(1, 2, 2),
            conv_padding=(2, 3, 3),
            norm=norm,
        )
    ]
    channels = width
    for stage in range(4):
        inner = width * 2**stage
        stride = 1 if stage == 0 else 2
        blocks.append(
            create_res_stage(
                depth=1,
                dim_in=channels,
                dim_inner=inner,
                dim_out=4 * inner,
                bottleneck=create_bottleneck_block,
                conv_a_kernel_size=(3, 1, 1),
                conv_a_stride=(1, 1, 1),
                conv_a_padding=(1, 0, 0),
                conv_b_kernel_size=(1, 3, 3),
                conv_b_stride=(1, stride, stride),
                conv_b_padding=(0, 1, 1),
                norm=norm,
            )
        )
        channels = 4 * inner
        if stage == 0:
            blocks.append(nn.MaxPool3d(kernel_size=(2, 1, 1), stride=(2, 1, 1)))
    blocks.append(
        create_res_basic_head(
            in_features=channels,
            out_features=classes,
            pool=nn.AdaptiveAvgPool3d,
            dropout_rate=dropout,
        )
    )
    return Net(blocks=nn.ModuleList(blocks))
