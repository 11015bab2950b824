"""Test views of windows of a long video, from one pass over its frames."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import torch
from av.video.frame import VideoFrame
from torch import Tensor

from snvideo.data.config import ClipConfig, TestViewConfig
from snvideo.data.dataset import VideoViews, ViewCut
from snvideo.data.decoding import DecodeError
from snvideo.data.decoding.sequential import SequentialDecoder, TimedFrame
from snvideo.data.windows import Span, plan_windows, window_frames

_HELD = 256 << 20
"""Bytes of pictures that are held as they were decoded. Most frames are in no clip, and need not be
resized; beyond this, large ones are, to make them small."""

_GAP = 0.25
"""Part of a window from which on it is remarked that no frame came."""


class WindowViews(NamedTuple):
    """Test views of a window of time."""

    span: Span  # cut at the end of the video
    frames: int  # shown in it
    views: VideoViews | None  # None: no frame
    remark: str = ""  # an oddity, as `3 damaged packets or pictures`


@dataclass(slots=True)
class _Held:
    """A frame that may be in a clip: as it was decoded, or what of it any crop shows."""

    seconds: Fraction
    frame: VideoFrame | None
    bytes: int
    faults: Counter[str]
    shown: Tensor | None = field(default=None)


def read_windows(
    decoder: SequentialDecoder, window: float, step: float, clip: ClipConfig, view: TestViewConfig
) -> Iterator[WindowViews]:
    """Read the test views of windows, each as soon as its last frame has come.

    Frames, crops and pixels are those of a test of the video cut to the window. Windows are those
    of `plan_windows`; the last one ends with the video. A window in a gap has no frame.

    Args:
        decoder: of the video, not read yet; closed at the end.
        window, step: in seconds.
        clip: frames of a clip.
        view: clips, spread evenly over each window, and crops.

    Raises:
        DecodeError: if the video has no frame at all.
    """
    windows = _Windows(decoder, clip, view)
    spans = plan_windows(window, step)
    before, span, latest = None, next(spans), None
    try:
        for timed in decoder:
            while timed.seconds >= span.end:
                yield windows.views(span)
                before, span = span, next(spans)
                windows.drop(span.start)
            windows.add(timed)
            latest = timed.seconds
        if latest is None:
            raise DecodeError(decoder.ending or "no frame can be decoded")
        if span.start <= latest and (before is None or before.end <= latest):
            yield windows.last_views(span, latest)
    finally:
        decoder.close()


class _Windows:
    """Frames that windows to come may show."""

    def __init__(self, decoder: SequentialDecoder, clip: ClipConfig, view: TestViewConfig) -> None:
        self._decoder, self._clip, self._view = decoder, clip, view
        self._held: deque[_Held] = deque()
        self._whole: deque[_Held] = deque()  # those of them that are as they were decoded
        self._bytes = 0
        self._cut: ViewCut | None = None

    def add(self, timed: TimedFrame) -> None:
        """Hold a frame, and make old ones small if all are too large."""
        size = sum(plane.buffer_size for plane in timed.frame.planes)
        held = _Held(timed.seconds, timed.frame, size, timed.faults)
        self._held.append(held)
        self._whole.append(held)
        self._bytes += size
        while self._bytes > _HELD and len(self._whole) > 1:
            self._shown(self._whole[0])
            self._release(self._whole.popleft())

    def drop(self, start: Fraction) -> None:
        """Drop frames before a time."""
        while self._held and self._held[0].seconds < start:
            self._release(self._held.popleft())
        while self._whole and self._whole[0].frame is None:
            self._whole.popleft()

    def _release(self, held: _Held) -> None:
        if held.frame is not None:
            self._bytes -= held.bytes
            held.frame = None

    def last_views(self, span: Span, latest: Fraction) -> WindowViews:
        """Views of the window that holds the last frame, at the time `latest`."""
        rate = next(iter(self._decoder.stated), 0.0) or 25.0
        end = latest + Fraction(1 / rate).limit_denominator(10**6)
        found = self.views(Span(span.start, min(span.end, end)))
        remarks = [found.remark, _remark(self._decoder.faults), self._decoder.ending]
        return found._replace(remark="; ".join(filter(None, remarks)))

    def views(self, span: Span) -> WindowViews:
        """Views of a window all of whose frames are held."""
        held = [one for one in self._held if span.start <= one.seconds < span.end]
        if not held:
            return WindowViews(span, 0, None)
        remarks = [_remark(sum((one.faults for one in held), Counter()))]
        times = [one.seconds for one in held]
        places, fps = window_frames(times, self._clip, self._view.clips, self._decoder.stated)
        if gap := _gap(span, times, fps):
            remarks.append(f"no frame for {gap:.3g} s")
        wanted, inverse = np.unique(places, return_inverse=True)
        frames = torch.cat([self._shown(held[place]) for place in wanted.tolist()])
        clips = torch.from_numpy(inverse.reshape(places.shape))
        assert self._cut is not None
        views = VideoViews(frames, clips, self._cut.corners, self._view.crop)
        return WindowViews(span, len(held), views, "; ".join(filter(None, remarks)))

    def _shown(self, held: _Held) -> Tensor:
        """The part of a frame that any crop shows, uint8 (1, 3, h, w)."""
        if held.shown is None:
            self._cut = self._cut or ViewCut.of(*self._decoder.size, self._view)
            assert held.frame is not None
            held.shown = self._cut.shown(self._decoder.picture(held.frame)[None])
        return held.shown


def _remark(faults: Counter[str]) -> str:
    """Faults in words, as `3 damaged packets or pictures`."""
    return "; ".join(f"{number} {name}" for name, number in faults.items() if number)


def _gap(span: Span, times: Sequence[Fraction], fps: float) -> float:
    """Seconds of the longest time in a window without a new frame, if it is a part of it that
    counts, else 0."""
    edges = np.array([float(time) for time in (span.start, *times, span.end)])
    longest = float(np.diff(edges).max())
    return longest if longest > max(_GAP * float(span.end - span.start), 1.5 / fps) else 0.0
