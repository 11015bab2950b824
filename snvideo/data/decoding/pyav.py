"""Decoding of frames by number with PyAV, leaving out frames that are not needed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Any

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import PictureType, VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from snvideo.data.decoding.orientation import stored_size, upright
from snvideo.data.source import Source
from snvideo.data.unusable import Unusable
from snvideo.data.watchdog import watched

if TYPE_CHECKING:
    from pathlib import Path

    from snvideo.data.index import Video


class NotAsIndexed(Exception):
    """A file whose packets or frames are not what `seekable` promises."""


def open_video(video: Source | Path) -> InputContainer:
    """Open a video with PyAV, even if its titles are in another encoding than UTF-8."""
    return av.open(Source.of(video).address(), metadata_errors="ignore")


def main_stream(container: InputContainer) -> VideoStream:
    """The video stream that FFmpeg chooses, and decord with it, for one thread; or `Unusable`."""
    if container.format.name.endswith("_pipe"):  # FFmpeg's readers of PNG, JPEG, ...
        raise Unusable("a picture, not a video")
    stream = container.streams.best("video")
    if not isinstance(stream, VideoStream) or stream.disposition & Disposition.attached_pic:
        others = sorted({other.type for other in container.streams} - {"video"})
        raise Unusable(f"no video stream, only {' and '.join(others) or 'a cover picture'}")
    if stream.codec_context is None:
        raise Unusable("no decoder for its codec")
    stream.codec_context.thread_count = 1  # worker processes are the parallelism
    return stream


_FAR = 4 << 20  # bytes that are not read on the way to a frame


class _Converter(threading.local):
    """Conversion to RGB. A new one for each frame, with threads for all cores, as `to_ndarray`
    makes by itself, takes five times as long."""

    def __init__(self) -> None:
        self.rgb = VideoReformatter()


_converter = _Converter()


def shown_picture(frame: VideoFrame, video: Video) -> np.ndarray:
    """Picture of a frame as it is shown, uint8 RGB (H, W, 3)."""
    # The size of some videos changes on the way; all pictures get that of the first.
    width, height = stored_size(video.width, video.height, video.orientation)
    picture = _converter.rgb.reformat(frame, width, height, "rgb24", threads=1).to_ndarray()
    return np.ascontiguousarray(upright(picture, video.orientation))  # torch takes no other


def changes_decoder(packet: Packet) -> bool:
    """True if a packet brings parameters or a palette, which later ones need, too."""
    kinds = ("new_extradata", "param_change", "palette")
    # Most packets have none at all, and asking for one by its kind takes ten times as long.
    return any(data.data_type in kinds for data in packet.iter_sidedata())


def is_key(frame: VideoFrame) -> bool:
    """True if a decoder takes a frame for one that refers to no other.

    Containers flag more: pictures that begin a gradual refresh, and some by mistake."""
    return frame.key_frame and frame.pict_type in (PictureType.I, PictureType.NONE)


def decode_pyav(
    video: Video, wanted: np.ndarray, transform: Callable[[np.ndarray], np.ndarray]
) -> tuple[list[np.ndarray], int]:
    """Decode shown frames of a video in one pass over its packets.

    If it is `seekable`, only groups of pictures that hold wanted frames are decoded, and of these
    no frame that neither is wanted nor has others depend on it; otherwise all up to the last one.

    Args:
        video: a row of an index.
        wanted: numbers of frames, int64 and ascending.
        transform: of every wanted frame as it comes, upright, uint8 RGB (H, W, 3).

    Returns:
        What it made of the `wanted` frames, as many as there are; and how many shown frames were
        counted on the way to the last of them.
    """
    # A file that was damaged or replaced since it was indexed needs no trust to count its frames.
    with suppress(NotAsIndexed, FFmpegError):
        if video.seekable:
            return [transform(picture) for picture in from_key_frames(video, wanted)], 0
    frames: list[np.ndarray] = []
    counted = 0
    with open_video(video.source) as container:
        shown = watched(container.decode(main_stream(container)))
        # Frames are counted, not found by their times: those of AVI files are not monotonic.
        for counted, frame in enumerate(islice(shown, int(wanted[-1]) + 1), 1):
            if counted - 1 == wanted[len(frames)]:
                frames.append(transform(shown_picture(frame, video)))
    return frames, counted


def ordered_frames(video: Video, wanted: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Times and frames, which are as `from_key_frames` gives them, by decoding from the start;
    `NotAsIndexed` if one is damaged, or times do not ascend, so that they tell no frame."""
    with open_video(video.source) as container:
        shown = watched(container.decode(main_stream(container)))
        in_order = _ascending(islice(shown, int(wanted[-1]) + 1))
        for number, frame in enumerate(in_order):
            if number in wanted:
                yield frame.pts or 0, shown_picture(frame, video)


