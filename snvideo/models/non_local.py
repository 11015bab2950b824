"""Non-local blocks: attention over all positions of a clip, behind residual blocks."""

from typing import Any

from pytorchvideo.layers import nonlocal_net as builder
from pytorchvideo.models.resnet import ResBlock, ResStage
from torch import Tensor, nn
from torch.nn import functional

from snvideo.models.resnet import I3D, resnet
from snvideo.norm.factory import NormLayer


class NonLocal(builder.NonLocal):
    """Non-local block, embedded Gaussian (Wang et al., arXiv 1711.07971).

    x + norm(conv_out(y)), where y at a position is the mean of conv_g(x) over all positions. Its
    weights are a softmax: of the products of conv_theta(x) there and conv_phi(x), divided by the
    square root of their channels, as in PySlowFast. What is averaged is pooled before.

    Shape:
        (N, C, T, H, W) -> the same.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Output of the block."""
        pooled = self.pool(x)
        layers = ((self.conv_theta, x), (self.conv_phi, pooled), (self.conv_g, pooled))
        # (N, one head, positions, channels), for which torch has kernels that keep no matrix of
        # all pairs of positions. pytorchvideo's own pass keeps one, and fails on channels_last.
        query, key, value = (
            conv(part).flatten(2).transpose(1, 2).unsqueeze(1) for conv, part in layers
        )
        mean = functional.scaled_dot_product_attention(query, key, value)
        mean = mean.squeeze(1).transpose(1, 2).unflatten(2, x.shape[2:])
        return x + self.norm(self.conv_out(mean))


class NonLocalResBlock(ResBlock):
    """A residual block with a non-local block behind it, made from one without."""

    non_local: NonLocal

    def forward(self, x: Tensor) -> Tensor:
        """Output of both blocks."""
        return self.non_local(super().forward(x))


def non_local(dim: int, norm: NormLayer) -> NonLocal:
    """A non-local block of half as many channels inside, which begins as the identity.

    Weights are drawn with a standard deviation of 0.01, as by the authors
    (github.com/facebookresearch/video-nonlocal-net).
    """
    block = builder.create_nonlocal(
        dim_in=dim, dim_inner=dim // 2, pool_size=(1, 2, 2), instantiation="softmax", norm=norm
    )
    block.__class__ = NonLocal  # of the same layers
    for conv in (block.conv_theta, block.conv_phi, block.conv_g, block.conv_out):
        nn.init.normal_(conv.weight, std=0.01)
        nn.init.zeros_(conv.bias)
    block.norm.block_final_bn = True  # as pytorchvideo marks it in residual branches
    return block


def non_local_i3d(
    depth: int, classes: int, norm: NormLayer, dropout: float, **options: Any
) -> nn.Module:
    """I3D with a non-local block behind every other residual block of res3 and res4.

    With 50 layers these are two and three, as in the paper; arguments are those of
    `snvideo.models.resnet.resnet`.
    """
    net = resnet(I3D, depth, classes, norm, dropout, **options)
    _, res3, res4, _ = (
        stage for stage in net.get_submodule("blocks").children() if isinstance(stage, ResStage)
    )
    for stage in (res3, res4):
        for number in range(min(1, len(stage.res_blocks) - 1), len(stage.res_blocks), 2):
            block = stage.res_blocks[number]
            # Another class for the same object: its constructor would set the class back.
            block.__class__ = NonLocalResBlock
            block.non_local = non_local(block.branch2.conv_c.out_channels, norm)
    return net
