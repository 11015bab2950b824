"""Random erasing: a rectangle of all frames of a clip, filled with one value or with noise."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from snvideo.data.config import RandomErasingConfig

ATTEMPTS = 10  # to find a rectangle that fits into the frame


class Rectangle(NamedTuple):
    """Pixels to be erased."""

    top: int
    left: int
    height: int
    width: int
    noise: int | None = None
    """Seed of the noise that fills them; None: they become 0."""


def sample_rectangle(
    rng: np.random.Generator, config: RandomErasingConfig | None, side: int
) -> Rectangle | None:
    """Sample the rectangle of a clip of square frames; None if nothing is erased.

    Its part of the area is uniform, its height by its width uniform in the logarithm.
    """
    if config is None or rng.random() >= config.probability:
        return None
    for _ in range(ATTEMPTS):
        area = rng.uniform(*config.area) * side**2
        low, high = map(math.log, config.aspect)
        aspect = math.exp(rng.uniform(low, high))
        height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < height < side and 0 < width < side:
            top, left = rng.integers(side - height + 1), rng.integers(side - width + 1)
            seed = int(rng.integers(2**31)) if config.fill == "pixel" else None
            return Rectangle(int(top), int(left), height, width, seed)
    return None


def erase(inputs: Tensor, rectangles: Sequence[Rectangle | None]) -> Tensor:
    """Erase a rectangle of each clip, in place, in all frames alike.

    Args:
        inputs: float (N, 3, T, H, W), normalized, so that 0 is the mean colour.
        rectangles: of these N clips.

    Returns:
        the inputs.
    """
    for clip, rectangle in zip(inputs, rectangles, strict=True):
        if rectangle is None:
            continue
        *place, seed = rectangle
        fill = torch.zeros((), dtype=clip.dtype, device=clip.device)
        if seed is not None:  # drawn on the CPU: the same on any device
            drawn = torch.Generator().manual_seed(seed)
            noise = torch.randn(3, 1, rectangle.height, rectangle.width, generator=drawn)
            fill = noise.to(clip.device, clip.dtype)
        transforms.erase(clip, *place, fill, inplace=True)
    return inputs
