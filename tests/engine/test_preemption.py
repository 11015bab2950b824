"""Being asked to stop."""

import os
import signal
import threading

import pytest

from snvideo.engine.preemption import preemption
from snvideo.errors import PreemptedError


def test_a_signal_asks_and_handlers_are_put_back():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with preemption() as asked:
        assert not asked.asked
        os.kill(os.getpid(), signal.SIGTERM)
        assert asked.asked
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_what_is_breakable_breaks_off():
    with preemption() as asked:
        with pytest.raises(PreemptedError), asked.breakable():
            os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)  # outside, nothing is torn apart
        with pytest.raises(PreemptedError), asked.breakable():
            pytest.fail("nothing begins that would be broken off at once")


def test_a_second_interrupt_means_now():
    with preemption() as asked, pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        assert asked.asked
        os.kill(os.getpid(), signal.SIGINT)


def test_other_threads_leave_handlers_alone():
    before, seen = signal.getsignal(signal.SIGTERM), []

    def inside() -> None:
        with preemption() as asked:
            seen.append((signal.getsignal(signal.SIGTERM), asked.asked))

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert seen == [(before, False)]
