"""Activation checkpointing of residual blocks."""

import torch
from pytorchvideo.models.resnet import ResBlock
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.models.video.resnet import BasicBlock

from snvideo.errors import SnvideoError
from snvideo.models.drop_path import DropPath
from snvideo.models.non_local import NonLocalResBlock


def enable_activation_checkpointing(model: nn.Module) -> int:
    """Let every residual block keep its input alone, and run again in the backward pass.

    A third more work, for activations of the block boundaries and of one block at a time (Chen et
    al., arXiv 1604.06174); in training with gradients only, and with the same gradients.

    Running statistics are updated twice, with the same values. Within `snvideo.norm.one_update`,
    read after backward, that makes no difference; elsewhere a pass counts as two, until
    `snvideo.norm.average_statistics` replaces them before evaluation.

    The model is changed in place; names and values of its parameters and buffers stay.

    Returns:
        the number of checkpointed blocks.

    Raises:
        SnvideoError: if the network has no residual block of a known kind.
    """
    for module in model.modules():
        # Another class for the same object: wrapped in a module, names would change.
        module.__class__ = _CHECKPOINTED.get(type(module), type(module))
    blocks = [module for module in model.modules() if isinstance(module, _Checkpointed)]
    for block in blocks:
        block.draws = any(isinstance(module, DropPath) for module in block.modules())
    if not blocks:
        raise SnvideoError(
            f"speed.activation_checkpointing: {type(model).__name__} has no residual blocks of "
            "pytorchvideo or torchvision: switch it off"
        )
    return len(blocks)


class _Checkpointed(nn.Module):
    """Mixin that runs a block's forward pass under activation checkpointing."""

    draws: bool
    """True for a block that may use random numbers, as drop path does without masks."""

    def forward(self, x: Tensor) -> Tensor:
        """Output of the block, kept or computed again."""
        if not (self.training and torch.is_grad_enabled()):
            return super().forward(x)
        return checkpoint(super().forward, x, use_reentrant=False, preserve_rng_state=self.draws)


class _CheckpointedResBlock(_Checkpointed, ResBlock):
    """A block of pytorchvideo's networks."""


class _CheckpointedNonLocalResBlock(_Checkpointed, NonLocalResBlock):
    """A block of pytorchvideo's networks with a non-local block behind it."""


class _CheckpointedBasicBlock(_Checkpointed, BasicBlock):
    """A block of torchvision's video networks."""


_CHECKPOINTED: dict[type, type] = {
    ResBlock: _CheckpointedResBlock,
    NonLocalResBlock: _CheckpointedNonLocalResBlock,
    BasicBlock: _CheckpointedBasicBlock,
}
