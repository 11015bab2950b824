"""Dropout before the classifier, by masks that depend on the clip alone."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional


class ClipDropout(nn.Module):
    """Dropout whose masks can be given from outside, to depend on a clip's place in a batch alone.

    Without a mask it is nn.Dropout.

    Args:
        p: probability that a feature is zeroed.
        features: channels of the input.

    Shape:
        (N, features, *) -> the same. A mask covers all positions of a channel.
    """

    def __init__(self, p: float, features: int) -> None:
        super().__init__()
        self.p, self.features = p, features
        self.mask: Tensor | None = None
        """Of the next pass: (N, features), with kept features scaled by 1 / (1 - p)."""

    def forward(self, x: Tensor) -> Tensor:
        """x with some of its channels zeroed."""
        if not self.training or not self.p:
            return x
        if self.mask is None:
            return self.draw(x)
        return x * self.mask.to(x.dtype).reshape(*self.mask.shape, *(1 for _ in x.shape[2:]))

    def draw(self, x: Tensor) -> Tensor:
        """x with values zeroed at random, where no mask is given."""
        return functional.dropout(x, self.p)

    def sample_masks(self, rng: np.random.Generator, clips: int) -> Tensor:
        """Masks of all clips of an optimizer step, float32 (clips, features), on the CPU."""
        kept = rng.random((clips, self.features), dtype=np.float32) >= self.p
        return torch.from_numpy(kept).float() / (1 - self.p)

    def extra_repr(self) -> str:
        """Settings of the layer."""
        return f"p={self.p}, features={self.features}"


def replace_dropout(model: nn.Module) -> None:
    """Put `ClipDropout` in the place of nn.Dropout in every head of pytorchvideo's builders."""
    for head in model.modules():
        old, classifier = getattr(head, "dropout", None), getattr(head, "proj", None)
        if isinstance(old, nn.Dropout) and isinstance(classifier, nn.Linear):
            head.dropout = ClipDropout(old.p, classifier.in_features)
