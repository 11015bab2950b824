"""X3D: depthwise kernels in every block, grown from a small image network."""

from pytorchvideo.models.x3d import create_x3d
from torch import nn

from snvideo.norm.factory import NormLayer


def x3d(classes: int, norm: NormLayer, dropout: float) -> nn.Module:
    """X3D (Feichtenhofer, arXiv 2004.04730). XS, S and M are this one network in different views.

    Args:
        classes: size of the logits.
        norm: makes every norm.
        dropout: rate before the classifier.
    """
    net = create_x3d(
        model_num_class=classes,
        dropout_rate=dropout,
        norm=norm,
        inner_act=nn.SiLU,  # x * sigmoid(x) in one operation; the builder's own takes two
        head_activation=None,  # a softmax otherwise
    )
    # The builder's pool has the size of one clip length and crop.
    net.blocks[-1].pool.pool = nn.AdaptiveAvgPool3d(1)
    return net
