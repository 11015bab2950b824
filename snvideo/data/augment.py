"""From bytes to the network's input, on the device."""

from collections.abc import Sequence

import torch
from torch import Tensor


def to_input(
    clips: Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    flips: Tensor | None = None,
) -> Tensor:
    """Mirror where asked, scale to 0..1, normalize, and put channels first.

    Args:
        clips: uint8 (N, T, 3, H, W), on the device that the network is on.
        mean, std: of the three channels, for values 0..1.
        flips: bool (N,), which clips to mirror; None for none.

    Returns:
        float32 (N, 3, T, H, W).
    """
    if flips is not None:
        clips = torch.where(flips[:, None, None, None, None], clips.flip(-1), clips)
    # (x / 255 - mean) / std, as one multiplication and one addition per value
    deviation = torch.tensor(std, device=clips.device)[:, None, None, None]
    shift = -torch.tensor(mean, device=clips.device)[:, None, None, None] / deviation
    return torch.addcmul(shift, clips.transpose(1, 2).float(), 1 / (255 * deviation))
