"""A few steps under torch's profiler: a trace, and a table of the slowest operators."""

import logging
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from snvideo.atomic import write_atomic

log = logging.getLogger(__name__)

SKIPPED, WARM_UP, PROFILED = 2, 2, 4
"""Steps of a run: those that start things up, those that the profiler needs, those it records."""

ROWS = 25  # operators in the table


def step_profiler(folder: Path) -> profile:
    """Profiler of some steps, whose `step` is to be called after each.

    Writes `trace.json.gz`, for chrome://tracing or Perfetto, and `operators.txt` to the folder.
    """
    gpu = torch.cuda.is_available()

    def write(profiler: profile) -> None:
        trace = folder / "trace.json.gz"
        by = "self_cuda_time_total" if gpu else "self_cpu_time_total"
        table = profiler.key_averages().table(sort_by=by, row_limit=ROWS)
        try:
            write_atomic(folder / "operators.txt", table)
            profiler.export_chrome_trace(str(trace))
        except OSError as error:
            log.warning("cannot write a profile to %s: %s", folder, error.strerror or error)
            return
        log.info("profile of %d steps: %s; operators:\n%s", PROFILED, trace, table)

    return profile(
        activities=[ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * gpu],
        schedule=schedule(wait=SKIPPED, warmup=WARM_UP, active=PROFILED, repeat=1),
        on_trace_ready=write,
        record_shapes=True,
    )
