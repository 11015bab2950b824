"""The watchdog hears of every packet and frame, whoever reads them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from snvideo.data import watchdog
from snvideo.data.decoding import decode_frames
from snvideo.data.index import Video
from snvideo.data.indexing.probe import probe
from snvideo.data.preparing.reencode import shown_frames
from tests.data.videos import write_video

FRAMES = 40


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("v") / "a.mp4", FRAMES, gop=20)


def video(path: Path, **changes: object) -> Video:
    found = Video.of(probe(path, "packets"), path)
    assert found.frames == FRAMES and found.seekable
    return found._replace(**changes)


def last(decoder: str, seekable: bool) -> Callable[[Path], object]:
    """Read the last frame alone."""
    return lambda path: decode_frames(video(path, seekable=seekable), [FRAMES - 1], decoder)


@pytest.mark.parametrize(
    ("read", "least"),
    [
        (lambda path: probe(path, "packets"), FRAMES),
        (lambda path: probe(path, "decode"), FRAMES),
        (lambda path: list(shown_frames(path)), FRAMES),
        (last("pyav", True), FRAMES),
        (last("pyav", False), FRAMES),
    ],
)
def test_every_packet_or_frame_is_progress(
    path: Path, read: Callable[[Path], object], least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[None] = []
    known = video(path)
    monkeypatch.setattr(watchdog, "report_progress", lambda: told.append(None))
    read(known.path)
    assert len(told) >= least


def test_decord_is_asked_frame_by_frame(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("decord")
    known = video(path, decoders="pyav decord")
    told: list[None] = []
    monkeypatch.setattr(watchdog, "report_progress", lambda: told.append(None))
    frames = decode_frames(known, range(0, FRAMES, 3), "decord")
    assert len(told) == len(frames) == 14
    np.testing.assert_array_equal(frames, decode_frames(known, range(0, FRAMES, 3)))
