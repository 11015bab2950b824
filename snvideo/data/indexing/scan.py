"""Counts and times of a video stream's packets and frames."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from snvideo.data.decoding.orientation import orientation
from snvideo.data.decoding.pyav import changes_decoder, is_key
from snvideo.data.indexing.bitstream import (
    may_have_fields,
    parameters,
    shows_nothing,
    stands_alone,
)
from snvideo.data.watchdog import watched


@dataclass
class StreamScan:
    """Counts and times of a video stream's packets and frames."""

    every_frame: bool  # decode all frames, not just the first
    packets: int = 0
    read: int = 0  # packets up to the first error
    dropped: int = 0  # packets flagged as corrupt or to be discarded
    corrupt: int = 0  # packets flagged so
    frames: int = 0  # decoded ones
    damaged: int = 0  # decoded frames that the decoder calls corrupt
    width: int = 0
    height: int = 0
    resized: bool = False  # some frame has another size than the first
    orientation: int = 1
    plain_matrix: bool = True  # the display matrix asks for nothing but the orientation
    error: Exception | None = None
    _packet_times: set[int] = field(default_factory=set)
    """Time stamps of packets that are not dropped, and of frames."""
    _frame_times: set[int] = field(default_factory=set)
    _discarded: list[int] = field(default_factory=list)  # times of packets to be discarded
    _key_times: list[int] = field(default_factory=list)
    _key_places: set[int | None] = field(default_factory=set)  # in the file, of key packets
    _parameters: set[bytes] = field(default_factory=set)  # that key packets bring
    _key_frames: set[int] = field(default_factory=set)  # times of frames that refer to no other
    _starts: list[int] = field(default_factory=list)  # what `starts` gives, by the table
    _latest: int | None = None  # time of the frame before
    _alike: bool = True
    """Groups are closed, no packet changes the decoder, frames are whole and their times ascend."""
    _independent: bool = True  # key packets are such by their content, too; no packet is hidden
    _reordered: bool = False  # some packet is shown at another time than it is decoded

    def scan(self, container: InputContainer, stream: VideoStream) -> None:
        """Read all packets, and decode frames up to the first error."""
        try:
            for packet in watched(container.demux(stream)):
                self._count(packet)
                if self.error is None and (self.every_frame or not self.frames):
                    self._decode(packet)
                    self.read = self.packets
        except (FFmpegError, OSError) as error:
            self.error = self.error or error
        if not self.every_frame:
            self.read = self.packets

    def _decode(self, packet: Packet) -> None:
        try:
            for frame in packet.decode():
                self._add(frame)
        except (FFmpegError, OSError) as error:
            self.error = error

    def scan_table(self, container: InputContainer, stream: VideoStream, size: int) -> bool:
        """Count packets from the table in an MP4 file's header, and decode the first frame alone.

        Packets beyond the file's `size` in bytes are not there. False if there is no table of all
        packets; then nothing was read.
        """
        entries = list(stream.index_entries or ())
        if not container.format.name.startswith("mov,") or not 0 < len(entries) == stream.frames:
            return False
        whole = [entry for entry in entries if entry.size and entry.pos + entry.size <= size]
        self.packets = self.read = len(whole)
        self.dropped = sum(entry.is_discard for entry in whole)
        self._packet_times = {entry.timestamp for entry in whole if not entry.is_discard}
        self._discarded = [entry.timestamp for entry in whole if entry.is_discard]
        keys = [number for number, entry in enumerate(whole) if entry.is_keyframe]
        self._starts = sorted({max(0, number - self.dropped) for number in keys})
        try:
            for frame in islice(container.decode(stream), 1):
                self._add(frame)
        except (FFmpegError, OSError) as error:
            self.error = error
        return True

    def _count(self, packet: Packet) -> None:
        if not packet.size:  # marks the end, or a frame that was dropped on recording
            return
        codec = packet.stream.codec_context.name
        self.packets += 1
        self.dropped += packet.is_discard or packet.is_corrupt
        self.corrupt += packet.is_corrupt
        if shows_nothing(packet, codec):
            self._independent = False
        if packet.is_keyframe:
            self._key_places.add(packet.pos)
            self._parameters.add(parameters(packet, codec))
            self._independent &= stands_alone(packet, codec)
        if packet.pts is None:
            return
        if packet.is_discard:
            self._discarded.append(packet.pts)
        elif not packet.is_corrupt:
            self._packet_times.add(packet.pts)
        self._reordered |= packet.pts != packet.dts
        if changes_decoder(packet) or (self._key_times and packet.pts < self._key_times[-1]):
            self._alike = False
        if packet.is_keyframe:
            self._key_times.append(packet.pts)

    def _add(self, frame: VideoFrame) -> None:
        if not self.frames:
            self.orientation, self.plain_matrix = orientation(frame)
            self.width, self.height = frame.width, frame.height
        self.resized |= (frame.width, frame.height) != (self.width, self.height)
        self.damaged += frame.is_corrupt
        if frame.pts is not None:
            self._frame_times.add(frame.pts)
            if is_key(frame):
                self._key_frames.add(frame.pts)
            if frame.is_corrupt or (self._latest is not None and frame.pts <= self._latest):
                self._alike = False
            self._latest = frame.pts
        self.frames += 1

    @property
    def shown(self) -> int:
        """Packets that are not dropped."""
        return self.packets - self.dropped

    @property
    def hidden(self) -> int:
        """Packets to be discarded, as an edit list asks, but for those after the last shown one."""
        last = max(self._packet_times, default=0)
        return sum(time < last for time in self._discarded)

    def part(self, container: InputContainer, stream: VideoStream) -> float:
        """Part of the packets, of those that are there and that the header states, up to the first
        error."""
        stated = [self.packets]
        if container.format.name.startswith("mov,"):
            stated.append(stream.frames)
        elif container.format.name == "avi" and self._packet_times:
            # It counts what was not recorded, too, as time stamps do.
            stated.append(self.packets * stream.frames // (1 + max(self._packet_times)))
        return self.read / max(1, *stated)

    def times(self) -> list[int]:
        """Times of packets that are shown, ascending."""
        return sorted(self._packet_times)

    def starts(self) -> list[int]:
        """Numbers of the first shown frames of the groups that begin with key packets."""
        times = self.times()
        found = np.searchsorted(times, self._key_times)
        return self._starts or np.unique(found[found < len(times)]).tolist()

    def is_seekable(self, stream: VideoStream) -> bool:
        """True if decoding from the key packet before the packet with the k-th time finds frame k.

        Not where packets are lost or no time tells them apart, nor where frames shown before a key
        frame follow it (open groups: usual in HEVC, possible in H.264).
        """
        keys = self._packet_times.intersection(self._key_times)
        return (
            self.error is None
            and not self.corrupt
            and all(time < min(self._packet_times) for time in self._discarded)
            and self._alike
            and len(self._packet_times) == self.shown
            and self.packets >= stream.frames
            and (not self.every_frame or self.frames == self.shown)
            # What a container calls a key frame is one, too, for the decoder.
            and (not self.every_frame or keys <= self._key_frames)
        )

    def table_agrees(self, container: InputContainer, stream: VideoStream) -> bool:
        """False if an MP4 file's table, which decord goes by, calls other packets key frames than
        a look into them does."""
        keys = {entry.pos for entry in stream.index_entries or () if entry.is_keyframe}
        return keys == self._key_places or not container.format.name.startswith("mov,")

    def is_plain(self, stream: VideoStream) -> bool:
        """True if packets tell that each is a frame and that groups are independent: by their
        times, the types of their key pictures, and parameters that never change."""
        decoder = stream.codec_context
        return (
            (self._reordered or not decoder.has_b_frames)
            and self._independent
            and len(self._parameters) < 2
            and not may_have_fields(decoder, *self._parameters or (b"",))
        )

    def fps(self, stream: VideoStream) -> tuple[float, bool]:
        """Shown frames a second, 0 if nothing tells; and false if their times are uneven.

        It is the stated rate, which is exact, if time stamps agree; else theirs.
        """
        times = self._frame_times if len(self._frame_times) > 1 else self._packet_times
        # Some files state their clock's ticks (1000 a second) for a rate, others nothing.
        stated = [float(rate) for rate in (stream.average_rate, stream.guessed_rate) if rate]
        return frame_rate(times, float(stream.time_base or 1), stated)


def frame_rate(times: Collection[int], tick: float, stated: Sequence[float]) -> tuple[float, bool]:
    """Frames a second of frames at certain times, 0 if nothing tells; and false if these are
    uneven.

    Args:
        times: of the frames, in ticks.
        tick: seconds.
        stated: rates that the file states, which are exact: the first that the times agree with.
    """
    if len(times) < 2:
        return next(iter(stated), 0.0), True
    number, ticks = _usual_gaps(times)
    # Off by 2 %, or by a single frame in short clips, is still the stated rate.
    fitting = (rate for rate in stated if _agree(number, ticks * tick * rate, 0.02))
    fps = next(fitting, number / (ticks * tick))
    return fps, _agree(len(times) - 1, (max(times) - min(times)) * tick * fps, 0.1)


def _agree(number: int, expected: float, part: float) -> bool:
    return abs(number - expected) <= max(1.01, part * number)


def _usual_gaps(times: Iterable[int]) -> tuple[int, int]:
    """Number and sum of the distances between times that are near their median.

    A jump or a pause among them makes no difference."""
    gaps = np.diff(np.sort(np.fromiter(times, np.int64)))
    median = np.sort(gaps)[(len(gaps) - 1) // 2]
    near = gaps[(gaps >= 0.5 * median) & (gaps <= 1.5 * median)]
    return len(near), int(near.sum())
