"""A few steps under torch's profiler: a trace to look at, and a table of the dearest operators."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from snvideo.atomic import write_atomic

log = logging.getLogger(__name__)

SKIPPED, WARM_UP, PROFILED = 2, 2, 4
"""Steps of a run: those that start things up, those that the profiler needs, those it records."""

ROWS = 25
"""Operators in the table."""


class StepProfile:
    """Records steps, and when it has seen enough writes `trace.json.gz`, for chrome://tracing or
    Perfetto, and `operators.txt`; the run goes on.

    Args:
        folder: to write to.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        activities = [ProfilerActivity.CPU]
        self._by = "self_cpu_time_total"
        if torch.cuda.is_available():
            activities.append(ProfilerActivity.CUDA)
            self._by = "self_cuda_time_total"
        self._profiler = profile(
            activities=activities,
            schedule=schedule(wait=SKIPPED, warmup=WARM_UP, active=PROFILED, repeat=1),
            on_trace_ready=self._write,
            record_shapes=True,
        )
        self._profiler.start()
        self._left = SKIPPED + WARM_UP + PROFILED

    def step(self) -> None:
        """To be called after every step."""
        if not self._left:
            return
        self._left -= 1
        self._profiler.step()
        if not self._left:
            self._profiler.stop()

    def close(self) -> None:
        """Write what there is of a run that was shorter."""
        if self._left:
            self._left = 0
            self._profiler.stop()

    def _write(self, profiler: profile) -> None:
        try:
            self._publish(profiler)
        except OSError as error:  # the run does without
            log.warning("cannot write a profile to %s: %s", self._folder, error.strerror or error)

    def _publish(self, profiler: profile) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        trace = self._folder / "trace.json.gz"
        profiler.export_chrome_trace(str(trace))
        table = profiler.key_averages().table(sort_by=self._by, row_limit=ROWS)
        write_atomic(self._folder / "operators.txt", table)
        log.info("profile of %d steps: %s; operators:\n%s", PROFILED, trace, table)
