"""The commands that show what the network sees and what an index holds."""

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from snvideo.errors import SnvideoError
from snvideo.report.preview import train_clips_png, views_png
from tests.engine.runs import run_config


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)


def test_training_clips_are_shown_after_all_that_is_done_to_them(toy, tmp_path):
    plain = run_config(toy, tmp_path / "a")
    mixed = run_config(toy, tmp_path / "a", "data.train.mixup=0.8", "data.train.flip=true")
    sheets = [pixels(train_clips_png(config)) for config in (plain, plain, mixed)]
    assert np.array_equal(sheets[0], sheets[1])
    assert sheets[0].shape == sheets[2].shape and min(sheets[0].shape[:2]) > 300
    assert np.abs(sheets[0] - sheets[2]).mean() > 1


def test_groups_larger_than_the_split_are_shown_unmixed(toy, tmp_path):
    config = run_config(toy, tmp_path / "a", "batch.clips_per_gpu=100")
    assert pixels(train_clips_png(config)).shape[2] == 3


def test_a_video_that_is_not_there_is_one_line(toy, tmp_path):
    config = run_config(toy, tmp_path / "a")
    assert pixels(views_png(config, 15)).shape[2] == 3
    with pytest.raises(SnvideoError, match="no video 16 in split 'val': it has 16"):
        views_png(config, 16)


@pytest.mark.process
def test_commands(toy, tmp_path):
    run_config(toy, tmp_path / "run")

    def snvideo(*arguments: str) -> str:
        call = [sys.executable, "-m", "snvideo", *arguments]
        done = subprocess.run(call, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    shown = snvideo("clips", str(tmp_path / "run.yaml"), "--out", str(tmp_path / "sheets"))
    assert shown.split() == [
        str(tmp_path / "sheets" / name) for name in ("train_clips.png", "test_views.png")
    ]
    shown = snvideo("index", str(toy / "index.csv"), "--out", str(tmp_path / "index.png"))
    assert "train" in shown and "48" in shown and max(map(len, shown.splitlines())) <= 110
    for name in ("sheets/train_clips.png", "sheets/test_views.png", "index.png"):
        assert pixels((tmp_path / name).read_bytes()).std() > 5
