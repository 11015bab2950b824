"""Batch Normalization that is not trained: the usual way to fine-tune with few clips per GPU."""

from typing import Any, Self

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


class _Frozen(_BatchNorm):
    """Mixin that makes a BatchNorm a fixed affine map: stored statistics, nothing trainable."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode."""
        return super().train(False)


class FrozenBatchNorm1d(_Frozen, nn.BatchNorm1d):
    """nn.BatchNorm1d with stored statistics and parameters, in training too."""


class FrozenBatchNorm2d(_Frozen, nn.BatchNorm2d):
    """nn.BatchNorm2d with stored statistics and parameters, in training too."""


class FrozenBatchNorm3d(_Frozen, nn.BatchNorm3d):
    """nn.BatchNorm3d with stored statistics and parameters, in training too."""
