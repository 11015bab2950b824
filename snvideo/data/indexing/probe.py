"""Probes of video files: shown frames, their rate and size, and the decoder that reads them right.

File headers are not to be believed: downloads are cut off, edit lists hide frames, AVI files count
packets that hold no frame. So packets are read, and frames decoded where packets do not tell.
"""

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
from av.container import InputContainer
from av.error import FFmpegError, InvalidDataError
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from snvideo.data.decoding.decord import decode_decord
from snvideo.data.decoding.orientation import TURNED, orientation, stored_size
from snvideo.data.decoding.pyav import (
    Unusable,
    changes_decoder,
    decode_pyav,
    is_key,
    is_shown,
    main_stream,
    open_video,
)
from snvideo.data.index import IndexRow, Video
from snvideo.data.indexing.trial import FRAMES, has_parameters, seeks_right
from snvideo.data.watchdog import watched
from snvideo.data.workers import WorkerPool, discard_output

Check = Literal["header", "packets", "decode"]

TOLERANCE = 1.0
"""Largest mean absolute difference of one frame from two decoders, in levels of 0 to 255.

8-bit 4:2:0 video is bit-equal, odd sizes differ by half a level, 10-bit by three or more."""

# Where a packet is a frame and decord can be trusted unseen. Elsewhere it may repeat or skip frames
# (MPEG-4 in AVI, MPEG-TS), have no decoder (AV1) or show other colours (10-bit).
_USUAL_CONTAINERS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")
_USUAL_CODECS = ("h264", "hevc", "vp9")  # not VP8, which has packets that show nothing
_USUAL_PIXELS = ("yuv420p", "yuvj420p")


def probe(path: Path, check: Check) -> IndexRow:
    """Probe one video file with a check of `stages`; bad files raise nothing.

    The decode check may crash or hang in native code: run it through `probe_all`.
    """
    *_, found = stages(path, check)
    return found


def probe_all(
    paths: Iterable[Path], check: Check, workers: int, timeout: float = 120.0
) -> Generator[IndexRow, None, None]:
    """Probe files by a check of `stages` in so many processes, results in the order of the paths.

    A file that gives no packet and no frame for `timeout` seconds is broken; one that PyAV had read
    before decord died is usable, by PyAV.
    """
    # A file that hangs holds up the order but not the work, as long as this many lie behind it.
    window = max(1000, 100 * workers)
    function = partial(stages, check=check)
    with closing(
        WorkerPool(function, workers, timeout, window=window, initializer=discard_output)
    ) as pool:
        for found, failure in pool.run(paths):
            if failure is not None:
                failure = failure.partition(":")[0]  # so that like cases have one reason
                if found is None:
                    found = IndexRow(status="broken", reason=f"decoder {failure}")
                else:
                    found = found._replace(reason=f"{found.reason}; decord {failure}".strip("; "))
            yield found


def stages(path: Path, check: Check) -> Iterator[IndexRow]:
    """Probe a file in steps, each result better than the one before; only the last runs decord.

    - `header`: counts packets by the table in an MP4 file's header, as far as the file is long
      enough to hold them, and decodes up to 300 frames; left to PyAV. Files without such a table
      are read as by `packets`.
    - `packets`: counts packets and decodes up to 300 frames, to try random access. Files whose
      packets may not be their frames (hidden, damaged or missing ones, AVI, MPEG-TS, AV1, 10-bit)
      are decoded with PyAV from start to end, and left to it.
    - `decode`: decodes with PyAV from start to end, then compares decord's frames at up to 12
      places. decord gets files that agree and are sound.
    """
    size = 0
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise Unusable("not a regular file")
        if size == 0:
            raise Unusable("empty file")
        found, doubtful = _read(path, check)
    except (FileNotFoundError, NotADirectoryError):
        yield IndexRow(status="missing", reason="no such file")
        return
    except Exception as error:  # whatever one file does, the others go on
        yield IndexRow(bytes=size, status="broken", reason=_short(error))
        return
    found = found._replace(bytes=size, seekable=int(found.seekable))
    yield found
    if doubtful and _decord_agrees(Video.of(found, path)):
        yield found._replace(decoder="decord")


def _short(error: Exception) -> str:
    """An error in one line without paths: FFmpeg's and the system's messages append them."""
    if isinstance(error, Unusable):
        return str(error)
    if isinstance(error, (FFmpegError, OSError)) and error.strerror:
        return error.strerror
    return f"unexpected {type(error).__name__}"


