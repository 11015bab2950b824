"""Streams: every frame that the reader keeps up with, counted drops where it does not."""

import os
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from snvideo.data.decoding.live import DROPPED, LiveDecoder, is_stream
from snvideo.data.decoding.sequential import SequentialDecoder
from tests.data.videos import write_video


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    """200 frames at 25 a second."""
    return write_video(tmp_path_factory.mktemp("live") / "a.ts", 200)


def wait_until(condition) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_frames_that_can_wait_are_all_there(video):
    expected = list(SequentialDecoder(str(video), 10))
    found = list(LiveDecoder(str(video), 10, delay=100.0))
    assert [one.seconds for one in found] == [one.seconds for one in expected]
    for one, other in zip(found[::40], expected[::40], strict=True):
        np.testing.assert_array_equal(one.frame.to_ndarray(), other.frame.to_ndarray())
    assert not any(one.faults[DROPPED] for one in found)


def test_others_are_dropped_and_counted(video):
    decoder = LiveDecoder(str(video), 10, delay=1.0)
    frames = iter(decoder)
    taken = [next(frames)]
    wait_until(lambda: decoder._finished)  # which no slow reader holds up
    assert 25 <= len(decoder._waiting) <= 27
    taken += frames
    dropped = sum(one.faults[DROPPED] for one in taken) + decoder.faults[DROPPED]
    assert len(taken) + dropped == 200 and dropped >= 172
    assert all(a.seconds < b.seconds for a, b in pairwise(taken))


def test_a_stream_can_be_ended(video):
    decoder = LiveDecoder(str(video), 10, delay=1.0)
    frames = iter(decoder)
    next(frames)
    wait_until(lambda: len(decoder._waiting) >= 10)
    decoder.stop()
    assert 10 <= len(list(frames)) <= 27


def test_what_is_a_stream():
    assert all(map(is_stream, ("-", "rtsp://host:554/a", "HTTP://host/a.ts", os.devnull)))
    assert not any(map(is_stream, ("a.mp4", "/dev", "C:a.mp4", "a:b.mp4", "-a.mp4", "//a", "x:/y")))
