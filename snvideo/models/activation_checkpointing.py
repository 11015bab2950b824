"""Activation checkpointing: less memory for more work."""

import torch
from pytorchvideo.models.resnet import ResBlock
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.models.video.resnet import BasicBlock

from snvideo.errors import SnvideoError


def recompute_blocks(model: nn.Module) -> int:
    """Let every residual block keep its input alone, and compute its inside again for backward.

    A forward pass more inside the blocks, a third more work, for activations of the block
    boundaries and of one block at a time (Chen et al., arXiv 1604.06174). It takes place in
    training mode and where gradients are asked for; otherwise nothing changes. Gradients are the
    same: blocks draw no random numbers, and batch statistics are those of the same clips.

    Running statistics are entered once more when a block is computed again, with the same values.
    Within `snvideo.norm.one_update`, read after backward, that makes no difference. Elsewhere a
    pass moves them by 1 - (1 - momentum)^2 instead of momentum, 0.19 instead of 0.1, and counts as
    two, which is forgotten when `snvideo.norm.average_statistics` replaces them before evaluation.

    Args:
        model: changed in place; names and values of its parameters and buffers stay.

    Returns:
        the number of residual blocks that compute again.

    Raises:
        SnvideoError: if the network has no residual block of a known kind.
    """
    for module in model.modules():
        # Another class for the same object: wrapped in a module, names would change.
        module.__class__ = RECOMPUTED.get(type(module), type(module))
    count = sum(isinstance(module, Recomputed) for module in model.modules())
    if not count:
        raise SnvideoError(
            f"speed.recompute: {type(model).__name__} has no residual blocks of pytorchvideo or "
            "torchvision that could be computed again: switch it off"
        )
    return count


class Recomputed(nn.Module):
    """Put before a block's own class: computes its inside again for backward."""

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and torch.is_grad_enabled()):
            return super().forward(x)
        # Blocks draw nothing: states of random number generators need not be kept and put back.
        return checkpoint(super().forward, x, use_reentrant=False, preserve_rng_state=False)


class RecomputedResBlock(Recomputed, ResBlock):
    """A block of pytorchvideo's networks."""


class RecomputedBasicBlock(Recomputed, BasicBlock):
    """A block of torchvision's video networks."""


RECOMPUTED = {ResBlock: RecomputedResBlock, BasicBlock: RecomputedBasicBlock}
"""What a block becomes."""
