"""Running statistics of a norm, and their update."""

from typing import NamedTuple

import torch
from torch import Tensor

from snvideo.norm.reference import BatchStatistics


class RunningStatistics(NamedTuple):
    """Running mean and variance (C,), and how batch statistics enter them."""

    mean: Tensor
    variance: Tensor
    momentum: float | Tensor
    """Weight of the new value."""
    unbiased: bool
    """The unbiased variance is entered, as by Batch Normalization."""

    def update(self, batch: BatchStatistics) -> None:
        """Enter batch statistics, in place, by their mean over the ghost groups."""
        with torch.no_grad():
            mean, variance = (t[0] if len(t) == 1 else t.mean(0) for t in batch[:2])
            if self.unbiased:
                variance = variance * (batch.count / (batch.count - 1))
            self.mean.lerp_(mean.to(self.mean.dtype), self.momentum)
            self.variance.lerp_(variance.to(self.variance.dtype), self.momentum)
