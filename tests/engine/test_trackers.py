"""Trackers get every line of a run once, and none of their faults touches it."""

import importlib
import json
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from snvideo.cli import app
from snvideo.engine import tracker_process
from snvideo.engine.config import LogConfig
from snvideo.engine.run_dir import RunDir
from snvideo.engine.tracker_process import end_trackers, start_trackers
from snvideo.engine.trackers import TRACKERS, TrackedRun, figures
from snvideo.engine.tracking import forget_sent, send, sent_so_far
from snvideo.engine.train import train
from snvideo.errors import SnvideoError
from snvideo.extras import MissingExtraError
from tests.engine.runs import ROOT, metrics, run_config

RESULTS = {"steps": 4, "video_top1": 0.5, "classes": ["a"], "views": {"clips": 2}, "norm": "sn"}


class Recorder:
    """A tracker that keeps what it gets."""

    runs: list["Recorder"]

    def __init__(self, run: TrackedRun) -> None:
        self.run, self.logged, self.results = run, [], "not ended"  # type: ignore[var-annotated]
        self.id = run.id or f"id{len(self.runs)}"
        self.runs.append(self)

    def log(self, step: int, values: dict[str, float]) -> None:
        self.logged.append((step, values))

    def finish(self, results: Any, again: bool) -> None:
        self.results, self.again = results, again


@pytest.fixture
def recorders(monkeypatch) -> list[Recorder]:
    Recorder.runs = []
    monkeypatch.setitem(TRACKERS, "wandb", Recorder)
    return Recorder.runs


