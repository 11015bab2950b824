"""Probes of video files: shown frames, their rate and size, and the decoder that reads them right.

File headers are not to be believed: downloads are cut off, edit lists hide frames, AVI files count
packets that hold no frame. So packets are read, and frames decoded where packets do not tell.
"""

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from av.container import InputContainer
from av.error import FFmpegError, InvalidDataError
from av.video.stream import VideoStream

from snvideo.data.decoding import DECODE, missing
from snvideo.data.decoding.orientation import stored_size
from snvideo.data.decoding.pyav import main_stream, open_video
from snvideo.data.index import DECODERS, LEAST_FPS, IndexRow, Video, row_problem
from snvideo.data.indexing.bitstream import may_have_fields
from snvideo.data.indexing.scan import StreamScan
from snvideo.data.indexing.sequence_probe import probe_sequence
from snvideo.data.indexing.trial import FRAMES, seeks_right
from snvideo.data.ray_pool import video_pool
from snvideo.data.source import Source
from snvideo.data.unusable import Unusable
from snvideo.errors import SnvideoError

Check = Literal["header", "packets", "decode"]

TOLERANCE = 1.0
"""Largest mean absolute difference of one frame from two decoders, in levels of 0 to 255.

8-bit 4:2:0 video is bit-equal, odd sizes differ by half a level, 10-bit by three or more."""

_PLACES = 12
"""Frames of a file that decoders are compared at."""

# Where packets tell that each is a frame, and that groups of pictures are independent.
_USUAL_CONTAINERS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")
_USUAL_CODECS = ("h264", "hevc", "vp9")  # not VP8, which has packets that show nothing


def probe(video: Source | Path, check: Check) -> IndexRow:
    """Probe one video with a check of `stages`; bad ones raise nothing.

    The decode check may crash or hang in native code: run it through `probe_all`.
    """
    *_, (found, _) = stages(video, check)
    return found


def probe_all(
    videos: Iterable[Source | Path],
    check: Check,
    workers: int,
    timeout: float = 120.0,
    ray: str | None = None,
    folders: Sequence[Path] = (),
) -> Generator[IndexRow, None, None]:
    """Probe videos by a check of `stages` in so many processes, results in their order.

    On a Ray cluster, `ray` is its address, and `folders` are what its nodes must see.

    A file that gives no packet and no frame for `timeout` seconds is broken; one that PyAV had read
    before another decoder died is usable, by those that were tried before.
    """
    # A file that hangs holds up the order but not the work, as long as this many lie behind it.
    window = max(1000, 100 * workers)
    function = partial(stages, check=check)
    with closing(
        video_pool(
            function,
            workers,
            timeout,
            ray=ray,
            folders=folders,
            describe=lambda video: str(Source.of(video).path),
            window=window,
        )
    ) as pool:
        for found, failure in pool.run(videos):
            if failure is not None:
                failure = failure.partition(":")[0]  # so that like cases have one reason
                row, decoder = found or (IndexRow(status="broken"), "decoder")
                found = row._replace(reason=f"{row.reason}; {decoder} {failure}".strip("; ")), ""
            yield found[0]


def stages(video: Source | Path, check: Check) -> Iterator[tuple[IndexRow, str]]:
    """Probe a video in steps, each result better than the one before, and with it the decoder that
    is tried next, which may not survive it.

    - `header`: counts packets by the table in an MP4 file's header, as far as the file is long
      enough to hold them, and decodes up to 300 frames; left to PyAV. Files without such a table
      are read as by `packets`.
    - `packets`: counts packets and decodes up to 300 frames, to try random access. Files whose
      packets may not be their frames (hidden, damaged or missing ones, fields, AVI, MPEG-TS, AV1)
      are decoded with PyAV from start to end, and left to it; of the others decord gets those in
      which its frames agree near the start.
    - `decode`: decodes with PyAV from start to end, then compares decord's and torchcodec's frames
      at up to 12 places. They get files that agree and are sound.

    Of image sequences `header` reads the first image, the others all.
    """
    size = 0
    try:
        source = Source.of(video)
        size = source.size()
        check_file(source)
        if source.is_sequence:
            found = probe_sequence(source, check != "header")
            yield found._replace(bytes=size), ""
            return
        found, untried = _read(source, check)
    except (FileNotFoundError, NotADirectoryError):
        yield IndexRow(status="missing", reason="no such file"), ""
        return
    except Exception as error:  # whatever one file does, the others go on
        yield IndexRow(bytes=size, status="broken", reason=_short(error)), ""
        return
    found = found._replace(bytes=size, offset=source.offset)
    if problem := row_problem(found):
        yield IndexRow(bytes=size, status="broken", reason=problem), ""
        return
    indexed = Video.of(found, source.path)
    untried = tuple(decoder for decoder in untried if not missing(decoder))
    last = indexed.frames - 1
    # Without the check `decode` those near the start, which cost little.
    end = last if check == "decode" else min(16, last)
    numbers = np.unique(np.linspace(0, end, _PLACES).round().astype(np.int64))
    yield found, "pyav"
    expected = DECODE["pyav"](indexed, numbers, np.asarray)[0] if untried else []
    for decoder in untried:
        yield found, decoder
        if _agrees(decoder, indexed, numbers, expected):
            found = found._replace(decoders=f"{found.decoders} {decoder}")
    yield found, ""


