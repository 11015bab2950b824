"""SlowFast: a slow pathway of few frames and a thin fast one of many, with lateral connections."""

from pytorchvideo.models.net import MultiPathWayWithFuse, Net
from pytorchvideo.models.slowfast import FastToSlowFusionBuilder, PoolConcatPathway, create_slowfast
from torch import Tensor, nn

from snvideo.models.resnet import SLOW, TINY_WIDTH, tiny_net, tiny_stage, tiny_stem
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
        """Logits of clips."""
        if clip.shape[2] % self.alpha:
            raise ValueError(
                f"expected a multiple of {self.alpha} frames (got {clip.shape[2]}): "
                f"the slow pathway takes every {self.alpha}th"
            )
        # The blocks write into the list they are given: it is made anew for every call.
        return super().forward([clip[:, :, :: self.alpha], clip])


def slowfast(
    depth: int, alpha: int, fusion: int, classes: int, norm: NormLayer, dropout: float
) -> nn.Module:
    """SlowFast of two ResNets (Feichtenhofer et al., arXiv 1812.03982).

    Args:
        depth: 50 or 101 layers.
        alpha: frames of the fast pathway per frame of the slow one.
        fusion: frames of the kernels that lead from the fast pathway to the slow one.
        classes, norm, dropout: as for `snvideo.models.resnet.resnet`.
    """
    net = create_slowfast(
        model_depth=depth,
        model_num_class=classes,
        dropout_rate=dropout,
        norm=norm,
        slowfast_fusion_conv_kernel_size=(fusion, 1, 1),
        slowfast_fusion_conv_stride=(alpha, 1, 1),
        head_pool=nn.AdaptiveAvgPool3d,
        head_output_size=((1, 1, 1), (1, 1, 1)),
    )
    return SlowFast(net, alpha)


def tiny_slowfast(
    classes: int, norm: NormLayer, dropout: float, alpha: int = 4, beta: int = 4
) -> nn.Module:
    """Tiny SlowFast, of one block a stage and a quarter of the width.

    Args:
        classes, norm, dropout, alpha: as for `slowfast`.
        beta: channels of the slow pathway per channel of the fast one; the large networks have 8,
            which would leave two in this one's stem.
    """
    fusion = FastToSlowFusionBuilder(
        slowfast_channel_reduction_ratio=beta,
        conv_fusion_channel_ratio=2,
        conv_kernel_size=(5, 1, 1),
        conv_stride=(alpha, 1, 1),
        norm=norm,
    )

    def fused(number: int, channels: int, slow: nn.Module, fast: nn.Module) -> nn.Module:
        return MultiPathWayWithFuse(
            multipathway_blocks=nn.ModuleList([slow, fast]),
            multipathway_fusion=fusion.create_module(channels, number),
        )

    width = channels = TINY_WIDTH
    stems = tiny_stem(width, norm, SLOW.stem), tiny_stem(width // beta, norm, 5)
    blocks = [fused(0, channels, *stems)]
    for number, (kernel,) in enumerate(SLOW.stages):
        inner = width * 2**number
        stride = (1, 1, 1) if number == 0 else (1, 2, 2)
        joined = channels + 2 * channels // beta
        slow = tiny_stage(joined, inner, norm, stride, kernel_a=kernel)
        fast = tiny_stage(channels // beta, inner // beta, norm, stride, kernel_a=3)
        channels = 4 * inner
        blocks.append(fused(number + 1, channels, slow, fast))
    pools = nn.ModuleList([nn.AdaptiveAvgPool3d(1), nn.AdaptiveAvgPool3d(1)])
    blocks.append(PoolConcatPathway(pool=pools))
    features = channels + channels // beta
    return SlowFast(tiny_net(blocks, features, classes, dropout, pool=None), alpha)
