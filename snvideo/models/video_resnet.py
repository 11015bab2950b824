"""torchvision's video networks of 18 layers, with any norm."""

from collections.abc import Callable

from torch import nn
from torchvision.models.video.resnet import BasicBlock, VideoResNet

from snvideo.models.dropout import ClipDropout
from snvideo.norm import convert_norm
from snvideo.norm.factory import NormLayer


def video_resnet(
    create: Callable[..., VideoResNet], classes: int, norm: NormLayer, dropout: float
) -> nn.Module:
    """R3D, MC3 or R(2+1)D of 18 layers (Tran et al., arXiv 1711.11248).

    Parameters and buffers have torchvision's names, so its own weights load into the form with
    Batch Normalization.

    Args:
        create: a builder of torchvision, as `torchvision.models.video.r3d_18`.
        classes: size of the logits.
        norm: makes every norm.
        dropout: rate before the classifier; torchvision has none.
    """
    net = create(num_classes=classes)
    convert_norm(net, norm)
    for block in net.modules():
        if isinstance(block, BasicBlock):
            block.conv2[-1].block_final_bn = True  # as pytorchvideo marks it
    # Behind the pool, which has no parameters that would get other names.
    net.avgpool = nn.Sequential(net.avgpool, ClipDropout(dropout, net.fc.in_features))
    return net
