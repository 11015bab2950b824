"""Counters of a run: its progress, and metrics between two log lines."""

from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor


@dataclass
class Progress:
    """Counters of a run, stored with its checkpoints."""

    step: int = 0
    validated: int = 0  # the step at which the run was last validated
    best_top1: float = -1.0  # or mAP, of all validations over the whole test split
    best_step: int = 0
    skipped: int = 0  # steps without an update, as their gradient was not finite
    replaced: int = 0  # training clips whose video could not be read and was replaced by another
    train_seconds: float = 0.0


class MetricSums(NamedTuple):
    """Sums over clips, as plain numbers."""

    loss: float = 0.0
    correct: float = 0.0
    norm: float = 0.0  # of gradients, over steps
    steps: int = 0
    clips: int = 0
    replaced: int = 0  # clips whose video could not be read and was replaced by another

    @classmethod
    def total(cls, parts: list[Self]) -> Self:
        """Sum over processes, in the order of their ranks; steps and gradients are the main one's,
        as they are common to all."""
        summed = cls(*(sum(column) for column in zip(*parts, strict=True)))
        return summed._replace(norm=parts[0].norm, steps=parts[0].steps)


NOTHING = MetricSums()


class TrainMetrics:
    """Sums of this process, kept on the device so that no step waits for them.

    A resumed run begins with what was counted at its checkpoint.
    """

    def __init__(self, device: torch.device, counted: MetricSums = NOTHING) -> None:
        self._sums = torch.tensor(counted[:3], dtype=torch.float64, device=device)
        self.steps, self.clips, self.replaced = counted[3:]

    def add(self, losses: Tensor, correct: Tensor, norm: Tensor, replaced: int) -> None:
        """Add a step: losses (N,) and bool (N,) of its clips, the norm () of its gradient."""
        self._sums += torch.stack([losses.double().sum(), correct.sum(), norm])
        self.steps += 1
        self.clips += len(losses)
        self.replaced += replaced

    def read(self) -> MetricSums:
        """The sums so far; waits for the device."""
        loss, correct, norm = self._sums.tolist()
        return MetricSums(loss, correct, norm, self.steps, self.clips, self.replaced)
