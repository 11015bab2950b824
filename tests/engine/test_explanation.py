"""Explanations of predictions: the view that speaks most for the class, as pictures."""

import io
from pathlib import Path

import av
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from snvideo.cli import app
from snvideo.data.dataset import VideoViews
from snvideo.engine.explanation import Explanation, explain_prediction
from snvideo.engine.inference import open_inference
from snvideo.engine.predict import predict
from snvideo.models.grad_cam import grad_cam
from snvideo.report.explanation import explanation_strip, explanation_video, overlay
from tests.data.videos import write_video
from tests.engine.weights import CLASSES, random_weights

VIEWS = {"clips": 2, "crops": 3, "workers": 1}


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return random_weights(tmp_path_factory.mktemp("weights") / "model.safetensors")


def test_the_view_with_the_most_of_the_class_is_explained(weights):
    inference = open_inference(weights, **VIEWS, batch=4, device="cpu", timeout=60.0)
    torch.manual_seed(0)
    frames = torch.randint(0, 256, (6, 3, 36, 40), dtype=torch.uint8)
    clips = torch.tensor([[0, 1, 2, 3], [2, 3, 4, 5]])
    views = VideoViews(frames, clips, [(0, 0), (2, 4), (4, 8)], 32)
    scores = torch.full((6, 8), 0.1)
    scores[4, 5], scores[0, 2], scores[1, 2] = 0.9, 0.4, 0.5  # class 5 has the greatest mean
    seconds = [[0.0, 0.1, 0.2, 0.3], [0.2, 0.3, 0.4, 0.5]]
    found = explain_prediction(inference, views, scores, seconds)
    assert (found.label, found.seconds) == (CLASSES[5], seconds[1])
    assert found.probability == pytest.approx(0.9)
    assert torch.equal(found.frames, frames[2:6, :, 2:34, 4:36])
    looks = (0.4, 0.45, 0.5), (0.2, 0.225, 0.25)
    mean, std = (torch.tensor(values)[:, None, None, None] for values in looks)
    clip = (found.frames.transpose(0, 1)[None] / 255 - mean) / std
    expected = grad_cam(inference.network.model, clip, 5)
    torch.testing.assert_close(found.heat, expected, rtol=1e-3, atol=1e-4)


def test_predictions_are_the_same_with_and_without(weights, tmp_path):
    video = write_video(tmp_path / "a.mp4")
    (with_it,) = predict(video, weights, **VIEWS, explained=True)
    (without,) = predict(video, weights, **VIEWS)
    assert with_it.probabilities == without.probabilities and without.explanation is None
    assert with_it.explanation is not None
    assert with_it.explanation.label == with_it.classes[0]


def example(heat: torch.Tensor) -> Explanation:
    frames = torch.full((4, 3, 33, 33), 100, dtype=torch.uint8)
    return Explanation("class", 0.5, frames, [1.0, 1.2, 1.4, 1.6], heat)


def test_heat_lies_where_it_is():
    heat = torch.zeros(4, 33, 33)
    heat[2, 3, 4] = 7.0
    seen = overlay(example(heat))
    changed = (seen != 100).any(1)
    assert changed.sum() == 1 and changed[2, 3, 4]
    assert (overlay(example(torch.zeros_like(heat))) == 100).all()  # nothing is made of nothing


def test_the_video_has_the_frames_and_the_time_of_the_clip():
    content = explanation_video(example(torch.rand(4, 33, 33)))
    with av.open(io.BytesIO(content)) as file:
        rate = file.streams.video[0].average_rate
        frames = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
    assert rate == 5 and len(frames) == 4
    assert frames[0].shape == (7 * 33 // 2 * 2, 2 * 7 * 33, 3)
    left = frames[0][:200, :200].astype(int)
    assert abs(left - 100).max() < 8
    assert explanation_strip(example(torch.zeros(4, 33, 33)), "a.mp4")[1:4] == b"PNG"


def test_pictures_are_written_beside_the_answers(weights, tmp_path):
    write_video(tmp_path / "a.mp4")
    (tmp_path / "b.mp4").touch()
    options = ("--clips", "1", "--crops", "1", "--workers", "1", "--explain", str(tmp_path / "why"))
    call = ["predict", str(tmp_path / "a.mp4"), str(tmp_path / "b.mp4"), "--weights", str(weights)]
    done = CliRunner().invoke(app, [*call, *options])
    assert done.exit_code == 1 and "unreadable" in done.stdout
    assert sorted(path.name for path in (tmp_path / "why").iterdir()) == ["a.mp4.mp4", "a.mp4.png"]
    assert Image.open(tmp_path / "why/a.mp4.png").size[0] == 1440
    done = CliRunner().invoke(app, [*call, *options, "--window", "1"])
    assert "--explain is of whole videos" in str(done.exception)
