"""Exponential moving average of a network's weights."""

import copy

import torch
from torch import Tensor, nn


class EMA:
    """Exponential moving average of weights; statistics are those of the last step.

    torch's own AveragedModel keeps its count on the device and asks for it at every update, for
    which a GPU is waited.

    Args:
        model: whose weights are averaged.
        decay: what is kept of the average at each step; the first step is taken as it is.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(model)
        """The network with averaged weights."""
        self.updates = 0
        self._decay = decay
        self._new = _values(model)
        self._own = _values(self.module)

    @torch.no_grad()
    def update(self) -> None:
        """Enter the model's present weights."""
        (weights, buffers), (new_weights, new_buffers) = self._own, self._new
        if self.updates:
            torch._foreach_lerp_(weights, new_weights, 1 - self._decay)
        else:
            torch._foreach_copy_(weights, new_weights)
        if buffers:
            torch._foreach_copy_(buffers, new_buffers)
        self.updates += 1


def _values(model: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    return list(model.parameters()), list(model.buffers())
