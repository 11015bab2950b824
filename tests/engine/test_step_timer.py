"""Where the time of steps goes, and what is said of it."""

import time

import pytest
import torch

from snvideo.engine import step_timer as module
from snvideo.engine.step_timer import (
    PHASES,
    StepTimer,
    shares,
    slowest,
    step_watchdog,
    workers_needed,
)

CPU = torch.device("cpu")


def step(**seconds: float) -> dict[str, float]:
    return dict.fromkeys(PHASES, 0.0) | seconds


def test_laps_are_added_up_by_phase(monkeypatch):
    now = iter([0.0, 1.0, 3.0, 7.0, 8.0, 10.0, 15.0])
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(now))
    clock = StepTimer(CPU)
    clock.begin()
    for phase in ("data", "forward", "backward", "data", "forward"):
        clock.lap(phase, "update")
    clock.end("update")
    assert clock.take() == [step(data=2.0, forward=4.0, backward=4.0, update=5.0)]
    assert clock.take() == []
    assert clock.usual == 15.0


def test_the_slowest_step_is_found_if_it_is_out_of_the_ordinary():
    usual = [step(forward=0.5), step(forward=0.6)]
    assert slowest(usual, 0.5) is None
    assert slowest([*usual, step(forward=0.5, data=9.0)], 0.5) == 2
    assert slowest([step(forward=0.04)], 0.01) is None  # four times, but not worth a word
    assert slowest([], 0.5) is None and slowest(usual, None) is None
    assert shares(step(forward=0.5, data=9.0)) == "data 9.00 s, forward 0.50 s"


def test_how_many_workers_would_keep_up():
    """Two workers that make a step wait half of its time are half of what is needed."""
    starved = [step(data=1.0, forward=0.25, backward=0.75)] * 5
    assert workers_needed(starved, 2) == 4
    assert workers_needed([step(data=3.0, forward=1.0)], 2) == 8
    assert workers_needed([step(data=3.0, forward=1.0)], 0) == 3
    assert workers_needed([step(data=0.05, forward=1.0)], 2) is None
    assert workers_needed([], 2) is None


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(module, "STUCK", 0.2)
    monkeypatch.setattr(module, "FIRST", 0.2)
    monkeypatch.setattr(module, "LOOK", 0.02)


def test_a_step_that_does_not_end_is_reported_while_it_lasts(caplog, impatient):
    clock = StepTimer(CPU)
    with step_watchdog(clock, rank=3):
        clock.begin()
        clock.lap("data", "communication")
        time.sleep(1.0)
        during = list(caplog.messages)
        clock.lap("communication", "update")
        clock.end("update")
    assert 1 <= len(during) <= 4  # less and less often
    assert during[0].startswith("process 3: the step has been in 'communication' for 0 s: another")


def test_time_between_steps_is_no_step(caplog, impatient):
    clock = StepTimer(CPU)
    with step_watchdog(clock, rank=0):
        clock.begin()
        clock.end("update")
        time.sleep(0.5)
    assert not caplog.messages


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_is_timed_by_its_own_clock():
    clock = StepTimer(torch.device("cuda"))
    clock.begin()
    torch.cuda._sleep(50_000_000)
    clock.lap("forward", "update")
    clock.end("update")
    (found,) = clock.take()
    assert found["forward"] > 10 * found["update"] and found["forward"] > 0.005
