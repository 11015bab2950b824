"""Frames of streams and cameras, of which some are dropped rather than all of them held."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path
from threading import Condition, Thread

from snvideo.data.decoding.sequential import SequentialDecoder, TimedFrame
from snvideo.data.remote import is_object, is_url

DROPPED = "frames dropped, which came too fast"

_MOST = 1000
"""Most frames that wait, whatever their times are."""


def is_stream(source: str) -> bool:
    """True for `-` (the standard input), an address such as `rtsp://host/path`, but for those of
    object stores (`s3://...`), or a camera, as `/dev/video0`."""
    address = is_url(source) and not is_object(source)
    return source == "-" or address or is_camera(source)


def is_camera(source: str) -> bool:
    """True for a device file."""
    return source.startswith("/dev/") and Path(source).is_char_device()


class LiveDecoder(SequentialDecoder):
    """Frames of a source that does not wait: it is read by a thread, and of the frames that it has
    decoded those of `delay` seconds wait at most.

    While as many wait, new ones are dropped, and their number is among the faults of the frame that
    comes after them.

    Args:
        source, timeout: as of `SequentialDecoder`; a packet that does not come in this time ends
            the stream.
        delay: seconds.
    """

    def __init__(self, source: str, timeout: float, delay: float) -> None:
        super().__init__(source, timeout)
        self._delay = delay
        self._waiting: deque[TimedFrame] = deque()
        self._changed = Condition()
        self._stopped = self._finished = False
        self._failure: BaseException | None = None

    def stop(self) -> None:
        """End the stream here: what waits is the last that comes."""
        self._stopped = True

    def close(self) -> None:
        """Stop reading; the source is closed by the thread that reads it."""
        self._stopped = True

    def __iter__(self) -> Iterator[TimedFrame]:
        Thread(target=self._read, name="reader of a stream", daemon=True).start()
        while True:
            with self._changed:
                # With a limit, as a thread that waits without one gets no signal.
                while not self._waiting and not self._finished and not self._stopped:
                    self._changed.wait(0.2)
                if not self._waiting:
                    break
                timed = self._waiting.popleft()
            yield timed
        if self._failure is not None:
            raise self._failure

    def _read(self) -> None:
        dropped: Counter[str] = Counter()
        try:
            for timed in super().__iter__():
                if self._stopped:
                    break
                with self._changed:
                    if self._is_full(timed):
                        dropped += timed.faults
                        dropped[DROPPED] += 1
                        continue
                    self._waiting.append(timed._replace(faults=timed.faults + dropped))
                    dropped = Counter()
                    self._changed.notify()
        except Exception as error:  # raised again where frames are taken
            self._failure = error
        finally:
            super().close()
            with self._changed:
                self.faults += dropped
                self._finished = True
                self._changed.notify()

    def _is_full(self, timed: TimedFrame) -> bool:
        if not self._waiting:
            return False
        held = timed.seconds - self._waiting[0].seconds
        return held > self._delay or len(self._waiting) >= _MOST
