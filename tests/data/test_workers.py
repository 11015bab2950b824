"""Worker pool: order, what each kind of death costs, and what is left behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
import torch

from snvideo.data import workers
from snvideo.data.watchdog import report_progress
from snvideo.data.workers import Outcome, WorkerPool, discard_output
from snvideo.errors import SnvideoError


def steps(item: dict, offset: int = 0) -> Iterator[int]:
    """What a worker does with an item: waits, answers, and ends as the item says."""
    print("noise that must not mix with the answers")
    time.sleep(item.get("wait", 0))
    yield from range(offset, offset + item.get("answers", 1))
    if "trials" in item:
        with Path(item["trials"]).open("a") as file:
            file.write("x")
    match item.get("end"):
        case "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "hang":
            time.sleep(600)
        case "raise":
            raise ValueError("no such colour\nand more")
        case "no pickle":
            yield lambda: None


def outcomes(items: list[dict], workers: int = 2, timeout: float = 120.0, **more) -> list[Outcome]:
    function = partial(steps, **more)
    with closing(
        WorkerPool(function, workers, timeout, start_method="fork", initializer=discard_output)
    ) as pool:
        return list(pool.run(items))


def test_last_answers_in_the_order_of_the_items() -> None:
    items = [{"answers": n, "wait": 0.2 * (n == 5)} for n in (5, 1, 0, 3, 2, 4)]
    found = outcomes(items, offset=10)
    assert found == [Outcome(n) for n in (14, 10, None, 12, 11, 13)]


def test_a_crash_costs_one_item_after_a_second_trial(tmp_path: Path) -> None:
    trials = tmp_path / "trials"
    crash = {"answers": 3, "end": "crash", "trials": str(trials)}
    found = outcomes([{}, crash, {}, {}])
    assert found == [Outcome(0), Outcome(2, "crashed"), Outcome(0), Outcome(0)]
    assert trials.read_text() == "xx"


def test_a_hang_costs_one_item_and_is_not_tried_again(tmp_path: Path) -> None:
    trials = tmp_path / "trials"
    hang = {"answers": 0, "end": "hang", "trials": str(trials)}
    begun = time.monotonic()
    found = outcomes([hang, {}, {}], workers=1, timeout=0.5)
    assert found == [Outcome(None, "hangs"), Outcome(0), Outcome(0)]
    assert trials.read_text() == "x"
    assert time.monotonic() - begun < 10


def test_the_timeout_is_for_one_answer_not_for_all() -> None:
    with closing(WorkerPool(slowly, 1, 0.5)) as pool:
        assert list(pool.run([4])) == [Outcome(3)]


def working(seconds: float) -> Iterator[float]:
    """Works for some seconds, saying so, and then hangs if it is to."""
    until = time.monotonic() + abs(seconds)
    while time.monotonic() < until:
        report_progress()
        time.sleep(0.02)
    if seconds < 0:
        time.sleep(600)
    yield seconds


def test_the_timeout_is_for_silence_not_for_work() -> None:
    with closing(WorkerPool(working, 1, 0.5)) as pool:
        assert list(pool.run([1.5, -1.0, 0.1])) == [
            Outcome(1.5),
            Outcome(None, "hangs"),
            Outcome(0.1),
        ]


def test_a_process_that_works_is_not_killed_for_its_silence(monkeypatch) -> None:
    """By the parent, either, which does it in the watchdog's stead."""
    monkeypatch.setattr(workers, "GRACE", 0.1)
    with closing(WorkerPool(working, 1, 0.7)) as pool:
        assert list(pool.run([2.5])) == [Outcome(2.5)]


def slowly(item: int) -> Iterator[int]:
    for number in range(item):
        time.sleep(0.2)
        yield number