def check_file(source: Source) -> None:
    """Raises `Unusable` for what cannot be a video file, and `OSError` if it is not there."""
    size = source.size()
    if source.is_sequence:
        return
    if isinstance(source.path, Path) and source.offset is None and not source.path.is_file():
        is_folder = source.path.is_dir()
        raise Unusable("a folder without numbered images" if is_folder else "not a regular file")
    if size == 0:
        raise Unusable("empty file")


def _short(error: Exception) -> str:
    """An error in one line without paths: FFmpeg's and the system's messages append them."""
    if isinstance(error, Unusable | SnvideoError):
        return str(error)
    if isinstance(error, (FFmpegError, OSError)) and error.strerror:
        return error.strerror
    return f"unexpected {type(error).__name__}"


def _read(source: Source, check: Check) -> tuple[IndexRow, tuple[str, ...]]:
    """Probe with PyAV alone; and decoders whose frames are to be compared with PyAV's."""
    try:
        container = open_video(source)
    except InvalidDataError:
        raise Unusable("no video header: not a video, or cut off before it") from None
    with container:
        stream = main_stream(container)
        scan = StreamScan(every_frame=check == "decode")
        usual = (
            container.format.name in _USUAL_CONTAINERS
            and stream.codec_context.name in _USUAL_CODECS
        )
        if check == "header":
            plain = usual and not may_have_fields(stream.codec_context)
            if plain and scan.scan_table(container, stream, source.size()):
                found = _probe_of(scan, container, stream)
                if seeks_right(_video(found, source), scan.starts(), FRAMES):
                    return found._replace(seekable=1), ()
            return _read(source, "packets")
        scan.scan(container, stream)
        found = _probe_of(scan, container, stream)
        seekable = scan.is_seekable(stream) and (
            scan.every_frame or (usual and scan.is_plain(stream))
        )
        if seekable:
            limit = found.frames if scan.every_frame else FRAMES
            seekable = seeks_right(_video(found, source), scan.starts(), limit, scan.times())
        # decord seeks to the key packet before the one asked for and counts on from that packet's
        # place in the file, which goes wrong where hidden packets are dropped on decoding.
        sound = seekable and not scan.dropped and scan.table_agrees(container, stream)
        if check == "decode":
            untried = DECODERS[1:] if sound else ("torchcodec",) if seekable else ()
            return found._replace(seekable=int(seekable)), untried
        if sound:
            return found._replace(seekable=1), ("decord",)
    return _read(source, "decode")[0], ()


def _video(found: IndexRow, source: Source) -> Video:
    """A video whose place is not in its row yet."""
    return Video.of(found._replace(offset=source.offset, bytes=source.bytes), source.path)


def _probe_of(scan: StreamScan, container: InputContainer, stream: VideoStream) -> IndexRow:
    """Raises `Unusable` if no frame is shown, or more than half of them are lost or damaged."""
    if not scan.frames:
        detail = f": {_short(scan.error)}" if scan.error else ""
        raise Unusable(("no frame can be decoded" if scan.packets else "no frames") + detail)
    part = scan.part(container, stream)
    # What the label says may be in the part that is lost.
    if part < 0.5:
        detail = f": {_short(scan.error)}" if scan.error else ""
        raise Unusable(f"less than half of its frames can be decoded{detail}")
    if 2 * scan.damaged > scan.frames:
        raise Unusable("most pictures are damaged")
    fps, even = scan.fps(stream)
    if not fps:
        raise Unusable("no frame rate")
    remarks = {
        "decoding stops early": scan.error is not None,
        "fewer frames than its header states": not scan.error and part < 1,
        "some pictures are damaged": scan.damaged > 0,
        "frames of different sizes": scan.resized,
        "display matrix is no quarter turn or mirror: the nearest is taken": not scan.plain_matrix,
        "frames at uneven times": not even,
        "less than a frame in 1000 seconds": fps < LEAST_FPS,
    }
    fps = max(fps, LEAST_FPS)
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
        reason="; ".join(remark for remark, true in remarks.items() if true),
    )


def _agrees(decoder: str, video: Video, numbers: np.ndarray, expected: list[np.ndarray]) -> bool:
    """True if a decoder counts the same frames as PyAV and shows the same under some numbers."""
    try:
        shown, counted = DECODE[decoder](video, numbers, np.asarray)
    except Exception:  # all raise kinds of their own
        return False
    return (counted, len(shown)) == (video.frames, len(expected)) and all(
        one.shape == other.shape and np.abs(one.astype(np.int16) - other).mean() <= TOLERANCE
        for one, other in zip(shown, expected, strict=True)
    )
