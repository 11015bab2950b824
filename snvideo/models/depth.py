"""Depth of a network's layers: the stem, one residual block after another, the head."""

from pytorchvideo.models.net import MultiPathWayWithFuse
from pytorchvideo.models.resnet import ResBlock
from torch import nn
from torchvision.models.video.resnet import BasicBlock

RESIDUAL_BLOCKS = (ResBlock, BasicBlock)
"""Classes of the residual blocks of all backbones."""


def layer_depths(model: nn.Module) -> dict[nn.Module, int]:
    """The layers of a network with their depths, from 0 on.

    A layer is a residual block, or what lies before, between or after them: the stem and the head.
    Blocks of parallel pathways are equally deep; what fuses these is as deep as the blocks before.
    """
    depths: dict[nn.Module, int] = {}
    _add_layers(model, 0, depths)
    return depths


def _add_layers(module: nn.Module, first: int, depths: dict[nn.Module, int]) -> int:
    """Add the layers of a part of a network that begins at a depth; returns the next depth."""
    if isinstance(module, MultiPathWayWithFuse):
        after = max(_add_layers(path, first, depths) for path in module.multipathway_blocks)
        depths[module.multipathway_fusion] = after - 1
        return after
    parts = (MultiPathWayWithFuse, *RESIDUAL_BLOCKS)
    inner = (one for one in module.modules() if one is not module)
    if isinstance(module, RESIDUAL_BLOCKS) or not any(isinstance(one, parts) for one in inner):
        depths[module] = first
        return first + any(True for _ in module.parameters())  # pools are no layers
    for child in module.children():
        first = _add_layers(child, first, depths)
    return first


def layers_to_head(model: nn.Module) -> dict[nn.Parameter, int]:
    """Number of layers from that of a parameter to the head, whose own have 0."""
    depths = {
        parameter: depth
        for layer, depth in layer_depths(model).items()
        for parameter in layer.parameters()
    }
    head = max(depths.values())
    return {parameter: head - depth for parameter, depth in depths.items()}
