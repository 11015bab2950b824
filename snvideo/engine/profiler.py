"""A few steps under torch's profiler: a trace, and a table of the slowest operators."""

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
    """Records some steps and writes `trace.json.gz`, for chrome://tracing or Perfetto, and
    `operators.txt`.

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
        """Count a step; to be called after each."""
        if not self._left:
            return
        self._left -= 1
        self._profiler.step()
        if not self._left:
            self._profiler.stop()

    def close(self) -> None:
        """Write the profile of a shorter run."""
        if self._left:
            self._left = 0
            self._profiler.stop()

    def _write(self, profiler: profile) -> None:
        trace = self._folder / "trace.json.gz"
        table = profiler.key_averages().table(sort_by=self._by, row_limit=ROWS)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            profiler.export_chrome_trace(str(trace))
            write_atomic(self._folder / "operators.txt", table)
        except OSError as error:
            log.warning("cannot write a profile to %s: %s", self._folder, error.strerror or error)
            return
        log.info("profile of %d steps: %s; operators:\n%s", PROFILED, trace, table)
