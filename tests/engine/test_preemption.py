"""Requests to stop."""

import os
import signal

import pytest

from snvideo.engine.preemption import preemption
from snvideo.errors import PreemptedError


def test_a_signal_requests_a_stop_and_handlers_are_put_back():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with preemption() as stop:
        assert not stop.requested
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_an_interruptible_block_is_interrupted():
    with preemption() as stop:
        with pytest.raises(PreemptedError), stop.interruptible():
            os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)  # outside of one, nothing is raised
        with pytest.raises(PreemptedError), stop.interruptible():
            pytest.fail("the block has begun after a request to stop")


def test_a_second_interrupt_means_now():
    with preemption() as stop, pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested
        os.kill(os.getpid(), signal.SIGINT)
