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
"""Steps in a row that may be skipped before the run is given up; a loss scale begins at 2 ** 16 and
is halved with every one."""

NAMED = 5
"""Clips that a message names at most."""


class _Seen(NamedTuple):
    """A step whose verdict is on its way from the device."""

    step: int
    finite: Tensor
    losses: Tensor
    rows: list[int]
    arrived: torch.cuda.Event | None


class FiniteCheck:
    """Checks every step's gradient norm and losses.

    Processes share a gradient, and so its norm: they come to the same verdict without asking.

    Args:
        policy: `skip` decides on the spot. `stop` lets a GPU go on and reads verdicts when they
            have arrived, steps later: until then nothing may be kept of what was trained, so
            `wait` comes before a checkpoint.
        device: of the network.
        index: whose videos are named.
        scaled: gradients overflow now and then because a loss scale is being searched for; such
            steps are skipped, whatever the policy.
    """

    def __init__(
        self,
        policy: Literal["stop", "skip"],
        device: torch.device,
        index: ClipIndex,
        scaled: bool = False,
    ) -> None:
        self._stops, self._index = policy == "stop" and not scaled, index
        self._waits = device.type == "cuda" and self._stops
        self._seen: deque[_Seen] = deque()
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
        if self._waits:
            verdict, arrived = finite.to("cpu", non_blocking=True), torch.cuda.Event()
            arrived.record()
            self._seen.append(_Seen(step, verdict, losses, rows, arrived))
            while self._seen and self._seen[0].arrived.query():
                self._judge(self._seen.popleft())
            return True
        return self._judge(_Seen(step, finite, losses, rows, None))

    def wait(self) -> None:
        """Wait for all verdicts.

        Raises:
            SnvideoError: as `accepts`.
        """
        while self._seen:
            seen = self._seen.popleft()
            seen.arrived.synchronize()
            self._judge(seen)

    def _judge(self, seen: _Seen) -> bool:
        if seen.finite:
            self._in_a_row = 0
            return True
        what = f"step {seen.step}: {self._culprits(seen)}"
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

    def _culprits(self, seen: _Seen) -> str:
        losses = seen.losses.tolist()
        bad = [row for row, good in zip(seen.rows, _finite(losses), strict=True) if not good]
        if bad:
            return f"the loss is not finite for {self._names(bad)}"
        return (
            "the gradient is not finite, though the losses here are; "
            f"this process's clips were {self._names(seen.rows)}"
        )

    def _names(self, rows: list[int]) -> str:
        names = [self._index[row].name for row in rows[:NAMED]]
        more = len(rows) - NAMED
        return ", ".join(names) + (f" and {more} more" if more > 0 else "")


def _finite(values: list[float]) -> list[bool]:
    return torch.isfinite(torch.tensor(values)).tolist()
