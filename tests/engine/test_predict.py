"""Predictions of real files: the numbers of an evaluation, and an answer for whatever is given."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from snvideo.cli import app
from snvideo.data import dataset
from snvideo.data.files import find_videos
from snvideo.data.index import ClipIndex
from snvideo.data.quarantine import Quarantine
from snvideo.engine.distributed import World
from snvideo.engine.evaluate import evaluate_views
from snvideo.engine.predict import Prediction, predict
from snvideo.errors import SnvideoError
from snvideo.models.pretrained import load_model, write_weights
from snvideo.report.predictions import (
    ContactSheets,
    check_output,
    prediction_text,
    prediction_tsv,
    write_predictions,
)
from tests.data.faults import sabotage
from tests.data.videos import write_video
from tests.engine.runs import run_config
from tests.engine.weights import CLASSES, random_weights

QUICK = {"clips": 2, "crops": 1, "workers": 1}


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """Random weights that tell videos apart, of a network that sees 4 frames at 10 a second."""
    return random_weights(tmp_path_factory.mktemp("weights") / "model.safetensors")


def videos_of(toy: Path) -> list[Path]:
    index = ClipIndex.load(toy / "index.csv", "val")
    return [index[row].path for row in range(len(index))]


def test_probabilities_are_those_of_an_evaluation(toy, tmp_path, weights):
    model, metadata = load_model(weights)
    seen = metadata.preprocessing
    config = run_config(
        toy,
        tmp_path / "run",
        *("test_batch=5", f"data.mean={list(seen.mean)}", f"data.std={list(seen.std)}"),
        *("data.clip={frames: 4, stride: 3, target_fps: 10}", "data.test.short_side=36"),
    )
    alone = World(0, 1, torch.device("cpu"))
    index = ClipIndex.load(toy / "index.csv", "val")
    expected = evaluate_views(
        model, index, config, alone, 2, 3, Quarantine(), range(6)
    ).probabilities
    assert expected.std(0).max() > 0.01  # videos are told apart

    more = {"clips": 2, "crops": 3, "top": 100, "batch": 5, "workers": 1}
    answers = list(predict(videos_of(toy)[:6], weights, **more))
    assert [answer.video for answer in answers] == videos_of(toy)[:6]
    for answer, probabilities in zip(answers, expected, strict=True):
        places = [CLASSES.index(name) for name in answer.classes]
        assert sorted(places) == list(range(8))
        assert np.abs(probabilities[places] - answer.probabilities).max() < 1e-6
        assert sorted(answer.probabilities, reverse=True) == list(answer.probabilities)
        assert not answer.reason and not answer.remark


def test_odd_files_cost_themselves_alone(toy, tmp_path, weights, monkeypatch):
    good = videos_of(toy)[0]
    content = good.read_bytes()
    names = {
        "cut.mp4": content[: len(content) // 2],
        "text.mp4": b"no video at all\n" * 100,
        "empty.mp4": b"",
        os.fsdecode(b"bytes \xff\n$x$ [red] \xc3\xa9.mp4"): content,
    }
    for name, data in names.items():
        (tmp_path / name).write_bytes(data)
    Image.new("RGB", (64, 64)).save(tmp_path / "picture.png")
    (tmp_path / "dangling.mp4").symlink_to("missing")
    os.mkfifo(tmp_path / "pipe.mp4")
    write_video(tmp_path / "one.mp4", frames=1)
    write_video(tmp_path / "short.mp4", frames=3)
    write_video(tmp_path / "hidden.mp4", hidden=9)
    write_video(tmp_path / "rotated.mp4", rotation=90)
    given = sorted(path for path in tmp_path.iterdir())
    faults = {str(tmp_path / "short.mp4"): "hang", str(tmp_path / "one.mp4"): "raise"}
    monkeypatch.setattr(dataset, "decode_frames", dataset.decode_frames)  # put back afterwards
    sabotage(faults, tmp_path)

    answers = list(predict([*given, good], weights, timeout=2, **QUICK))
    assert [answer.video for answer in answers] == [*given, good]
    reasons = {answer.video.name: answer.reason for answer in answers if not answer.classes}
    assert reasons == {
        "cut.mp4": "no video header: not a video, or cut off before it",
        "dangling.mp4": "no such file",
        "empty.mp4": "empty file",
        "one.mp4": "no good",
        "picture.png": "a picture, not a video",
        "pipe.mp4": "not a regular file",
        "short.mp4": "no answer for 2 s",
        "text.mp4": "no video header: not a video, or cut off before it",
    }
    monkeypatch.undo()
    (same,) = (answer for answer in answers if answer.video.name.startswith("bytes"))
    assert same[1:] == answers[-1][1:]
    short = list(predict([tmp_path / "one.mp4", tmp_path / "short.mp4"], weights, **QUICK))
    assert all(len(answer.classes) == 5 for answer in short)


def test_wrong_arguments_are_errors(toy, weights):
    videos = videos_of(toy)[:1]
    for more, message in (
        ({"crops": 2}, "crops is 2: expected 1"),
        ({"workers": 0}, "workers is 0"),
        ({"device": "tpu"}, "no device 'tpu'"),
        ({"device": f"cuda:{torch.cuda.device_count()}"}, "beside \\d+ GPUs"),
    ):
        with pytest.raises(SnvideoError, match=message):
            next(predict(videos, weights, **more))
    with pytest.raises(SnvideoError, match="cannot be written"):
        ContactSheets(videos[0])


def test_videos_are_found(toy, tmp_path, monkeypatch):
    monkeypatch.chdir(toy)
    everything = sorted(Path().rglob("*.mp4"))
    assert len(everything) == 64
    assert find_videos(["."]) == everything
    assert find_videos([str(toy)]) == [toy / path for path in everything]
    assert sorted(find_videos(["**/*.mp4"])) == everything
    validation = [path for path in everything if path.parts[0] == "val"]
    assert find_videos(["val/*/*.mp[4]"]) == find_videos(["val"]) == validation
    one = validation[3]
    assert find_videos([str(one), "train/..//val", str(toy / one)])[0] == one
    assert len(find_videos([str(one), "train/../val", str(toy / one)])) == len(validation)

    brackets = tmp_path / "a[1].mp4"  # a name that is a pattern, of a file that is there
    brackets.touch()
    (tmp_path / "[1]").mkdir()
    (tmp_path / "[1]" / "b.mp4").touch()
    (tmp_path / "link.mp4").symlink_to("missing")
    assert find_videos([str(brackets), str(tmp_path / "[1]")]) == [
        brackets,
        tmp_path / "[1]" / "b.mp4",
    ]
    assert find_videos([str(tmp_path / "link.mp4")]) == [tmp_path / "link.mp4"]
    (tmp_path / "none").mkdir()
    for argument in ("missing.mp4", "", "val/*.mp4", "**/*.avi", str(tmp_path / "none")):
        with pytest.raises(SnvideoError, match=r"no video|no file"):
            find_videos(["val", argument])


def test_the_command(toy, tmp_path, weights):
    one, two = videos_of(toy)[:2]
    twin = tmp_path / "twin" / one.name
    twin.parent.mkdir()
    shutil.copy(one, twin)
    (tmp_path / "empty.mp4").touch()
    options = ["--weights", str(weights), "--clips", "2", "--crops", "1", "--top", "2"]
    sheets = ["--contact-sheets", str(tmp_path / "sheets")]
    good = [*map(str, (one, two, twin)), *options]

    done = CliRunner().invoke(app, ["predict", *good, *sheets, "--out", str(tmp_path / "a.csv")])
    assert done.exit_code == 0, done.output
    with (tmp_path / "a.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["video"], row["rank"]) for row in rows] == [
        (str(video), rank) for video in (one, two, twin) for rank in "12"
    ]
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    for row, line in zip(rows, lines, strict=True):
        assert line == [row["video"], row["rank"], line[2], row["class"]]
        assert abs(float(line[2]) - float(row["probability"])) < 1e-4
    names = [f"{one.name}.png", f"{two.name}.png", f"{one.name} (2).png"]
    assert sorted(path.name for path in (tmp_path / "sheets").iterdir()) == sorted(names)

    bad = ["predict", *good, str(tmp_path / "empty.mp4"), "--out", str(tmp_path / "b.json")]
    done = CliRunner().invoke(app, bad)
    assert done.exit_code == 1
    assert f"{tmp_path / 'empty.mp4'}\tunreadable: empty file\n" in done.stdout
    *values, last = json.loads((tmp_path / "b.json").read_text())
    expected = {"video": str(tmp_path / "empty.mp4"), "top": [], "reason": "empty file"}
    assert last == {**expected, "remark": ""}
    found = [(value["video"], best["class"]) for value in values for best in value["top"]]
    assert found == [(row["video"], row["class"]) for row in rows]

    done = CliRunner().invoke(app, ["predict", str(tmp_path / "none*"), *options])
    assert isinstance(done.exception, SnvideoError)


ODD = Prediction(Path(os.fsdecode(b"a\xff\n\t[b].mp4")), ("x\ty", "z"), (0.75, 0.25), "", "odd")


def test_odd_names_are_one_line_when_printed_and_unchanged_in_files(tmp_path):
    lost = Prediction(Path("é.mp4"), reason="empty file")
    assert prediction_tsv(ODD) == [
        "a\ufffd  [b].mp4\t1\t0.7500\tx y",
        "a\ufffd  [b].mp4\t2\t0.2500\tz",
    ]
    name, first, second, end = prediction_text(ODD).plain.split("\n")
    assert (name, end) == ("a\ufffd  [b].mp4  (odd)", "")
    assert first == f"   75.0 %  {15 * '━'}{5 * '─'}  x y"
    assert second == f"   25.0 %  {5 * '━'}{15 * '─'}  z"
    assert prediction_text(lost).plain == "é.mp4\n  empty file\n"

    write_predictions(tmp_path / "a.csv", [ODD, lost])
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = list(csv.reader(file))
    assert rows[1:] == [
        [str(ODD.video), "1", "x\ty", "0.750000", "", "odd"],
        [str(ODD.video), "2", "z", "0.250000", "", "odd"],
        ["é.mp4", "", "", "", "empty file", ""],
    ]
    write_predictions(tmp_path / "a.json", [ODD, lost])
    assert json.loads((tmp_path / "a.json").read_text())[0]["video"] == str(ODD.video)


def test_an_output_that_cannot_be_written_is_an_error_before_the_work(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder.csv").mkdir()
    for name in ("a.txt", "file/a.csv", "folder.csv"):
        with pytest.raises(SnvideoError, match="out "):
            check_output(tmp_path / name)
    check_output(tmp_path / "new" / "a.JSON")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_predictions_of_a_gpu_are_those_of_the_cpu(toy, weights):
    videos = videos_of(toy)[:2]
    for one, two in zip(
        predict(videos, weights, device="cuda", top=8, **QUICK),
        predict(videos, weights, device="cpu", top=8, **QUICK),
        strict=True,
    ):
        on_gpu, on_cpu = (dict(zip(p.classes, p.probabilities, strict=True)) for p in (one, two))
        assert all(abs(on_gpu[name] - on_cpu[name]) < 0.05 for name in CLASSES)


def test_one_video_is_enough_and_wrong_arguments_are_said_at_once(toy, weights):
    video = videos_of(toy)[0]
    answers = [
        list(predict(given, weights, **QUICK)) for given in (video, str(video), [str(video)])
    ]
    assert answers[0] == answers[1] == answers[2] and answers[0][0].classes
    with pytest.raises(SnvideoError, match="cannot read weights"):
        predict([video], "missing.safetensors")  # before anything is asked for


def test_what_is_no_number_is_no_answer(toy, tmp_path, weights):
    model, metadata = load_model(weights)
    model.blocks[0].norm.weight.data.fill_(float("nan"))
    write_weights(tmp_path / "broken.safetensors", model, metadata)
    (answer,) = predict(videos_of(toy)[0], tmp_path / "broken.safetensors", **QUICK)
    assert not answer.classes and "not finite" in answer.reason


UNGUARDED = """
from snvideo import load_config, train
train(load_config("run.yaml", ["data.workers=1", "data.start_method=spawn"]))
"""


@pytest.mark.process
def test_a_script_without_a_main_guard_is_told(toy, tmp_path):
    run_config(toy, tmp_path / "run")
    (tmp_path / "script.py").write_text(UNGUARDED)
    command = [sys.executable, "script.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode and "under: if __name__ == '__main__':" in last
    assert "memory" not in last
