"""Check that loss and gradient are finite, without holding up a GPU."""

import logging
from collections import deque
from typing import Literal

import torch
from torch import Tensor

from snvideo.data.index import ClipIndex
from snvideo.errors import SnvideoError

log = logging.getLogger(__name__)

PATIENCE = 20
"""Steps in a row that may be skipped; a loss scale begins at 2 ** 16 and each one halves it."""

NAMED = 5  # clips that a message names at most


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
        self._pending: deque[tuple[torch.cuda.Event, int, Tensor, Tensor, list[int]]] = deque()
        self._in_a_row = 0

    def accepts(self, step: int, losses: Tensor, rows: list[int], norm: Tensor) -> bool:
        """True if the step may change the weights, by the losses (N,) of this process's clips, of
        these rows of the index, and the norm () of the gradient of all clips.

        Raises SnvideoError if the run is to stop, naming step and clips.
        """
        finite = torch.isfinite(norm)
        if not self._deferred:
            return self._judge(step, finite, losses, rows)
        verdict, arrived = finite.to("cpu", non_blocking=True), torch.cuda.Event()
        arrived.record()
        self._pending.append((arrived, step, verdict, losses, rows))
        while self._pending and self._pending[0][0].query():
            self._judge(*self._pending.popleft()[1:])
        return True

    def wait(self) -> None:
        """Wait for all verdicts; raises as `accepts`."""
        while self._pending:
            self._pending[0][0].synchronize()
            self._judge(*self._pending.popleft()[1:])

    def _judge(self, step: int, finite: Tensor, losses: Tensor, rows: list[int]) -> bool:
        self._in_a_row = 0 if finite else self._in_a_row + 1
        if finite:
            return True
        good = torch.isfinite(losses.cpu()).tolist()
        bad = [row for row, fine in zip(rows, good, strict=True) if not fine]
        names = ", ".join(self._index[row].name for row in (bad or rows)[:NAMED])
        what = (
            f"the loss is not finite for {names}"
            if bad
            else f"the gradient is not finite, but the losses are; the clips were {names}"
        )
        if len(bad or rows) > NAMED:
            what += f" and {len(bad or rows) - NAMED} more"
        if self._stops or self._in_a_row > PATIENCE:
            before = "" if self._stops else f"; so were the {PATIENCE} steps before"
            raise SnvideoError(
                f"step {step}: {what}{before}; lower optim.lr, set optim.clip_norm, or "
                "optim.non_finite=skip to leave such steps out; the last checkpoint is from before"
            )
        log.warning("step %d: %s; the step is skipped", step, what)
        return False
