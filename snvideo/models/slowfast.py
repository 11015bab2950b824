"""SlowFast: a slow pathway of few frames and a thin fast one of many, fused on the way."""

from pytorchvideo.models.net import Net
from pytorchvideo.models.slowfast import create_slowfast
from torch import Tensor, nn

from snvideo.norm.factory import NormLayer


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
        if clip.shape[2] % self.alpha:
            raise ValueError(
                f"expected a multiple of {self.alpha} frames (got {clip.shape[2]}): "
                f"the slow pathway takes every {self.alpha}th"
            )
        # The blocks write into the list they are given: it is made anew for every call.
        return super().forward([clip[:, :, :: self.alpha], clip])


def slowfast_r50_8x8(classes: int, norm: NormLayer, dropout: float) -> nn.Module:
    """SlowFast ResNet-50, 8 slow and 32 fast frames (Feichtenhofer et al., arXiv 1812.03982)."""
    net = create_slowfast(
        model_depth=50,
        model_num_class=classes,
        dropout_rate=dropout,
        norm=norm,
        slowfast_fusion_conv_kernel_size=(7, 1, 1),
        slowfast_fusion_conv_stride=(4, 1, 1),
        head_pool=nn.AdaptiveAvgPool3d,
        head_output_size=((1, 1, 1), (1, 1, 1)),
    )
    return SlowFast(net, alpha=4)
