"""Timelines of real files: windows as of a test of the cut video, events, files and pictures."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from typer.testing import CliRunner

from snvideo.cli import app
from snvideo.data.toy import render_clip
from snvideo.engine import inference, timeline
from snvideo.engine.predict import predict
from snvideo.engine.timeline import TimelinePredictor
from snvideo.errors import SnvideoError
from snvideo.models.pretrained import (
    LoadedModel,
    Preprocessing,
    WeightsMetadata,
    layer_strides,
    write_weights,
)
from snvideo.models.registry import create_model
from tests.data.videos import write_video

COLOURS = ("red", "green", "blue")
SEEN = Preprocessing(
    mean=(0.45,) * 3, std=(0.225,) * 3, frames=4, stride=3, target_fps=10, short_side=36, crop=32
)


def metadata(classes: tuple[str, ...], **more) -> WeightsMetadata:
    about = {"architecture": "i3d_tiny", "strides": {}, "norm": "gn", "statistics": None}
    return WeightsMetadata(**{**about, "classes": classes, "preprocessing": SEEN, **more})


class MeanColour(nn.Module):
    """Logits that are the mean of each channel over a clip."""

    def forward(self, clips: Tensor) -> Tensor:
        """(N, 3, T, H, W) -> (N, 3)."""
        return 4 * clips.mean((2, 3, 4))


@pytest.fixture
def colours(monkeypatch):
    """In place of any weights a network that tells the colour of clips."""
    network = LoadedModel(MeanColour().eval(), metadata(COLOURS))
    monkeypatch.setattr(inference, "load_model", lambda path, device: network)


@pytest.fixture(scope="module")
def three(tmp_path_factory) -> Path:
    """Three toy clips, tinted red, green and blue, cut together: 4 seconds of each at 25 fps."""
    path = tmp_path_factory.mktemp("three") / "three.mp4"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25, options={"preset": "ultrafast", "bf": "2"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for channel in range(3):
            frames = render_clip(0, "val", channel).frames // 4
            frames[..., channel] += 160
            for number in range(100):
                picture = av.VideoFrame.from_ndarray(frames[number % len(frames)], format="rgb24")
                out.mux(stream.encode(picture.reformat(64, 48, "yuv420p")))
        out.mux(stream.encode(None))
    return path


def run(*arguments: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["predict", *map(str, arguments)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stdout, done.stderr


def test_three_clips_cut_together_are_named_in_order(three, colours, tmp_path):
    files = {"--out": "windows.csv", "--events": "events.csv", "--pictures": "pictures"}
    more = [part for name, file in files.items() for part in (name, tmp_path / file)]
    windows = ["--weights", "any", "--window", 2, "--step", 1, "--top", 1]
    code, printed, said = run(three, *windows, "--smooth", 0, *more)
    assert code == 0 and said.startswith("11 windows, in ")
    with (tmp_path / "windows.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(float(row["start"]), float(row["end"])) for row in rows] == [
        (n, n + 2) for n in range(11)
    ]
    named = [row["class"] for row in rows]
    assert named[:3] == ["red"] * 3 and named[4:7] == ["green"] * 3 and named[8:] == ["blue"] * 3
    lines = [line.split("\t") for line in printed.splitlines()]
    assert [line[-1] for line in lines] == named and lines[1][:4] == [
        str(three),
        "1.000",
        "3.000",
        "1",
    ]

    with (tmp_path / "events.csv").open(newline="") as file:
        events = list(csv.DictReader(file))
    assert [event["class"] for event in events] == list(COLOURS)
    edges = np.array([(event["start"], event["end"]) for event in events], float)
    # The time between two windows' middles is as exact as windows every second can be.
    assert np.abs(edges - [(0, 4), (4, 8), (8, 12)]).max() <= 0.5
    assert edges[0, 0] == 0 and edges[-1, -1] == 12
    assert all(float(event["score"]) >= 0.5 for event in events)
    width, height = Image.open(tmp_path / "pictures" / "three.mp4.png").size
    assert width == 1440 and height > 300


def test_json_has_an_object_for_each_window(three, colours, tmp_path):
    more = ["--window", 2, "--step", 2, "--smooth", 4, "--threshold", 0.4]
    files = ["--out", tmp_path / "w.json", "--events", tmp_path / "e.json"]
    missing = tmp_path / "empty.mp4"
    missing.touch()
    code, printed, said = run(three, missing, "--weights", "any", *more, *files)
    assert code == 1 and f"{missing}\tunreadable: empty file" in printed
    assert "6 windows" in said
    *windows, last = json.loads((tmp_path / "w.json").read_text())
    assert len(windows) == 6 and last["reason"] == "empty file" and not last["top"]
    assert windows[1]["start"] == 2 and windows[1]["frames"] == 50
    assert next(best["class"] for best in windows[0]["top"]) == "red"
    events = json.loads((tmp_path / "e.json").read_text())
    assert [event["class"] for event in events] == list(COLOURS)


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    model = create_model("i3d_tiny", 8, "gn").eval()
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    names = tuple(f"class {number}" for number in range(8))
    write_weights(path, model, metadata(names, strides=layer_strides(model)))
    return path


def test_a_window_of_the_whole_video_is_its_prediction(three, weights):
    for clips, crops in ((1, 1), (2, 3)):
        predictor = TimelinePredictor(weights, 100, 50, clips=clips, crops=crops, top=8)
        (window,) = predictor.predict(three)
        (whole,) = predict(three, weights, clips=clips, crops=crops, top=8, workers=1)
        assert window.classes == whole.classes
        np.testing.assert_allclose(window.probabilities, whole.probabilities, atol=1e-6)


def test_windows_in_one_pass_are_those_one_by_one(three, weights):
    one, many = (
        list(TimelinePredictor(weights, 3, 3, crops=3, batch=batch).predict(three))
        for batch in (1, 9)
    )
    for single, together in zip(one, many, strict=True):
        assert single[:4] == together[:4]
        torch.testing.assert_close(single.scores, together.scores)


def test_odd_files_are_reasons(tmp_path, weights):
    predictor = TimelinePredictor(weights, 2, 1)
    Image.new("RGB", (64, 64)).save(tmp_path / "picture.png")
    (tmp_path / "text.mp4").write_bytes(b"no video at all\n" * 100)
    reasons = {
        "none.mp4": "no such file",
        "picture.png": "a picture, not a video",
        "text.mp4": "no video header: not a video, or cut off before it",
        ".": "a folder without numbered images",
    }
    for name, reason in reasons.items():
        (found,) = predictor.predict(tmp_path / name)
        assert found.reason == reason and not found.end and not found.classes
    write_video(tmp_path / "a:b.mp4", 5)
    (found,) = predictor.predict(tmp_path / "a:b.mp4")
    assert found.frames == 5 and found.classes


def test_weights_that_give_no_numbers_are_no_answers(three, monkeypatch):
    class Broken(nn.Module):
        def forward(self, clips: Tensor) -> Tensor:
            return clips.mean((2, 3, 4)) * float("nan")

    network = LoadedModel(Broken(), metadata(COLOURS))
    monkeypatch.setattr(inference, "load_model", lambda path, device: network)
    for window in TimelinePredictor("any", 4, 4).predict(three):
        assert "not finite" in window.reason and not window.classes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--step", 1], "--step is about windows of time: add --window SECONDS"),
        (["--events", "e.csv"], "--events is about windows"),
        (["--window", 0], "window is 0 seconds: expected 0.001 or more"),
        (["--window", 2, "--step", -1], "step is -1 seconds"),
        (["--window", 2, "--threshold", 0], "threshold is 0: expected above 0"),
        (["--window", 2, "--threshold", 1.5], "threshold is 1.5"),
        (["--window", 2, "--smooth", -1], "smooth is -1 seconds"),
        (["--window", 2, "--smooth", "nan"], "smooth is nan seconds"),
        (["--window", 2, "--events", "e.txt"], "events e.txt: call it something.csv"),
        (["--window", 2, "--contact-sheets", "x"], "with --window use --pictures"),
        (["--window", 2, "--crops", 2], "crops is 2"),
        (["--window", 2, "--delay", 0], "delay is 0 seconds"),
        (["--window", 2, "-"], "2 videos with a stream"),
    ],
)
def test_wrong_options_are_one_line(three, weights, arguments, message):
    with pytest.raises(SnvideoError, match=message):
        run(three, "--weights", weights, *arguments)


def test_a_stream_is_predicted_as_its_file_and_its_password_is_kept(three, colours, monkeypatch):
    expected = list(TimelinePredictor("any", 2, 1).predict(three))
    live = TimelinePredictor("any", 2, 1, delay=60.0)
    opened = timeline.LiveDecoder
    monkeypatch.setattr(timeline, "LiveDecoder", lambda source, *more: opened(str(three), *more))
    found = list(live.predict("rtsp://me:secret@host/door"))
    assert {window.video for window in found} == {"rtsp://host/door"}
    assert [window[1:-1] for window in found] == [window[1:-1] for window in expected]
    assert not TimelinePredictor("any", 2, 1).stop()


def test_a_stream_that_cannot_be_opened_is_a_reason(colours):
    for source in ("rtsp://127.0.0.1:9/none", "nonsense://x", "/dev/null"):
        (found,) = TimelinePredictor("any", 2, 1, timeout=5).predict(source)
        assert found.reason and "127.0.0.1" not in found.reason and not found.classes


@pytest.mark.process
def test_the_standard_input_is_read_to_its_end(three, weights, tmp_path):
    """At its reader's pace: nothing is dropped."""
    stream = tmp_path / "three.ts"
    with av.open(str(three)) as source, av.open(str(stream), "w") as out:
        copied = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = copied
                out.mux(packet)
    command = [sys.executable, "-m", "snvideo", "predict", "-", "--weights", str(weights)]
    with subprocess.Popen(["cat", str(stream)], stdout=subprocess.PIPE) as writer:
        done = subprocess.run(
            [*command, "--window", "2", "--step", "2", "--top", "1"],
            stdin=writer.stdout,
            capture_output=True,
            text=True,
            timeout=500,
        )
    assert done.returncode == 0, done.stderr
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert [line[:3] for line in lines] == [
        ["-", f"{n:.3f}", f"{n + 2:.3f}"] for n in range(0, 12, 2)
    ]
    assert "dropped" not in done.stdout + done.stderr
