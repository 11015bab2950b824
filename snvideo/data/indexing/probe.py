"""What one video file really holds: its shown frames, their rate and size, and whom to decode with.

File headers are not to be believed: downloads are cut off, edit lists hide frames, AVI files count
packets that hold no picture. So the packets are read, and the frames decoded where packets lie.
"""

from collections.abc import Iterable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from av.container import InputContainer
from av.error import FFmpegError, InvalidDataError
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from snvideo.data.decoding.pyav import open_video
from snvideo.data.index import IndexRow
from snvideo.data.indexing.packets import Track, Unusable
from snvideo.data.workers import Outcome, WorkerPool, discard_output

Check = Literal["header", "packets", "decode"]

TOLERANCE = 1.0
"""Largest mean absolute difference, in levels of 0 to 255, at which two decoders show one frame.

Sound 8-bit 4:2:0 video is bit-equal, odd sizes differ by half a level, 10-bit by three or more."""

# Where a packet is a frame and decord can be trusted unseen. Elsewhere it may repeat or skip frames
# (MPEG-4 in AVI, MPEG-TS), have no decoder (AV1) or show other colours (10-bit).
_PLAIN_CONTAINERS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")
_PLAIN_CODECS = ("h264", "hevc", "vp9")  # not VP8, which has packets that show nothing
_PLAIN_PIXELS = ("yuv420p", "yuvj420p")


class Probe(NamedTuple):
    """What a file holds.

    A frame is *shown* unless it is flagged to be discarded or its time stamp is negative, which is
    how an edit list hides the start of a clip cut without re-encoding. Shown frame k is

    - in PyAV: the k-th output frame whose `pts` is not negative (frames to be discarded never
      come out, so there is no number to add);
    - in decord: number `first_frame + k`. decord numbers packets, hidden ones included. But what a
      number shows can depend on where decord last sought to (see `Track.is_sound`); such files
      are left to PyAV (`decoder`).
    """

    first_frame: int = 0
    """Leading frames in decord's numbering that are hidden."""
    frames: int = 0
    """Shown frames that can be decoded."""
    fps: float = 0.0
    """Shown frames a second."""
    width: int = 0
    """Pixels, of the upright picture (after rotation)."""
    height: int = 0
    rotation: int = 0
    """Degrees (0, 90, 180, 270) to turn PyAV's pictures counter-clockwise; decord turns its own."""
    seconds: float = 0.0
    """Length of what is shown."""
    bytes: int = 0
    seekable: bool = False
    """Whether every packet is a shown frame, and no frame refers to one before its key frame: then
    a decoder may begin at any key frame."""
    decoder: str = "pyav"
    """`decord` where it is known to show the right frames, else `pyav`."""
    status: str = "ok"
    """`ok`, `missing` or `broken`."""
    reason: str = ""
    """Why it is not ok, or what is odd about it; a few words, the same for all like cases."""


def index_row(
    found: Probe,
    path: str,
    *,
    label: int = 0,
    label_name: str = "",
    split: str = "",
    start: float | None = None,
    end: float | None = None,
    note: str = "",
) -> IndexRow:
    """The row of a probed file, rounded as in every index: the frames of a clip depend on it."""
    reason = "; ".join(filter(None, (note, found.reason)))
    fps, seconds = round(found.fps, 4), round(found.seconds, 3)
    rounded = found._replace(fps=fps, seconds=seconds, reason=reason)
    row = IndexRow(path, label, label_name, split, start, end, *rounded)
    return row._replace(seekable=int(found.seekable))


def probe(path: Path, check: Check) -> Probe:
    """Looks into one video file; see `stages` for what the checks do. Never raises for bad files.

    The decode check may crash or hang in native code: run it through `probe_all`.
    """
    *_, found = stages(path, check)
    return found


def probe_all(
    paths: Iterable[Path], check: Check, workers: int, timeout: float = 120.0
) -> Iterator[Probe]:
    """Probe files in worker processes; yields verdicts in the order of the paths.

    A file that PyAV had read before decord died is usable, by PyAV.

    Args:
        paths: files to look into.
        check: how thoroughly, see `stages`.
        workers: processes, at least 1.
        timeout: seconds after which a file that gives no answer is given up.
    """
    # A file that hangs holds up the order but not the work, as long as this many lie behind it.
    window = max(1000, 100 * workers)
    function = partial(stages, check=check)
    with closing(
        WorkerPool(function, workers, timeout, window=window, initializer=discard_output)
    ) as pool:
        yield from map(_result, pool.run(paths))


def _result(outcome: Outcome) -> Probe:
    found: Probe | None = outcome.answer
    if outcome.failure is None and found is not None:
        return found
    # Without the message: alike for all like cases.
    failure = (outcome.failure or "crashed").partition(":")[0]
    if found is None:
        return Probe(status="broken", reason=f"decoder {failure}")
    return found._replace(reason=f"{found.reason}; decord {failure}".removeprefix("; "))