def _read(path: Path, check: Check) -> tuple[IndexRow, bool]:
    """Probe without running decord; true if its frames are to be compared with PyAV's."""
    try:
        container = open_video(path)
    except InvalidDataError:
        raise Unusable("no video header: not a video, or cut off before it") from None
    with container:
        stream = main_stream(container)
        scan = _StreamScan(every_frame=check == "decode")
        if check == "header":
            if not scan.read_table(container, stream, path.stat().st_size):
                return _read(path, "packets")
            found = _probe_of(scan, stream)
            usual = _is_usual(container, stream, scan)
            trial = usual and seeks_right(Video.of(found, path), scan.starts(), FRAMES)
            return found._replace(seekable=trial), False
        scan.read(container, stream)
        found = _probe_of(scan, stream)
        usual = _is_usual(container, stream, scan) and scan.is_plain(stream)
        seekable = (scan.every_frame or usual) and scan.is_seekable(stream)
        if seekable:
            limit = found.frames if scan.every_frame else FRAMES
            seekable = seeks_right(Video.of(found, path), scan.starts(), limit)
        # decord seeks to the key packet before the one asked for and counts on from that packet's
        # place in the file, which goes wrong where hidden packets are dropped on decoding.
        sound = seekable and not scan.dropped and scan.table_agrees(container, stream)
        if check == "decode":
            return found._replace(seekable=seekable), sound
        # decord divides a row, padded to 32 pixels, by the width and finds four channels or more in
        # very narrow frames (24, 48, 72 pixels).
        wide = -(-found.width // 32) * 32 * 3 // found.width == 3
        # It turns pictures, but does not mirror them.
        turned = scan.orientation in TURNED and scan.plain_matrix
        if usual and not scan.hidden and sound and wide and turned:
            return found._replace(seekable=True, decoder="decord"), False
    return _read(path, "decode")[0], False


@dataclass
class _StreamScan:
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
    orientation: int = 1
    plain_matrix: bool = True  # the display matrix asks for nothing but the orientation
    pixels: str = ""
    error: Exception | None = None
    _packet_times: set[int] = field(default_factory=set)
    """Time stamps of packets, and of frames: those that are shown."""
    _frame_times: set[int] = field(default_factory=set)
    _key_times: list[int] = field(default_factory=list)
    _key_places: set[int | None] = field(default_factory=set)  # in the file, of key packets
    _parameters: set[bool] = field(default_factory=set)  # whether key packets bring some
    _key_frames: set[int] = field(default_factory=set)  # times of frames that refer to no other
    _starts: list[int] = field(default_factory=list)  # what `starts` gives, by the table
    _latest: int | None = None  # time of the frame before
    _alike: bool = True
    """Groups are closed, no packet changes the decoder, frames are whole and their times ascend."""
    _reordered: bool = False  # some packet is shown at another time than it is decoded

    def read(self, container: InputContainer, stream: VideoStream) -> None:
        """Read all packets and decode frames, up to the first error."""
        try:
            for packet in watched(container.demux(stream)):
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
        keys = [number for number, entry in enumerate(whole) if entry.is_keyframe]
        self._starts = sorted({max(0, number - self.hidden) for number in keys})
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
        if packet.is_keyframe:
            self._key_places.add(packet.pos)
            self._parameters.add(has_parameters(packet, packet.stream.codec_context.name))
        if packet.pts is not None:
            if not dropped and not hidden:
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
            self.pixels = frame.format.name
        elif (frame.width, frame.height) != (self.width, self.height):
            raise Unusable("frames of different sizes")
        if frame.pts is not None:
            self._frame_times.add(frame.pts)
            if is_key(frame):
                self._key_frames.add(frame.pts)
            if frame.is_corrupt or (self._latest is not None and frame.pts <= self._latest):
                self._alike = False
            self._latest = frame.pts
        self.frames += 1

    def starts(self) -> list[int]:
        """Numbers of the first shown frames of the groups that begin with key packets."""
        times = sorted(self._packet_times)
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
            and not self.lost
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
        """False where frames are reordered but packets bear no other times than of decoding, or
        some key packets bring parameter sets and others do not."""
        reordered = bool(stream.codec_context.has_b_frames)
        return (self._reordered or not reordered) and len(self._parameters) < 2

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


def _is_usual(container: InputContainer, stream: VideoStream, scan: "_StreamScan") -> bool:
    return (
        container.format.name in _USUAL_CONTAINERS
        and stream.codec_context.name in _USUAL_CODECS
        and scan.pixels in _USUAL_PIXELS
    )


def _probe_of(scan: "_StreamScan", stream: VideoStream) -> IndexRow:
    """Raises `Unusable` if no frame is shown, or decoding fails before half of the packets."""
    if not scan.frames:
        detail = f": {_short(scan.error)}" if scan.error else ""
        raise Unusable(("no frame can be decoded" if scan.packets else "no frames") + detail)
    if scan.error is not None and scan.every_frame and 2 * scan.frames < scan.shown:
        # What the label says may be in the part that is lost.
        raise Unusable(f"decoding fails early: {_short(scan.error)}")
    fps = scan.fps(stream)
    if not fps:
        raise Unusable("no frame rate")
    remarks = []
    if scan.error is not None:
        remarks.append("decoding stops early")
    elif not scan.hidden and scan.packets < stream.frames:
        remarks.append("fewer frames than its header states")
    if not scan.plain_matrix:
        remarks.append("display matrix is no quarter turn or mirror: the nearest is taken")
    frames = scan.frames if scan.every_frame else scan.shown
    width, height = stored_size(scan.width, scan.height, scan.orientation)
    return IndexRow(
        first_frame=scan.hidden,
        frames=frames,
        fps=round(fps, 4),  # the frames of a clip depend on this rounding
        width=width,
        height=height,
        orientation=scan.orientation,
        seconds=round(frames / fps, 3),
        reason="; ".join(remarks),
    )


def _decord_agrees(video: Video) -> bool:
    """True if decord shows the same frames as PyAV under the same numbers."""
    numbers = np.unique(np.linspace(0, video.frames - 1, 12).round().astype(np.int64))
    try:
        shown, expected = (
            decode(video, numbers, np.asarray)[0] for decode in (decode_decord, decode_pyav)
        )
    except Exception:  # decord raises kinds of its own, and is not installed everywhere
        return False
    return len(shown) == len(expected) and all(
        one.shape == other.shape and np.abs(one.astype(np.int16) - other).mean() <= TOLERANCE
        for one, other in zip(shown, expected, strict=True)
    )
