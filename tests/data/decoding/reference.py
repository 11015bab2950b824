"""Frames of the ffmpeg program, to compare with."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

needs_ffmpeg = pytest.mark.skipif(not shutil.which("ffmpeg"), reason="no ffmpeg program here")


def ffmpeg_pictures(path: Path) -> Iterator[np.ndarray]:
    """Frames of the video stream that ffmpeg chooses, as it shows them, uint8 (H, W, 3)."""
    command = ["ffmpeg", "-nostdin", "-v", "quiet", "-threads", "1", "-i", str(path)]
    # Each decoded frame once, be their times as they may; colours as PyAV converts them.
    command += ["-fps_mode", "passthrough", "-f", "image2pipe", "-sws_flags", "bilinear"]
    command += ["-c:v", "ppm", "-pix_fmt", "rgb24", "-"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as made:
        assert made.stdout is not None
        while made.stdout.readline():
            width, height = map(int, made.stdout.readline().split())
            made.stdout.readline()
            content = made.stdout.read(3 * width * height)
            yield np.frombuffer(content, np.uint8).reshape(height, width, 3)


def ffmpeg_frames(path: Path) -> np.ndarray:
    """All frames as `ffmpeg_pictures` gives them, uint8 (T, H, W, 3)."""
    return np.stack(list(ffmpeg_pictures(path)))


def assert_alike(frames: np.ndarray, expected: np.ndarray) -> None:
    """The same frames, but for the rounding of another version of FFmpeg."""
    assert frames.shape == expected.shape
    assert np.abs(frames - expected.astype(np.int16)).mean() < 0.01
