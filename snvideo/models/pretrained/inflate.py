"""From kernels of images to kernels of videos."""

from typing import Literal

import torch
from torch import Tensor

Rule = Literal["repeat", "centre"]


def inflate(kernel: Tensor, frames: int, rule: Rule) -> Tensor:
    """A kernel over time that sees in a still video what a 2D kernel sees in its frame.

    Args:
        kernel: (out, in, H, W).
        frames: of the new kernel.
        rule: "repeat" puts the kernel into every frame and divides it by their number (Carreira &
            Zisserman, arXiv 1705.07750, section 2.4). Padding in time is black, so the first and
            last frames of a still clip come out darker than the others. "centre" puts it into the
            middle frame alone: every frame of any clip comes out as from the 2D network.

    Returns:
        (out, in, frames, H, W).
    """
    if rule == "repeat":
        return kernel.unsqueeze(2).repeat(1, 1, frames, 1, 1) / frames
    inflated = kernel.new_zeros(*kernel.shape[:2], frames, *kernel.shape[2:])
    inflated[:, :, frames // 2] = kernel
    return inflated


def is_inflated(kernel: Tensor, shape: torch.Size) -> bool:
    """Whether a tensor is a 2D kernel of what should be a 3D one of the given shape."""
    return kernel.dim() == 4 and len(shape) == 5 and kernel.shape == (*shape[:2], *shape[3:])
