"""Check that loss and gradient are finite, without holding up a GPU."""

from __future__ import annotations

import logging
from collections import deque
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from snvideo.data.index import ClipIndex
from snvideo.errors import SnvideoError

log = logging.getLogger(__name__)

PATIENCE = 20
"""Steps in a row that may be skipped; a loss scale begins at 2 ** 16 and each one halves it."""

NAMED = 5
"""Clips that a message names at most."""


class _Step(NamedTuple):
    """A step and its verdict, which may be on its way from the device."""

    number: int
    finite: Tensor
    losses: Tensor
    rows: list[int]


class FiniteCheck:
    """Checks every step's gradient norm and losses.

    All processes come to the same verdict, as the gradient is common to them.

    Args:
        policy: `skip` decides at once. `stop` lets a GPU go on and reads verdicts when they have
            arrived, steps later: `wait` comes before a checkpoint.
        device: of the network.
        index: whose videos are named.
        scaled: steps are skipped whatever the policy, as gradients overflow while a loss scale is
            searched for.
    """

    def __init__(
        self,
        policy: Literal["stop", "skip"],
        device: torch.device,
        index: ClipIndex,
        scaled: bool = False,
    ) -> None:
        self._stops, self._index = policy == "stop" and not scaled, index
        self._deferred = device.type == "cuda" and self._stops
        self._pending: deque[tuple[_Step, torch.cuda.Event]] = deque()
        self._in_a_row = 0

    def accepts(self, step: int, losses: Tensor, rows: list[int], norm: Tensor) -> bool:
        """True if the step may change the weights.

        Args:
            step: its number.
            losses: of this process's clips, (N,).
            rows: of the index, of the same clips.
            norm: of the gradient of all clips, ().

        Raises:
            SnvideoError: if the run is to stop, naming step and clips.
        """
        finite = torch.isfinite(norm)
        if not self._deferred:
            return self._judge(_Step(step, finite, losses, rows))
        verdict, arrived = finite.to("cpu", non_blocking=True), torch.cuda.Event()
        arrived.record()
        self._pending.append((_Step(step, verdict, losses, rows), arrived))
        while self._pending and self._pending[0][1].query():
            self._judge(self._pending.popleft()[0])
        return True

    def wait(self) -> None:
        """Wait for all verdicts.

        Raises:
            SnvideoError: as `accepts`.
        """
        while self._pending:
            step, arrived = self._pending.popleft()
            arrived.synchronize()
            self._judge(step)

    def _judge(self, step: _Step) -> bool:
        if step.finite:
            self._in_a_row = 0
            return True
        what = f"step {step.number}: {self._culprits(step)}"
        self._in_a_row += 1
        if self._stops:
            raise SnvideoError(
                f"{what}; lower optim.lr, set optim.clip_norm, or optim.non_finite=skip to leave "
                "such steps out; the last checkpoint is from before"
            )
        if self._in_a_row > PATIENCE:
            raise SnvideoError(
                f"{what}; so were the {PATIENCE} steps before: lower optim.lr or set "
                "optim.clip_norm; the last checkpoint has the weights from before"
            )
        log.warning("%s; the step is skipped", what)
        return False

    def _culprits(self, step: _Step) -> str:
        finite = torch.isfinite(step.losses.cpu()).tolist()
        bad = [row for row, good in zip(step.rows, finite, strict=True) if not good]
        if bad:
            return f"the loss is not finite for {self._names(bad)}"
        return (
            "the gradient is not finite, though the losses here are; "
            f"this process's clips were {self._names(step.rows)}"
        )

    def _names(self, rows: list[int]) -> str:
        names = [self._index[row].name for row in rows[:NAMED]]
        more = len(rows) - NAMED
        return ", ".join(names) + (f" and {more} more" if more > 0 else "")
