"""Where the time of steps goes, and what is said of it."""

import pytest
import torch

from snvideo.engine import step_timer as module
from snvideo.engine.step_timer import PHASES, StepTimer, waiting_share, workers_needed


def step(**seconds: float) -> dict[str, float]:
    return dict.fromkeys(PHASES, 0.0) | seconds


def test_laps_are_added_up_by_phase(monkeypatch):
    now = iter([0.0, 1.0, 3.0, 7.0, 8.0, 10.0, 15.0])
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(now))
    clock = StepTimer(torch.device("cpu"))
    clock.begin()
    for phase in ("data", "forward", "backward", "data", "forward", "update"):
        clock.lap(phase)
    assert clock.take() == [step(data=2.0, forward=4.0, backward=4.0, update=5.0)]
    assert clock.take() == []


def test_how_many_workers_would_keep_up():
    """Two workers that make a step wait half of its time are half of what is needed."""
    starved = [step(data=1.0, forward=0.25, backward=0.75)] * 5
    assert waiting_share(starved) == 0.5 and workers_needed(starved, 2) == 4
    assert workers_needed([step(data=3.0, forward=1.0)], 2) == 8
    assert workers_needed([step(data=3.0, forward=1.0)], 0) == 3
    assert workers_needed([step(data=0.05, forward=3.0)], 2) is None
    assert workers_needed([step(data=1.0)], 2) is None  # too short to tell
    assert workers_needed([], 2) is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_is_timed_by_its_own_clock():
    clock = StepTimer(torch.device("cuda"))
    clock.begin()
    torch.cuda._sleep(50_000_000)
    clock.lap("forward")
    clock.lap("update")
    (found,) = clock.take()
    assert found["forward"] > 10 * found["update"] and found["forward"] > 0.005
