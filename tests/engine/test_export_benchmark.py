"""The benchmark of exports: who is measured, who is named with a reason, and who agrees."""

import sys
import time

import pytest
import torch
from typer.testing import CliRunner

from snvideo.cli import app
from snvideo.data.index import ClipIndex
from snvideo.engine import export_benchmark as benchmarks
from snvideo.engine.export_benchmark import benchmark_export
from snvideo.engine.inference import open_inference
from snvideo.engine.int8 import Int8Program, read_calibration, write_int8
from snvideo.errors import SnvideoError
from snvideo.models.int8 import Agreement
from snvideo.report.export_benchmark import print_benchmark
from tests.engine.weights import random_weights


class Mean(torch.nn.Module):
    """A network that is done at once."""

    def forward(self, clips):
        return clips.mean((2, 3, 4))


def refuse(*_, **__):
    raise RuntimeError("no compiler\nand no more")


@pytest.fixture
def found(monkeypatch):
    """A benchmark of onnxruntime twice as wrong as it may be, and ten times as slow."""

    def slow(source, threads):
        assert (source, threads) == (b"program", 1)
        return lambda clips: time.sleep(0.01) or clips.mean((2, 3, 4)) * 1.0002

    monkeypatch.setattr(torch, "compile", refuse)
    monkeypatch.setattr(benchmarks, "open_session", slow)
    threads, turns = torch.get_num_threads(), []
    torch.set_num_threads(2)
    clips = torch.rand(5, 3, 2, 4, 4)
    report = benchmark_export(
        *(Mean(), b"program", "no videos", clips),
        batches=(2, 3),
        rounds=4,
        progress=lambda done, total: turns.append((done, total)),
    )
    assert torch.get_num_threads() == 2
    torch.set_num_threads(threads)
    assert turns == [(done, 24) for done in range(1, 25)]
    return report


def test_every_way_has_a_row_with_times_or_a_reason(found):
    ways = ["eager", "torch.compile", "onnxruntime", "onnxruntime int8"]
    assert [(row.batch, row.name) for row in found.rows] == [(b, w) for b in (2, 3) for w in ways]
    eager, compiled, runtime, int8 = found.rows[:4]
    assert eager.ratio == (1, 1, 1) and runtime.ratio.median > 1
    assert 0.01 <= runtime.seconds.low <= runtime.seconds.median <= runtime.seconds.high
    assert runtime.clips_per_second == pytest.approx(2 / runtime.seconds.median)
    assert (compiled.reason, int8.reason) == ("no compiler", "no videos")
    assert compiled.seconds is None and compiled.clips_per_second is None
    assert found.agreements["onnxruntime"].clips == 5
    assert found.agreements["onnxruntime"].largest == pytest.approx(2e-4, rel=0.01)
    assert found.agrees("eager") and not found.agrees("onnxruntime")


def test_a_way_that_differs_wins_nothing(found, capsys):
    print_benchmark(found, "random clips")
    shown = capsys.readouterr().out
    lines = [line.split() for line in shown.splitlines()]
    rows = {(line[0], line[1]): line for line in lines if len(line) > 2}
    assert rows["onnxruntime", "2"][-1] == "differs"
    assert rows["eager", "2"][-2:] == ["1.00", "(1.00..1.00)"]
    assert "torch.compile: not measured: no compiler" in shown
    assert "onnxruntime int8: not measured: no videos" in shown
    assert "Logits on random clips" in " ".join(shown.split())


def test_int8_is_compared_on_other_videos_than_it_is_calibrated_on(toy, tmp_path):
    inference = open_inference(
        random_weights(tmp_path / "net.safetensors"),
        **{"clips": 1, "crops": 1, "workers": 1, "batch": 1, "device": "cpu", "timeout": 60},
    )
    read = read_calibration(inference, toy / "index.csv", "val", 3)
    again = read_calibration(inference, toy / "index.csv", "val", 3)
    assert read.calibration.shape == read.others.shape == (3, 4, 3, 32, 32)
    assert torch.equal(read.calibration, again.calibration)
    assert len({clip.numpy().tobytes() for clip in (*read.calibration, *read.others)}) == 6
    assert read.other_inputs.shape == (3, 3, 4, 32, 32) and read.other_inputs.min() < 0
    all_of_them = len(ClipIndex.load(toy / "index.csv", "val"))
    few = read_calibration(inference, toy / "index.csv", "val", 1000)
    assert len(few.calibration) + len(few.others) == all_of_them


def test_int8_that_differs_is_refused_and_leaves_what_was_there(tmp_path):
    path = tmp_path / "net.int8.onnx"
    path.write_bytes(b"before")
    with pytest.raises(SnvideoError, match=r"net\.int8\.onnx was not written: top-1 equal on 90"):
        write_int8(path, Int8Program(b"off", Agreement(0.2, 0.01, 0.9, 100)))
    assert path.read_bytes() == b"before"
    write_int8(path, Int8Program(b"near", Agreement(0.2, 0.01, 0.99, 100)))
    assert path.read_bytes() == b"near"
    with pytest.raises(SnvideoError, match="cannot write"):
        write_int8(path / "in a file", Int8Program(b"near", Agreement(0.2, 0.01, 0.99, 100)))


def test_int8_is_for_onnx_alone(tmp_path):
    arguments = ["export", "net", str(tmp_path / "net.pt2"), "--calibration", "index.csv"]
    with pytest.raises(SnvideoError, match=r"int8 \(--calibration\) is for \.onnx alone"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)


def test_what_is_not_installed_is_a_row_with_the_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "compile", refuse)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    weights, out = random_weights(tmp_path / "net.safetensors"), tmp_path / "copy.safetensors"
    options = ["--benchmark", "--batch", "1", "--rounds", "2"]
    done = CliRunner().invoke(app, ["export", str(weights), str(out), *options])
    assert done.exit_code == 0 and out.exists()
    words = " ".join(done.output.split())
    assert "onnxruntime: not measured: exports to ONNX need onnxruntime: pip install" in words
    assert "int8: not measured: it needs videos (--calibration INDEX): random clips are no" in words
    assert "eager 1 " in words


@pytest.mark.process
def test_an_export_is_measured_and_written_in_int8(toy, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(torch, "compile", refuse)
    weights, out = random_weights(tmp_path / "net.safetensors"), tmp_path / "net.onnx"
    options = ["--calibration", str(toy / "index.csv"), "--videos", "8", "--benchmark"]
    options += ["--batch", "2", "--rounds", "2", "--threads", "1", "--workers", "1"]
    done = CliRunner().invoke(app, ["export", str(weights), str(out), *options])
    words = " ".join(done.output.split())
    assert "takes any number of frames from" in words
    assert "torch.compile: not measured: no compiler" in words
    assert "2 rounds in random order" in words and "onnxruntime int8 2 " in words
    written = (tmp_path / "net.int8.onnx").exists()
    assert (done.exit_code == 0) is written is ("onnxruntime int8: agrees" in words)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--threads", "1"], "--threads is about measuring: add --benchmark"),
        (["--benchmark", "--split", "val"], "--split is about int8: add --calibration INDEX"),
    ],
)
def test_options_of_what_is_not_asked_for_are_refused(tmp_path, options, problem):
    out = tmp_path / "net.onnx"
    done = CliRunner().invoke(app, ["export", "net", str(out), *options])
    assert str(done.exception) == problem and not out.exists()
