"""Functions in processes that may die: order, and what each kind of death costs."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from snvideo.data.workers import Outcome, run_all


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
        case "no JSON":
            yield object()


def outcomes(items: list[dict], workers: int = 2, **more) -> list[Outcome]:
    return list(run_all(f"{__name__}:steps", items, workers, **more))


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
    found = outcomes([hang, {}, {}], workers=1, limit=0.5)
    assert found == [Outcome(None, "hangs"), Outcome(0), Outcome(0)]
    assert trials.read_text() == "x"
    assert time.monotonic() - begun < 10


def test_the_limit_is_for_one_answer_not_for_all() -> None:
    function = f"{__name__}:slowly"
    assert list(run_all(function, [4], 1, 0.5)) == [Outcome(3)]


def slowly(item: int) -> Iterator[int]:
    for number in range(item):
        time.sleep(0.2)
        yield number


def test_an_exception_is_told_in_one_line_and_the_process_goes_on(tmp_path: Path) -> None:
    trials = tmp_path / "trials"
    items = [{"end": "raise", "trials": str(trials)}, {"end": "no JSON"}, {}]
    first, second, third = outcomes(items, workers=1)
    assert first == Outcome(0, "raised ValueError: no such colour")
    assert second.answer == 0 and second.failure.startswith("raised TypeError: ")
    assert third == Outcome(0)
    assert trials.read_text() == "x"


def test_a_function_that_does_not_exist_is_an_error(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError, match="math:nothing could not start"):
        list(run_all("math:nothing", [1], 1))
    assert "has no attribute 'nothing'" in capfd.readouterr().err


def test_a_caller_that_stops_leaves_no_process() -> None:
    running = run_all(f"{__name__}:pid_then_hang", [{}, {}], 1, 60)
    first = next(running).answer
    running.close()
    with pytest.raises(ProcessLookupError):
        os.kill(first, 0)


def pid_then_hang(item: dict) -> Iterator[int]:
    yield os.getpid()