def stages(path: Path, check: Check) -> Iterator[Probe]:
    """Verdicts on a file, each better than the one before; only the last step runs decord.

    - `header`: the table of packets in the header of an MP4 file is believed, as far as the file
      is long enough to hold them, and one frame is decoded; left to PyAV. Files without such a
      table are read as by `packets`.
    - `packets`: packets are counted and one frame is decoded, for its size and rotation. Files
      whose packets may not be their frames (hidden, damaged or missing ones, AVI, MPEG-TS, AV1,
      10-bit) are decoded with PyAV from start to end, and left to it.
    - `decode`: all files are decoded with PyAV from start to end, then compared with decord's
      frames at 9 to 17 places. decord gets those that agree and are sound.
    """
    try:
        size = path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        yield Probe(status="missing", reason="no such file")
        return
    except OSError as error:
        yield Probe(status="broken", reason=_short(error))
        return
    try:
        if not path.is_file():
            raise Unusable("not a regular file")
        if size == 0:
            raise Unusable("empty file")
        found, samples = _read(path, check)
    except Exception as error:  # whatever one file does, the others go on
        yield Probe(bytes=size, status="broken", reason=_short(error))
        return
    found = found._replace(bytes=size)
    yield found
    if check == "decode" and samples and _decord_agrees(path, found, samples):
        yield found._replace(decoder="decord")


def _short(error: Exception) -> str:
    """An error in one line without paths: FFmpeg's and the system's messages append them."""
    if isinstance(error, Unusable):
        return str(error)
    if isinstance(error, (FFmpegError, OSError)) and error.strerror:
        return error.strerror
    return f"unexpected {type(error).__name__}"


def _read(path: Path, check: Check) -> tuple[Probe, dict[int, VideoFrame]]:
    """A file's verdict without running decord, and frames of it, by number, to compare decord's
    with; none where decord needs no trial (packets check) or deserves none.

    Raises:
        Unusable: if no frame can be shown.
    """
    with _open(path) as container:
        stream = _video_stream(container)
        if check == "header":
            track = Track(every_frame=False)
            if track.read_table(container, stream, path.stat().st_size):
                # Whether its groups of pictures are closed shows when it is decoded.
                found = _verdict(track, stream)
                return found._replace(seekable=_is_plain(container, stream, track)), {}
            return _read(path, "packets")
        track = Track(every_frame=check == "decode")
        track.read(container, stream)
        found = _verdict(track, stream)
        sound = track.is_sound(stream)
        if check == "decode":
            found = found._replace(seekable=track.is_seekable(stream))
            return found, track.samples if sound else {}
        plain = (
            _is_plain(container, stream, track)
            and not track.hidden
            and sound
            # decord divides a row, padded to 32 pixels, by the width and finds four channels or
            # more in very narrow pictures (24, 48, 72 pixels).
            and -(-found.width // 32) * 32 * 3 // found.width == 3
        )
        if plain:
            return found._replace(seekable=True, decoder="decord"), {}
    return _read(path, "decode")[0], {}


def _is_plain(container: InputContainer, stream: VideoStream, track: Track) -> bool:
    return (
        container.format.name in _PLAIN_CONTAINERS
        and stream.codec_context.name in _PLAIN_CODECS
        and track.pixels in _PLAIN_PIXELS
    )


def _open(path: Path) -> InputContainer:
    try:
        return open_video(path)
    except InvalidDataError:
        raise Unusable("no video header: not a video, or cut off before it") from None


def _video_stream(container: InputContainer) -> VideoStream:
    """The stream that FFmpeg's own choice makes the main one, as decord chooses it too."""
    if container.format.name.endswith("_pipe"):  # FFmpeg's readers of PNG, JPEG, ...
        raise Unusable("a picture, not a video")
    stream = container.streams.best("video")
    if stream is None or stream.disposition & Disposition.attached_pic:
        others = sorted({other.type for other in container.streams} - {"video"})
        raise Unusable(f"no video stream, only {' and '.join(others) or 'a cover picture'}")
    if stream.codec_context is None:
        raise Unusable("no decoder for its codec")
    stream.codec_context.thread_count = 1  # workers are the parallelism
    return stream


def _verdict(track: Track, stream: VideoStream) -> Probe:
    """Raises `Unusable` if no frame is shown, or decoding fails before half of the packets."""
    if not track.frames:
        detail = f": {_short(track.error)}" if track.error and not track.encrypted else ""
        raise Unusable(track.why_nothing() + detail)
    if track.error is not None and track.every_frame and 2 * track.frames < track.shown:
        # What was filmed is mostly gone, and with it perhaps what the label says.
        raise Unusable(f"decoding fails early: {_short(track.error)}")
    fps = track.fps(stream)
    if not fps:
        raise Unusable("no frame rate")
    reason = ""
    if track.error is not None:
        reason = "decoding stops early"
    elif not track.hidden and track.packets < stream.frames:
        reason = "fewer frames than its header states"
    frames = track.frames if track.every_frame else track.shown
    turned = track.rotation in (90, 270)
    return Probe(
        first_frame=track.hidden,
        frames=frames,
        fps=fps,
        width=track.height if turned else track.width,
        height=track.width if turned else track.height,
        rotation=track.rotation,
        seconds=frames / fps,
        reason=reason,
    )


def _decord_agrees(path: Path, found: Probe, samples: dict[int, VideoFrame]) -> bool:
    """Whether decord shows the same pictures as PyAV under the same numbers."""
    try:
        import decord
    except (ImportError, OSError):  # no wheel for this platform
        return False
    numbers = [found.first_frame + k for k in samples]
    try:
        reader = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1)
        if numbers[-1] >= len(reader):  # asking beyond the end may never return
            return False
        pictures = reader.get_batch(numbers).asnumpy()
    except Exception:  # whatever decord raises, it is not the one to decode this file
        return False
    for picture, frame in zip(pictures, samples.values(), strict=True):
        expected = np.rot90(frame.to_ndarray(format="rgb24"), found.rotation // 90)
        if picture.shape != expected.shape:
            return False
        if np.abs(picture.astype(np.int16) - expected).mean() > TOLERANCE:
            return False
    return True
