"""Frames of the ffmpeg program, to compare with."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

needs_ffmpeg = pytest.mark.skipif(not shutil.which("ffmpeg"), reason="no ffmpeg program here")


def ffmpeg_frames(path: Path) -> np.ndarray:
    """All frames of the video stream that ffmpeg chooses, as it shows them, uint8 (T, H, W, 3)."""
    command = ["ffmpeg", "-nostdin", "-v", "quiet", "-threads", "1", "-i", str(path)]
    # Each decoded frame once, be their times as they may; colours as PyAV converts them.
    command += ["-fps_mode", "passthrough", "-f", "image2pipe", "-sws_flags", "bilinear"]
    command += ["-c:v", "ppm", "-pix_fmt", "rgb24", "-"]
    made = subprocess.run(command, stdout=subprocess.PIPE, check=False, timeout=60).stdout
    frames, at = [], 0
    while at < len(made):
        header = made[at : at + 64].split(b"\n", 3)[:3]
        width, height = map(int, header[1].split())
        at += sum(map(len, header)) + 3
        frames.append(np.frombuffer(made, np.uint8, 3 * width * height, at))
        at += 3 * width * height
    return np.stack([frame.reshape(height, width, 3) for frame in frames])


def assert_alike(frames: np.ndarray, expected: np.ndarray) -> None:
    """The same frames, but for the rounding of another version of FFmpeg."""
    assert frames.shape == expected.shape
    assert np.abs(frames - expected.astype(np.int16)).mean() < 0.01
