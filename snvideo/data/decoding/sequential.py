"""Decoding of all frames of a long video in order, with their times and the faults between them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError, InvalidDataError
from av.packet import Packet
from av.video.frame import VideoFrame

from snvideo.data.decoding import DecodeError
from snvideo.data.decoding.orientation import orientation, stored_size
from snvideo.data.decoding.pyav import main_stream, shown_picture
from snvideo.data.index import IndexRow, Video
from snvideo.data.unusable import Unusable
from snvideo.data.watchdog import report_progress

DAMAGED = "damaged packets or pictures"
UNTIMED = "frames without a time of their own"
JUMPS = "jumps of the time stamps"

_CAMERA = "v4l2"
"""FFmpeg's name of Video4Linux, which does not find it by the name of a device."""
_STDIN = "pipe:0"
_INDEX_AT_END = (
    "an MP4 whose index stands at its end, from which a pipe cannot go back: name the file itself, "
    "or send 'ffmpeg -i FILE -c copy -f matroska -'"
)
_BACK = 1
"""Seconds that a frame may be earlier than the one before, without the clock having been set."""
_AHEAD = 24 * 3600
"""Seconds without a frame from which on the clock has been set."""


class TimedFrame(NamedTuple):
    """A shown frame of a video."""

    seconds: Fraction  # from the first shown frame; ascending
    frame: VideoFrame  # as it is stored: `SequentialDecoder.picture` shows it
    faults: Counter[str]  # numbers of faults since the frame before, by their names


class Clock:
    """Ascending times of frames from their time stamps, in seconds from the first.

    A frame without a time stamp, or with one that is not after that of the frame before it, is put
    one frame after that, as in AVI files, whose times are not monotonic. Where time stamps begin
    anew (joined recordings, a counter that wraps) or leap ahead by a day, times go on from there.
    """

    def __init__(self, rate: float) -> None:
        self._gap = Fraction(1 / rate).limit_denominator(10**6) if rate > 0 else Fraction(1, 25)
        self._zero: Fraction | None = None
        self._latest: Fraction | None = None

    def time(self, stamp: Fraction | None) -> tuple[Fraction, str]:
        """Time of the next frame, and the fault that was mended for it, if any."""
        if self._zero is None and stamp is not None:
            self._zero = stamp - (0 if self._latest is None else self._latest + self._gap)
        time = None if stamp is None or self._zero is None else stamp - self._zero
        if self._latest is None:
            self._latest = Fraction(0)
            return self._latest, "" if stamp is not None else UNTIMED
        after, fault = self._latest + self._gap, ""
        if time is None:
            time, fault = after, UNTIMED
        elif not self._latest - _BACK <= time < self._latest + _AHEAD:
            assert stamp is not None
            self._zero, time, fault = stamp - after, after, JUMPS
        elif time <= self._latest:
            time, fault = after, UNTIMED
        self._latest = time
        return time, fault


class SequentialDecoder:
    """All shown frames of a video in one pass, in memory that does not grow with its length.

    The frames are those of `decode_frames`, in the same order, as far as that goes; behind damaged
    packets, where it ends, this one goes on.

    Args:
        source: address of a `Source` or a stream, `/dev/video0` and the like for a camera, or
            `-` for the standard input.
        timeout: seconds that opening it or reading a packet may take.

    Raises:
        DecodeError: if there is no video in it; the message is the reason.
    """

    def __init__(self, source: str, timeout: float) -> None:
        try:
            self._container: InputContainer = av.open(
                _STDIN if source == "-" else source,
                format=_CAMERA if source.startswith("/dev/video") else None,
                metadata_errors="ignore",
                timeout=timeout,
            )
        except InvalidDataError:
            raise DecodeError("no video header: not a video, or cut off before it") from None
        except (FFmpegError, OSError) as error:
            raise DecodeError(error.strerror or str(error)) from None
        except ValueError as error:  # no such format in this FFmpeg
            raise DecodeError(str(error)) from None
        try:
            self._stream = main_stream(self._container)
        except Unusable as error:
            self.close()
            raise DecodeError(str(error)) from None
        rates = (self._stream.average_rate, self._stream.guessed_rate)
        self.stated = [float(rate) for rate in rates if rate]
        """Frame rates that the header states, the best one first."""
        self.ending = ""
        """Why the video ended before the end that its header states; known when all is read."""
        self.faults: Counter[str] = Counter()
        """Faults behind the last frame."""
        self._video: Video | None = None
        self._packets = 0

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def __iter__(self) -> Iterator[TimedFrame]:
        clock = Clock(next(iter(self.stated), 0.0))
        for frame in self._frames():
            if self._video is None:
                self._video = self._video_of(frame)
            stamp = None
            if frame.pts is not None and frame.time_base:
                stamp = frame.pts * frame.time_base
            seconds, fault = clock.time(stamp)
            faults, self.faults = self.faults, Counter()
            if fault:
                faults[fault] += 1
            yield TimedFrame(seconds, frame, faults)

    def picture(self, frame: VideoFrame) -> np.ndarray:
        """Picture of a frame as it is shown, uint8 RGB (H, W, 3), of the size of the first."""
        assert self._video is not None
        return shown_picture(frame, self._video)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of upright frames, once there is one."""
        assert self._video is not None
        return self._video.height, self._video.width

    def _video_of(self, frame: VideoFrame) -> Video:
        number, _ = orientation(frame)
        width, height = stored_size(frame.width, frame.height, number)
        row = IndexRow(width=width, height=height, orientation=number)
        return Video.of(row, None)  # type: ignore[arg-type]  # nothing is opened by it

    def _frames(self) -> Iterator[VideoFrame]:
        for packet in self._demuxed():
            report_progress()
            if packet is not None:
                self._packets += packet.size > 0
                self.faults[DAMAGED] += bool(packet.is_corrupt)
            try:
                frames = self._stream.decode(packet)
            except EOFError:
                continue
            except (FFmpegError, OSError):  # this packet alone is lost
                self.faults[DAMAGED] += 1
                continue
            for frame in frames:
                if isinstance(frame, VideoFrame):
                    self.faults[DAMAGED] += bool(frame.is_corrupt)
                    yield frame
        stated = self._stream.frames
        if not self.ending and self._packets < stated:
            self.ending = f"the header states {stated} frames, the file holds {self._packets}"

    def _demuxed(self) -> Iterator[Packet | None]:
        """Packets of the video as far as they can be read, and an empty one or none at the end."""
        try:
            yield from self._container.demux(self._stream)
        except (FFmpegError, OSError) as error:
            self.ending = f"reading stopped: {error.strerror or error}"
            piped = self._container.name == _STDIN and not self._packets
            if piped and "mp4" in self._container.format.name:
                self.ending = f"reading stopped: {_INDEX_AT_END}"
            yield None