def test_an_exception_is_told_in_one_line_and_the_process_goes_on(tmp_path: Path) -> None:
    trials = tmp_path / "trials"
    items = [{"end": "raise", "trials": str(trials)}, {"end": "no pickle"}, {}]
    first, second, third = outcomes(items, workers=1)
    assert first == Outcome(0, "raised ValueError: no such colour")
    assert second.answer == 0 and second.failure.startswith("raised ")
    assert third == Outcome(0)
    assert trials.read_text() == "x"


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_processes_that_cannot_start_are_an_error() -> None:
    with (
        closing(WorkerPool(slowly, 2, 60, initializer=die)) as pool,
        pytest.raises(SnvideoError, match="died of SIGKILL, 3 times without having begun a task"),
    ):
        list(pool.run([1]))


def test_a_caller_that_stops_leaves_no_process() -> None:
    pool = WorkerPool(pid_then_hang, 1, 60)
    running = pool.run([{}, {"hang": True}])
    first = next(running).answer
    assert pool.close() == [{"hang": True}]
    with pytest.raises(ProcessLookupError):
        os.kill(first, 0)


def pid_then_hang(item: dict) -> Iterator[int]:
    yield os.getpid()
    if item.get("hang"):
        time.sleep(600)


def tensors(number: int) -> Iterator[dict]:
    frames = torch.full((2, 3, 40, 50), number, dtype=torch.uint8)
    yield {
        "frames": frames.contiguous(memory_format=torch.channels_last),
        "scalar": torch.tensor(1.5),
        "none": torch.empty(0, 3),
        "names": [str(number)] * 2000,
    }


@pytest.mark.parametrize(
    "start_method", ["fork", pytest.param("spawn", marks=pytest.mark.slow), "forkserver"]
)
def test_tensors_keep_values_and_memory_format(start_method: str) -> None:
    with closing(WorkerPool(tensors, 2, 60, start_method=start_method)) as pool:
        for number, (answer, failure) in enumerate(pool.run(range(20))):
            assert failure is None
            frames = answer["frames"]
            assert frames.is_contiguous(memory_format=torch.channels_last)
            assert frames.unique().tolist() == [number] and frames.shape == (2, 3, 40, 50)
            assert answer["scalar"] == 1.5 and answer["none"].shape == (0, 3)
            assert answer["names"] == [str(number)] * 2000


ORPHANS = """
import sys
from snvideo.data.workers import WorkerPool, discard_output
from tests.data.test_workers import pid_then_hang

if __name__ == "__main__":
    pool = WorkerPool(pid_then_hang, 2, 60, start_method=sys.argv[1])
    outcomes = pool.run({} for _ in range(100))
    print(*{next(outcomes).answer for _ in range(50)}, flush=True)
    if sys.argv[2] == "wait":
        input()
"""


@pytest.mark.parametrize("start_method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
@pytest.mark.parametrize("end", ["kill", "exit"])
def test_no_worker_outlives_its_parent(tmp_path: Path, start_method: str, end: str) -> None:
    script = tmp_path / "main.py"
    script.write_text(ORPHANS)
    call = [sys.executable, str(script), start_method, "wait" if end == "kill" else "end"]
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    pipe = subprocess.PIPE
    with subprocess.Popen(call, stdin=pipe, stdout=pipe, text=True, env=environment) as parent:
        workers = [int(word) for word in parent.stdout.readline().split()]
        assert workers
        if end == "kill":
            parent.kill()
        else:
            assert parent.wait(30) == 0
    until = time.monotonic() + 10
    while any(map(is_running, workers)):
        assert time.monotonic() < until
        time.sleep(0.05)


def is_running(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"  # whoever is to reap it may take a while


def stand_still() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def test_processes_that_stand_still_before_their_first_task_are_found(monkeypatch) -> None:
    """As with a lock that was held when they were forked, or a file system that died."""
    monkeypatch.setattr(workers, "START_GRACE", 0.5)
    pool = WorkerPool(partial(steps), 1, 0.5, start_method="fork", initializer=stand_still)
    with closing(pool), pytest.raises(SnvideoError):
        list(pool.run([{}]))
