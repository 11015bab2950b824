"""What reading a video stream from start to end shows about it."""

from dataclasses import dataclass, field

from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from snvideo.data.decoding.pyav import is_shown

TABLED = ("mov,mp4,m4a,3gp,3g2,mj2",)
"""Containers whose header tells where each packet lies."""


class Unusable(Exception):
    """A file that gives no video; the message is the reason, in a few words and without paths."""


@dataclass
class Track:
    """What reading a stream shows, counted on the way."""

    every_frame: bool
    packets: int = 0
    hidden: int = 0
    """Packets before time 0."""
    dropped: int = 0
    """Packets flagged as corrupt or to be discarded, be they hidden or not."""
    lost: int = 0
    """Packets dropped but not hidden, and hidden ones that are corrupt."""
    shown: int = 0
    """Packets neither hidden nor dropped."""
    frames: int = 0
    """Frames decoded that are shown."""
    width: int = 0
    height: int = 0
    rotation: int = 0
    pixels: str = ""
    encrypted: bool = False
    error: Exception | None = None
    samples: dict[int, VideoFrame] = field(default_factory=dict)
    """Frames at even distances, and the last one."""
    _spacing: int = 1
    _packet_times: set[int] = field(default_factory=set)
    """Time stamps of packets, and of frames: those that are shown."""
    _frame_times: set[int] = field(default_factory=set)
    _key_time: int | None = None
    _closed: bool = True

    def read(self, container: InputContainer, stream: VideoStream) -> None:
        """Reads all packets, and decodes up to the first frame shown or, if asked to, all frames.

        Stops at the first error, as whoever decodes the video will.
        """
        self.encrypted = any(key.lower() == "enc_key_id" for key in stream.metadata)
        last: VideoFrame | None = None
        try:
            for packet in container.demux(stream):
                self._count(packet)
                if self.every_frame or not self.frames:
                    for frame in packet.decode():
                        if is_shown(frame):
                            last = frame
                            self._add(frame)
        except (FFmpegError, OSError) as error:
            self.error = error
        if last is not None:
            self.samples[self.frames - 1] = last

    def read_table(self, container: InputContainer, stream: VideoStream, size: int) -> bool:
        """Counts packets from the table in an MP4 file's header, and decodes the first frame alone.

        Args:
            container, stream: of the file.
            size: of the file in bytes: packets beyond it are not there.

        Returns:
            whether there is a table of all packets; else nothing was read.
        """
        entries = list(stream.index_entries or ())
        if container.format.name not in TABLED or not entries or len(entries) != stream.frames:
            return False
        self.encrypted = any(key.lower() == "enc_key_id" for key in stream.metadata)
        whole = [entry for entry in entries if entry.pos + entry.size <= size]
        self.packets = len(whole)
        self.hidden = sum(entry.is_discard for entry in whole)
        self.shown = self.packets - self.hidden
        try:
            for frame in container.decode(stream):
                if is_shown(frame):
                    self._add(frame)
                    break
        except (FFmpegError, OSError) as error:
            self.error = error
        return True

    def _count(self, packet: Packet) -> None:
        if not packet.size:  # marks the end
            return
        self.packets += 1
        self.encrypted = self.encrypted or packet.has_sidedata("encryption_info")
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
        if self.frames % self._spacing == 0:
            self.samples[self.frames] = frame
            if len(self.samples) > 16:  # twice as far apart, so that any length leaves 9 to 17
                self._spacing *= 2
                self.samples = {k: v for k, v in self.samples.items() if k % self._spacing == 0}
        if frame.pts is not None:
            self._frame_times.add(frame.pts)
        self.frames += 1

    def is_sound(self, stream: VideoStream) -> bool:
        """Whether decord's numbers can mean the same frames wherever it starts to decode.

        It seeks to the key packet before the one asked for and counts on from that packet's place
        in the file, which goes wrong where hidden packets are dropped on decoding.
        """
        return self.is_seekable(stream) and not self.dropped

    def is_seekable(self, stream: VideoStream) -> bool:
        """Whether shown frame k is that of the packet with the k-th time, found by decoding from
        the key packet before it.

        Not where packets are lost or no time tells them apart, nor where pictures shown before a
        key picture follow it (open groups: usual in HEVC, possible in H.264).
        """
        return (
            self.error is None
            and not self.lost
            and self._closed
            and len(self._packet_times) == self.shown
            and self.packets >= stream.frames
            and (not self.every_frame or self.frames == self.shown)
        )

    def why_nothing(self) -> str:
        """Why no frame is shown."""
        if self.encrypted:
            return "encrypted"
        return "no frame can be decoded" if self.packets else "no frames"

    def fps(self, stream: VideoStream) -> float:
        """The stated rate, which is exact, where time stamps bear it out; else what they say.

        Some files state their clock's ticks (1000 a second) for a rate, others nothing.
        """
        times = [t for t in (self._frame_times, self._packet_times) if len(t) > 1]
        spans = [(len(t) - 1, float((max(t) - min(t)) * stream.time_base)) for t in times]
        for stated in (stream.average_rate, stream.guessed_rate):
            # Off by 2 %, or by a single frame in short clips, is still that rate.
            if stated and (
                not spans
                or any(abs(seconds * stated - n) <= max(1.01, 0.02 * n) for n, seconds in spans)
            ):
                return float(stated)
        return spans[0][0] / spans[0][1] if spans else 0.0
