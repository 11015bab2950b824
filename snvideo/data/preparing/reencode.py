"""Re-encoding of one video for training: small upright frames with key frames close together.

Frame k of the new file is shown frame k of the old one.
"""

import errno
import time
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Literal, NamedTuple

import av
import numpy as np
from av.error import FFmpegError
from av.video.frame import PictureType, VideoFrame
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter

from snvideo.atomic import atomic_path
from snvideo.data.decoding.orientation import upright
from snvideo.data.decoding.pyav import main_stream, open_video
from snvideo.data.image_sequences import list_images, sequence_pictures
from snvideo.data.source import Source
from snvideo.data.unusable import Unusable
from snvideo.data.watchdog import watched

# Errors that every other video would meet, too.
_FATAL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)
_INTERPOLATION = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
_COLOURS = ("colorspace", "color_range", "color_primaries", "color_trc")


class EncoderSettings(NamedTuple):
    """Settings of the encoder."""

    short_side: int = 256  # pixels at most; smaller videos stay as small as they are
    keyframes: int = 16  # frames from one key frame to the next
    crf: int = 20  # quality of x264: 0 is lossless, 18 to 23 usual; 6 more halve the size, about
    preset: str = "fast"  # of x264, from `ultrafast` (large files) to `slower` (much work)


class EncodeJob(NamedTuple):
    """A video to re-encode."""

    source: Source
    output: Path
    orientation: int  # of the source's frames, as in an index
    fps: float


class EncodeState(NamedTuple):
    """State of a job; `failed` concerns this video alone, `unwritable` all others too."""

    state: Literal["encoding", "done", "failed", "unwritable"]
    reason: str = ""


def shown_frames(video: Source | Path) -> Iterator[VideoFrame]:
    """Frames of a video as `data.decoding` numbers them, as many as can be decoded."""
    source = Source.of(video)
    if source.is_sequence:
        try:
            for picture in sequence_pictures(source.path, list_images(source.path)):
                yield VideoFrame.from_ndarray(picture, format="rgb24")
        except (ValueError, OSError):
            return
        return
    with open_video(source) as container:
        try:
            yield from watched(container.decode(main_stream(container)))
        except (FFmpegError, OSError):
            return  # damaged from here on: the index counts no further either


def scaled_frames(video: Source | Path, orientation: int, short_side: int) -> Iterator[VideoFrame]:
    """Shown frames of a video, upright, scaled, in 8-bit 4:2:0 of limited range.

    Colours keep their matrix, and the frames say which it is, so that they decode as before. All
    get the size of the first.
    """
    reformatter, size = VideoReformatter(), None
    for frame in shown_frames(video):
        size = size or scaled_size(frame.width, frame.height, short_side)
        scaled = reformatter.reformat(
            frame,
            *size,
            format="yuv420p",
            dst_colorspace=Colorspace.ITU601 if frame.format.is_rgb else None,
            dst_color_range=ColorRange.MPEG,
            interpolation=_INTERPOLATION,
            threads=1,
        )
        yield _upright(scaled, orientation)


def scaled_size(width: int, height: int, short_side: int) -> tuple[int, int]:
    """Width and height in even numbers, no larger than before, the shorter at most `short_side`."""
    scale = min(1.0, short_side / min(width, height))

    def even(side: int) -> int:
        nearest = 2 * round(side * scale / 2)
        return max(2, min(nearest, side - side % 2))

    if min(width, height) > short_side:  # exact, whatever the rounding
        short = short_side - short_side % 2
        return (short, even(height)) if width <= height else (even(width), short)
    return even(width), even(height)


def _upright(frame: VideoFrame, number: int) -> VideoFrame:
    """A 4:2:0 frame of even size in the orientation of EXIF's number, plane by plane."""
    if number == 1:
        return frame
    rows, height, width = frame.to_ndarray(), frame.height, frame.width
    planes = [rows[:height], *rows[height:].reshape(2, height // 2, width // 2)]
    planes = [upright(plane, number) for plane in planes]
    flat = np.concatenate([plane.ravel() for plane in planes])
    turned = VideoFrame.from_ndarray(flat.reshape(-1, planes[0].shape[1]), format="yuv420p")
    for name in _COLOURS:
        setattr(turned, name, getattr(frame, name))
    return turned


def reencode(job: EncodeJob, settings: EncoderSettings) -> Iterator[EncodeState]:
    """Re-encode one video; yields `encoding` about every second, then how it has ended."""
    writing = False
    try:
        frames = scaled_frames(job.source, job.orientation, settings.short_side)
        first = next(frames, None)
        if first is None:
            raise Unusable("no frame can be decoded")
        writing = True  # `shown_frames` ends where reading fails from here on
        with atomic_path(job.output) as part:
            yield from _encode(chain([first], frames), first, part, job.fps, settings)
    except (Unusable, FFmpegError, OSError) as error:
        fatal = writing and getattr(error, "errno", None) in _FATAL
        reason = getattr(error, "strerror", None) or str(error)
        yield EncodeState("unwritable" if fatal else "failed", reason)
    else:
        yield EncodeState("done")


def _encode(
    frames: Iterable[VideoFrame],
    like: VideoFrame,
    part: Path,
    fps: float,
    settings: EncoderSettings,
) -> Iterator[EncodeState]:
    rate = Fraction(fps).limit_denominator(10_000)  # exact: an index has four decimals
    every, reported = settings.keyframes, time.monotonic()
    with av.open(str(part), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = like.width, like.height, "yuv420p"
        encoder = stream.codec_context
        encoder.thread_count = 1  # processes are the parallelism
        for name in _COLOURS:
            setattr(encoder, name, getattr(like, name))
        groups = f"keyint={every}:min-keyint={every}:scenecut=0:open-gop=0"
        options = {"preset": settings.preset, "crf": str(settings.crf), "tune": "fastdecode"}
        # Small videos with macroblock trees are not the same bytes from call to call, on one thread
        # either; without them files are 4 % larger.
        encoder.options = {**options, "x264-params": f"{groups}:mbtree=0"}
        for number, frame in enumerate(frames):
            frame.pts, frame.time_base = number, 1 / encoder.framerate
            frame.pict_type = PictureType.NONE  # else its old key frames become new ones
            container.mux(stream.encode(frame))
            if time.monotonic() - reported >= 1:
                reported = time.monotonic()
                yield EncodeState("encoding")
        container.mux(stream.encode())