@pytest.fixture
def run(tmp_path) -> Path:
    """A folder with what a tracker is told of a run, at step 4."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text("output: runs/a\nlog: {project: p}\noptim: {lr: 0.1}\n")
    (folder / "metrics.jsonl").write_text("")
    for step in (2, 4):
        add(folder, "train", step, loss=1 / step)
    return folder


def add(folder: Path, kind: str, step: int, **values: float) -> None:
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")


# Lines ---------------------------------------------------------------------------------------


def test_each_line_is_sent_once_also_by_a_run_that_goes_on(run, recorders):
    """It goes on at step 2, and writes step 4 again, with another rate of clips."""
    assert send(run, "wandb") == 2
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text(lines[0])
    add(run, "validate", 2, top1=0.25)
    add(run, "train", 4, loss=7.0)
    add(run, "train", 6, loss=0.1)
    (run / "results.json").write_text(json.dumps(RESULTS))
    assert send(run, "wandb") == 2
    first, second = recorders
    assert first.logged == [(2, {"train/loss": 0.5}), (4, {"train/loss": 0.25})]
    assert second.logged == [(2, {"validate/top1": 0.25}), (6, {"train/loss": 0.1})]
    assert (first.run.id, first.results) == (None, None)
    assert (second.run.id, second.results) == ("id0", RESULTS)
    told = (first.run.project, first.run.name, first.run.config["optim"])
    assert told == ("p", "runs/a", {"lr": 0.1})
    assert send(run, "wandb") == 0
    # It has them, and is no run that was killed.
    assert (recorders[2].results, recorders[2].again) == (RESULTS, True)
    forget_sent(run)
    assert send(run, "wandb") == 4
    assert recorders[3].run.id is None and recorders[3].results == RESULTS


def test_a_line_that_is_being_written_waits_until_it_is_whole(run, recorders):
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')
    looks = iter((False, False, True))

    def ended() -> bool:
        last = next(looks)
        if last:
            with (run / "metrics.jsonl").open("a") as file:
                file.write('ep": 6, "loss": 0.5}\n')
        return last

    assert send(run, "wandb", ended) == 3
    assert recorders[0].logged[-1] == (6, {"train/loss": 0.5})


def test_what_was_sent_is_known_after_a_tracker_has_failed(run, recorders, monkeypatch):
    def ended() -> bool:
        if recorders[0].logged:
            raise ConnectionError
        return False

    with pytest.raises(ConnectionError):
        send(run, "wandb", ended)
    assert send(run, "wandb") == 0
    assert sent_so_far(run, "wandb").steps == {"train": 4}


def test_figures_are_the_numbers_of_results():
    assert figures(RESULTS) == {
        "results/steps": 4, "results/video_top1": 0.5, "results/views.clips": 2
    }  # fmt: skip


# Bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("metrics.jsonl", '{"kind": "train"}\n', "a line of no metrics: {\"kind\": \"train\"}"),
        ("metrics.jsonl", "\x00\x00\n", "a line of no metrics"),
        ("metrics.jsonl", "[1]\n", "a line of no metrics"),
        ("tracking/wandb.json", "{", "does not say what wandb has got: delete it"),
        ("tracking/wandb.json", '{"steps": [1]}', "does not say what wandb has got: delete it"),
    ],
)  # fmt: skip
def test_a_broken_file_is_one_line(run, recorders, file, text, message):
    (run / "tracking").mkdir()
    (run / file).write_text(text)
    with pytest.raises(SnvideoError) as error:
        send(run, "wandb")
    assert message in str(error.value) and str(run / file) in str(error.value)


@pytest.mark.parametrize(
    ("trackers", "message"),
    [(["wandb", "wandb"], "stands there twice"), (["comet"], "'wandb'"), ("wandb", "tuple")],
)
def test_trackers_of_a_config_are_known_and_named_once(trackers, message):
    with pytest.raises(ValueError, match=message):
        LogConfig(trackers=trackers)


def test_the_command_sends_what_is_missing_or_says_why_not(toy, tmp_path, recorders, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", sys)  # is installed
    monkeypatch.setitem(sys.modules, "mlflow", None)
    config = run_config(toy, tmp_path / "run", "log.trackers=[wandb]")
    run_dir = RunDir(tmp_path / "run")

    def track(*options: str) -> str:
        done = CliRunner().invoke(app, ["track", str(run_dir.path), *options])
        assert done.exit_code == 0 or isinstance(done.exception, SnvideoError)
        return str(done.exception) if done.exception else done.output

    assert track() == f"{run_dir.path} is not the folder of a run: it has no config.yaml"
    started: list[str] = []
    monkeypatch.setattr("snvideo.engine.run_dir.start_trackers", lambda *_: started)
    run_dir.open(config, 0, 0)
    run_dir.log("train", 1, loss=0.5)
    run_dir.close()
    assert track() == "wandb: 1 lines of metrics sent\n"
    assert recorders[0].logged == [(1, {"train/loss": 0.5})]
    assert track("--to", "comet") == "no tracker 'comet': expected wandb, mlflow, trackio"
    assert track("--to", "tensorboard").endswith("name one, as in --to wandb")
    assert track("--to", "mlflow").endswith("need mlflow: pip install 'snvideo[mlflow]'")
    with run_dir.locked():
        assert "in use by process" in track()


def test_a_tracker_that_is_not_installed_stops_a_run_before_it_begins(toy, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    config = run_config(toy, tmp_path / "run", "log.trackers=[tensorboard,wandb]")
    with pytest.raises(MissingExtraError, match=r"pip install 'snvideo\[wandb\]'"):
        train(config)
    assert not (tmp_path / "run").exists()


# Processes -----------------------------------------------------------------------------------

FAKE = """
import json, os, pathlib, signal, sys, time
Settings = dict
def init(**options):
    {fault}
    return Run(options)
class Run:
    def __init__(self, options):
        self.file = pathlib.Path(os.environ["FAKE_WANDB"]).open("a")
        self.summary = self
        self.log({{"id": options["id"]}})
    def define_metric(self, *names, **options): pass
    def log(self, values): print(json.dumps(values), file=self.file, flush=True)
    def update(self, values): self.log(values)
    def finish(self, exit_code): self.log({{"exit_code": exit_code}})
"""


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Install a fake wandb with a fault, for this process and others; its log is FAKE_WANDB."""

    def install(fault: str = "pass") -> Path:
        folder = tmp_path / "packages"
        folder.mkdir()
        (folder / "wandb.py").write_text(FAKE.format(fault=fault))
        monkeypatch.syspath_prepend(str(folder))
        monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{ROOT}")
        monkeypatch.setenv("FAKE_WANDB", str(tmp_path / "sent.jsonl"))
        return tmp_path / "sent.jsonl"

    return install


