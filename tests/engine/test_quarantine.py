"""Runs whose videos hang, crash and kill their readers: nothing but these videos is lost."""

import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from snvideo.data import dataset
from snvideo.data.index import ClipIndex
from snvideo.engine.evaluate import evaluate
from snvideo.engine.train import train
from tests.data.faults import sabotage
from tests.engine.runs import last_weights, metrics, results, run_config

EPOCHS = 2


def fates_of(toy: Path) -> dict[str, str]:
    index = ClipIndex.load(toy / "index.csv", "train")
    return {index[4].name: "hang", index[23].name: "segv", index[40].name: "kill"}


def options(*more: str) -> tuple[str, ...]:
    return ("data.timeout=5", f"optim.epochs={EPOCHS}", "statistics.batches=2", *more)


@pytest.fixture(scope="module")
def harmless(toy, tmp_path_factory) -> Path:
    """The run that all must come to: in one process, of videos that simply cannot be read."""
    folder = tmp_path_factory.mktemp("harmless") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset, "decode_frames", dataset.decode_frames)  # put back afterwards
        sabotage(dict.fromkeys(fates_of(toy), "raise"), folder.parent)
        train(run_config(toy, folder, *options()))
    return folder


def check(run: Path, toy: Path, harmless: Path) -> None:
    with (run / "quarantine.csv").open() as file:
        rows = {row["path"]: row["reason"] for row in csv.DictReader(file)}
    assert rows.keys() == fates_of(toy).keys()
    assert sorted(reason.split()[-1] for reason in rows.values()) == ["s", "twice", "twice"]
    for folder in (run, harmless):  # three of 48, in each epoch
        assert results(folder)["replaced_samples"] == 3 * EPOCHS
        assert results(folder)["quarantined_videos"] == 3
    lines = metrics(run, "unreadable")
    assert [(m["epoch"], m["replaced"], m["closed"]) for m in lines] == [(1, 3, 3), (2, 3, 3)]


@pytest.mark.process
def test_alone(toy, tmp_path, harmless, monkeypatch):
    monkeypatch.setattr(dataset, "decode_frames", dataset.decode_frames)  # put back afterwards
    sabotage(fates_of(toy), tmp_path)
    config = run_config(toy, tmp_path / "run", *options("data.workers=2"))
    train(config)
    check(tmp_path / "run", toy, harmless)
    weights, expected = last_weights(tmp_path / "run"), last_weights(harmless)
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    # Testing again opens none of them: nothing hangs in this process, which has no workers.
    begun = time.monotonic()
    data = config.data.model_copy(update={"workers": 0})
    evaluate(config.model_copy(update={"data": data}), tmp_path / "run")
    assert time.monotonic() - begun < 60


@pytest.mark.parametrize("start_method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
@pytest.mark.process
def test_two_processes(toy, tmp_path, harmless, start_method):
    output = tmp_path / "run"
    more = (f"data.start_method={start_method}", "data.workers=1")
    limit = () if start_method == "fork" else ("data.timeout=10",)  # spawned ones import decoders
    run_config(toy, output)
    script = str(Path(__file__).with_name("sabotaged.py"))
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    call = [sys.executable, *launcher, script, "train", str(tmp_path / "run.yaml")]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path.cwd()),
        "SABOTAGE": json.dumps(fates_of(toy)),
        "SABOTAGE_FOLDER": str(tmp_path),
    }
    call += [*options(*more), *limit]
    done = subprocess.run(call, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    check(output, toy, harmless)
    weights, expected = last_weights(output), last_weights(harmless)
    for name in expected:
        torch.testing.assert_close(weights[name], expected[name], rtol=1e-3, atol=1e-4)