def _ascending(frames: Iterable[VideoFrame]) -> Iterator[VideoFrame]:
    latest = None
    for frame in frames:
        if frame.is_corrupt or frame.pts is None or (latest is not None and frame.pts <= latest):
            raise NotAsIndexed
        latest = frame.pts
        yield frame


def from_key_frames(video: Video, wanted: np.ndarray) -> Iterator[np.ndarray]:
    """Frames found by their packets' times; `NotAsIndexed` where that shows to fail."""
    first, latest = 0, None  # number of the group's first shown frame; latest time before it
    with open_video(video.source) as container:
        stream = main_stream(container)
        table = _packet_table(container, stream, video)
        groups = _groups(container, stream)
        while first <= wanted[-1]:
            far = _far_group(table, first, int(wanted[np.searchsorted(wanted, first)]))
            if far:
                # FFmpeg takes the time for that of showing; the table has those of decoding.
                delay = (stream.start_time or 0) - table[0].timestamp
                container.seek(table[far].timestamp + delay, stream=stream)
                first, latest, groups = far, None, _groups(container, stream)
            group = next(groups, None)
            if group is None or (far and group[0][1].pos != table[far].pos):
                raise NotAsIndexed  # it ends early, or its table is wrong
            times = sorted(time for time, _ in group)
            closed = group[0][1].is_keyframe and group[0][0] == times[0]
            if not closed or (latest is not None and times[0] <= latest):
                raise NotAsIndexed
            latest = times[-1]
            shown = sorted(time for time, packet in group if not packet.is_discard)
            here = wanted[np.searchsorted(wanted, first) :] - first
            here = here[: np.searchsorted(here, len(shown))]
            first += len(shown)
            if len(here):
                yield from _decode_group(stream, group, [shown[number] for number in here], video)


def _packet_table(container: InputContainer, stream: VideoStream, video: Video) -> Any:
    """Table of all packets in an MP4 file's header, if each is a shown frame; else nothing."""
    table = stream.index_entries or ()
    is_mp4 = container.format.name.startswith("mov,")
    return table if is_mp4 and len(table) == video.frames and not video.first_frame else ()


def _far_group(table: Any, first: int, number: int) -> int:
    """Place in the table of the key packet before a frame that is worth a seek; 0 if none is."""
    if number >= len(table) or table[number].pos - table[first].pos < _FAR:
        return 0
    while not table[number].is_keyframe:  # groups are closed: it has as many frames before it
        number -= 1
    return number if number > first else 0


def _groups(container: InputContainer, stream: VideoStream) -> Iterator[list[tuple[int, Packet]]]:
    """Times and packets from one key frame to the next, in the order of decoding."""
    group: list[tuple[int, Packet]] = []
    earliest = None  # time of a shown frame
    for packet in watched(container.demux(stream)):
        if not packet.size:  # marks the end
            continue
        if packet.pts is None or packet.is_corrupt or changes_decoder(packet):
            raise NotAsIndexed
        if packet.is_discard:  # before all that is shown, or frames cannot be told by their packets
            if earliest is not None and packet.pts > earliest:
                raise NotAsIndexed
        elif earliest is None or packet.pts < earliest:
            earliest = packet.pts
        if packet.is_keyframe and group:
            yield group
            group = []
        group.append((packet.pts, packet))
    if group:
        yield group


def _decode_group(
    stream: VideoStream, group: list[tuple[int, Packet]], times: Sequence[int], video: Video
) -> Iterator[np.ndarray]:
    """Frames of a group of packets at certain times, ascending."""
    decoder, wanted = stream.codec_context, set(times)
    last = max(number for number, (time, _) in enumerate(group) if time in wanted)

    def decoded() -> Iterator[VideoFrame]:
        for time, packet in watched(group[: last + 1]):
            # Frames that no other refers to are not decoded unless they are wanted.
            decoder.skip_frame = "DEFAULT" if time in wanted else "NONREF"
            yield from decoder.decode(packet)
        yield from decoder.decode(None)  # frames held back for reordering

    begun = group[0][1].is_discard  # then its frame does not come out
    for frame in _ascending(decoded()):
        begun = begun or (frame.pts == group[0][0] and is_key(frame))
        if not begun:
            raise NotAsIndexed
        if frame.pts in wanted:
            wanted.remove(frame.pts)
            yield shown_picture(frame, video)
    decoder.flush_buffers()
    if wanted:
        raise NotAsIndexed
