"""Streams: every frame that the reader keeps up with, counted drops where it does not."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from threading import Thread

import av
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


@contextmanager
def standard_input(path: Path) -> Iterator[None]:
    """The standard input, into which a thread sends a file."""
    reading, writing = os.pipe()

    def send() -> None:
        with suppress(BrokenPipeError), os.fdopen(writing, "wb") as pipe:
            pipe.write(path.read_bytes())

    Thread(target=send, daemon=True).start()
    before = os.dup(0)
    os.dup2(reading, 0)
    os.close(reading)
    try:
        yield
    finally:
        os.dup2(before, 0)
        os.close(before)


@pytest.mark.parametrize("name, moved", [("a.mp4", False), ("a.mp4", True), ("a.mkv", False)])
def test_an_mp4_in_a_pipe_is_read_or_told_what_to_do(tmp_path, name, moved):
    """Its index stands at the end, unless it was moved; a pipe cannot go back to its frames."""
    path = tmp_path / name
    options = {"movflags": "faststart"} if moved else {}
    pictures = np.random.default_rng(0).integers(0, 256, (40, 96, 128, 3), np.uint8)
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("libx264", 10, options={"crf": "1", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode(None))
    assert path.stat().st_size > 300_000  # more than FFmpeg keeps of a pipe
    with standard_input(path):
        decoder = SequentialDecoder("-", 10)
        count = sum(1 for _ in decoder)
        decoder.close()
    if name == "a.mp4" and not moved:
        assert count == 0 and "ffmpeg -i FILE -c copy -f matroska -" in decoder.ending
    else:
        assert (count, decoder.ending) == (40, "")


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
