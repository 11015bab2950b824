"""Batch Normalization that is not trained: the usual way to fine-tune with few clips per GPU."""

from torch import nn


class _Frozen:
    """Makes a BatchNorm a fixed affine map: stored statistics always, nothing learned."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> nn.Module:
        return super().train(False)


class FrozenBatchNorm1d(_Frozen, nn.BatchNorm1d):
    """nn.BatchNorm1d with stored statistics and parameters, in training too."""


class FrozenBatchNorm2d(_Frozen, nn.BatchNorm2d):
    """nn.BatchNorm2d with stored statistics and parameters, in training too."""


class FrozenBatchNorm3d(_Frozen, nn.BatchNorm3d):
    """nn.BatchNorm3d with stored statistics and parameters, in training too."""
