"""SlowFast: a slow pathway of few frames and a thin fast one of many, with lateral connections."""

from pytorchvideo.models import slowfast as builder
from pytorchvideo.models.net import Net
from torch import Tensor, nn

from snvideo.models.resnet import TINY_DEPTH
from snvideo.norm.factory import NormLayer

builder._MODEL_STAGE_DEPTH[TINY_DEPTH] = (1, 1, 1, 1)  # its own start at 50 layers


class SlowFast(Net):
    """A two-pathway network that takes one clip and feeds both pathways from it.

    Args:
        net: a network of pytorchvideo's builder; its blocks keep their names.
        alpha: frames of the fast pathway per frame of the slow one.

    Shape:
        (N, 3, T, H, W) with T divisible by alpha -> (N, classes).
    """

    def __init__(self, net: Net, alpha: int) -> None:
        super().__init__(blocks=net.blocks)
        self.alpha = alpha

    def forward(self, clip: Tensor) -> Tensor:
        """Logits of clips."""
        if clip.shape[2] % self.alpha:
            raise ValueError(
                f"expected a multiple of {self.alpha} frames (got {clip.shape[2]}): "
                f"the slow pathway takes every {self.alpha}th"
            )
        # Every alpha-th frame; not by a slice, which programs made of this would take for any T.
        slow = clip.unflatten(2, (-1, self.alpha))[:, :, :, 0]
        # The blocks write into the list they are given: it is made anew for every call.
        return super().forward([slow, clip])


def slowfast(
    depth: int,
    alpha: int,
    fusion: int,
    classes: int,
    norm: NormLayer,
    dropout: float,
    width: int = 64,
    beta: int = 8,
) -> nn.Module:
    """SlowFast of two ResNets (Feichtenhofer et al., arXiv 1812.03982).

    Args:
        depth: 50 or 101 layers, or `TINY_DEPTH`.
        alpha: frames of the fast pathway per frame of the slow one.
        fusion: frames of the kernels that lead from the fast pathway to the slow one.
        classes, norm, dropout, width: as for `snvideo.models.resnet.resnet`.
        beta: channels of the slow pathway per channel of the fast one.
    """
    net = builder.create_slowfast(
        slowfast_channel_reduction_ratio=beta,
        slowfast_fusion_conv_kernel_size=(fusion, 1, 1),
        slowfast_fusion_conv_stride=(alpha, 1, 1),
        model_depth=depth,
        model_num_class=classes,
        dropout_rate=dropout,
        norm=norm,
        stem_dim_outs=(width, width // beta),
        head_pool=nn.AdaptiveAvgPool3d,
        head_output_size=((1, 1, 1), (1, 1, 1)),
    )
    return SlowFast(net, alpha)