@pytest.mark.process
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("raise ConnectionError('no route\\n to host')", "ConnectionError: no route"),
        ("sys.exit(3)", "SystemExit: 3"),
        ("print('chatty' * 99999); os._exit(7)", "its process ended with status 7"),
        ("os.kill(os.getpid(), 9)", "its process ended with status -9"),
        ("time.sleep(99)", "has not got everything 1 s after the end"),
        ("os.fork() or time.sleep(9); raise OSError(28, 'disk')", "OSError: [Errno 28] disk"),
    ],
)
def test_a_fault_is_one_warning_and_no_delay(run, fake, caplog, monkeypatch, fault, said):
    fake(fault)
    monkeypatch.setattr(tracker_process, "TIMEOUT", 1.0)
    processes = start_trackers(["tensorboard", "wandb"], run)
    until = time.monotonic() + 60
    while "sleep(99)" not in fault and not caplog.messages and time.monotonic() < until:
        for process in processes:
            process.check()
        time.sleep(0.05)
    begun = time.monotonic()
    end_trackers(processes)
    assert time.monotonic() - begun < 5
    assert caplog.messages == [
        f"wandb: {said}; the run goes on without it, and 'snvideo track {run}' sends the rest"
    ]


@pytest.mark.process
def test_a_run_and_its_tracker(toy, tmp_path, fake, monkeypatch):
    """A run that breaks off goes on in the tracker's run, and all processes end with it."""
    sent, output = fake(), tmp_path / "run"
    monkeypatch.setattr(tracker_process, "TIMEOUT", 120.0)
    config = run_config(toy, output, "log.trackers=[wandb]")
    (output / "results.json").parent.mkdir(exist_ok=True)
    with monkeypatch.context() as patch:
        patch.setattr("snvideo.engine.train._test", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(config)
    found = train(config)
    lines = [json.loads(line) for line in sent.read_text().splitlines()]
    assert not (output / "tensorboard").exists()
    assert len({line["id"] for line in lines if "id" in line}) == 1
    assert [line["exit_code"] for line in lines if "exit_code" in line] == [1, 0]
    losses = [(line["step"], line["train/loss"]) for line in lines if "train/loss" in line]
    assert losses == [(line["step"], line["loss"]) for line in metrics(output, "train")]
    assert lines[-2]["results/video_top1"] == found.video_top1


# The libraries themselves, without network ---------------------------------------------------


@pytest.fixture
def real(run, tmp_path, monkeypatch):
    """Send a run to a library, twice: before its end and after it."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.chdir(tmp_path)  # where some leave files

    def send_twice(tracker: str) -> str:
        pytest.importorskip(tracker)
        command = [sys.executable, "-m", "snvideo.engine.tracking", tracker, str(run)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
        for last in (False, True):
            if last:
                add(run, "validate", 4, top1=0.25)
                (run / "results.json").write_text(json.dumps(RESULTS))
            done = subprocess.run(command, input=b"\n", capture_output=True, env=environment)
            assert (done.returncode, done.stdout) == (0, b"")
        return sent_so_far(run, tracker).id or ""

    return send_twice


@pytest.mark.process
def test_mlflow(real):
    name = real("mlflow")
    client = importlib.import_module("mlflow").MlflowClient()
    found = client.get_run(name)
    assert (found.info.run_name, found.info.status) == ("runs/a", "FINISHED")
    assert found.data.params["optim.lr"] == "0.1"
    assert [(m.step, m.value) for m in client.get_metric_history(name, "train/loss")] == [
        (2, 0.5), (4, 0.25)
    ]  # fmt: skip
    assert found.data.metrics["validate/top1"] == 0.25
    assert found.data.metrics["results/video_top1"] == 0.5


@pytest.mark.process
def test_trackio(real, tmp_path):
    name = real("trackio")
    with sqlite3.connect(tmp_path / "trackio/p.db") as database:
        rows = database.execute(
            "SELECT run_name, step, metrics FROM metrics ORDER BY id"
        ).fetchall()
        ((config,),) = database.execute("SELECT config FROM configs").fetchall()
    assert {row[0] for row in rows} == {name}
    assert [(step, json.loads(values)) for _, step, values in rows][:3] == [
        (2, {"train/loss": 0.5}), (4, {"train/loss": 0.25}), (4, {"validate/top1": 0.25})
    ]  # fmt: skip
    assert json.loads(rows[3][2])["results/video_top1"] == 0.5
    assert json.loads(config)["optim"] == {"lr": 0.1}


@pytest.mark.process
def test_wandb(real, run):
    name = real("wandb")
    files = sorted((run / "tracking/wandb").glob(f"offline-run-*/run-{name}.wandb"))
    assert len(files) == 2  # `wandb sync` puts them together, by the name
    first, second = (file.read_bytes() for file in files)
    assert first.count(b"train/loss") >= 2 and b"results/" not in first
    assert b"validate/top1" in second and b"results/video_top1" in second
