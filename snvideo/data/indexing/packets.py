"""Scan of a video stream: counts and times of its packets and frames."""

from dataclasses import dataclass, field
from fractions import Fraction
from itertools import islice

from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from snvideo.data.decoding.pyav import Unusable, is_shown


@dataclass
class StreamScan:
    """Counts and times of a video stream's packets and frames."""

    every_frame: bool  # decode all frames, not just the first
    packets: int = 0
    hidden: int = 0  # packets before time 0
    dropped: int = 0  # packets flagged as corrupt or to be discarded, be they hidden or not
    lost: int = 0  # packets dropped but not hidden, and hidden ones that are corrupt
    shown: int = 0  # packets neither hidden nor dropped
    frames: int = 0  # frames decoded that are shown
    width: int = 0
    height: int = 0
    rotation: int = 0
    pixels: str = ""
    error: Exception | None = None
    _packet_times: set[int] = field(default_factory=set)
    """Time stamps of packets, and of frames: those that are shown."""
    _frame_times: set[int] = field(default_factory=set)
    _key_time: int | None = None
    _closed: bool = True

    def read(self, container: InputContainer, stream: VideoStream) -> None:
        """Read all packets and decode frames, up to the first error."""
        try:
            for packet in container.demux(stream):
                self._count(packet)
                if self.every_frame or not self.frames:
                    for frame in filter(is_shown, packet.decode()):
                        self._add(frame)
        except (FFmpegError, OSError) as error:
            self.error = error

    def read_table(self, container: InputContainer, stream: VideoStream, size: int) -> bool:
        """Count packets from the table in an MP4 file's header, and decode the first frame alone.

        Packets beyond the file's `size` in bytes are not there. False if there is no table of all
        packets; then nothing was read.
        """
        entries = list(stream.index_entries or ())
        if not container.format.name.startswith("mov,") or not 0 < len(entries) == stream.frames:
            return False
        whole = [entry for entry in entries if entry.pos + entry.size <= size]
        self.packets = len(whole)
        self.hidden = sum(entry.is_discard for entry in whole)
        self.shown = self.packets - self.hidden
        try:
            for frame in islice(filter(is_shown, container.decode(stream)), 1):
                self._add(frame)
        except (FFmpegError, OSError) as error:
            self.error = error
        return True

    def _count(self, packet: Packet) -> None:
        if not packet.size:  # marks the end
            return
        self.packets += 1
        dropped = packet.is_discard or packet.is_corrupt
        hidden = packet.pts is not None and packet.pts < 0
        self.dropped += dropped
        self.lost += packet.is_corrupt or (packet.is_discard and not hidden)
        self.hidden += hidden
        self.shown += not dropped and not hidden
        if packet.pts is not None:
            if not dropped and not hidden:
                self._packet_times.add(packet.pts)
            if self._key_time is not None and packet.pts < self._key_time:
                self._closed = False
            if packet.is_keyframe:
                self._key_time = packet.pts

    def _add(self, frame: VideoFrame) -> None:
        if not self.frames:
            self.rotation = round(frame.rotation / 90) * 90 % 360
            self.width, self.height = frame.width, frame.height
            self.pixels = frame.format.name
        elif (frame.width, frame.height) != (self.width, self.height):
            raise Unusable("frames of different sizes")
        if frame.pts is not None:
            self._frame_times.add(frame.pts)
        self.frames += 1

    def is_seekable(self, stream: VideoStream) -> bool:
        """True if decoding from the key packet before the packet with the k-th time finds frame k.

        Not where packets are lost or no time tells them apart, nor where frames shown before a key
        frame follow it (open groups: usual in HEVC, possible in H.264).
        """
        return (
            self.error is None
            and not self.lost
            and self._closed
            and len(self._packet_times) == self.shown
            and self.packets >= stream.frames
            and (not self.every_frame or self.frames == self.shown)
        )

    def fps(self, stream: VideoStream) -> float:
        """Shown frames a second: as stated, which is exact, if time stamps agree; else theirs."""
        # Some files state their clock's ticks (1000 a second) for a rate, others nothing.
        times = [t for t in (self._frame_times, self._packet_times) if len(t) > 1]
        tick = stream.time_base or Fraction(1)
        spans = [(len(t) - 1, float((max(t) - min(t)) * tick)) for t in times]
        for stated in (stream.average_rate, stream.guessed_rate):
            # Off by 2 %, or by a single frame in short clips, is still that rate.
            if stated and (
                not spans
                or any(abs(seconds * stated - n) <= max(1.01, 0.02 * n) for n, seconds in spans)
            ):
                return float(stated)
        return spans[0][0] / spans[0][1] if spans else 0.0
