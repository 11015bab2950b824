"""Runs whose length is stated in optimizer steps."""

import io
import math
import shutil
from itertools import islice
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from rich.console import Console

from snvideo.config import load_config
from snvideo.engine import loop
from snvideo.engine.checkpoint import checkpoints
from snvideo.engine.config import OptimConfig
from snvideo.engine.dry_run import dry_run
from snvideo.engine.optim import lr_factor
from snvideo.engine.train import train
from snvideo.engine.trainer import Trainer
from snvideo.errors import SnvideoError
from snvideo.report.dry_run_table import dry_run_table
from tests.engine.runs import CPU, last_state, metrics, results, run_config

IN_STEPS = ("optim.epochs=null", "optim.warmup_epochs=null")
"""What makes a run of `run_config`, whose epochs have 6 steps, one of steps."""


@pytest.mark.parametrize("length", [2, 7, 196, 400_000])
@pytest.mark.parametrize("more", [{}, {"schedule": "step", "milestones": (0.5, 0.75)}])
def test_a_run_of_steps_has_the_schedule_of_one_of_epochs_of_one_step(length, more):
    """Rates are functions of the part of the run, in whatever unit its length is stated."""
    warmup = round(length * 34 / 196)
    steps = OptimConfig.model_validate({"steps": length, **more})
    assert (steps.epochs, steps.warmup_epochs, steps.warmup_steps) == (None, None, warmup)
    epochs = OptimConfig.model_validate({"epochs": length, "warmup_epochs": warmup, **more})
    assert (epochs.steps, epochs.warmup_steps) == (None, None)
    at = range(0, length, max(1, length // 300))
    expected = [lr_factor(epochs, 1, step) for step in at]
    for per_epoch in (1, 3, 10 * length):  # shorter and longer epochs
        assert [lr_factor(steps, per_epoch, step) for step in at] == expected


def test_rates_by_hand():
    config = OptimConfig(steps=10, warmup_steps=2, warmup_start=0.1)
    end = 0.5 * (1 + math.cos(math.pi * 0.2))
    found = [lr_factor(config, 4, step) for step in (0, 1, 2, 5)]
    assert found == pytest.approx([0.1, (0.1 + end) / 2, end, 0.5])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": 9, "epochs": 2}, "a run of steps=9 has no epochs: state its length once"),
        ({"steps": 9, "warmup_epochs": 0}, "has no warmup_epochs"),
        (
            {"steps": 9, "epochs": 2, "warmup_epochs": 1},
            "no epochs and no warmup_epochs: state its length once; "
            "optim.epochs=null optim.warmup_epochs=null takes back",
        ),
        ({"warmup_steps": 3}, "a run of epochs=196 has no warmup_steps"),
        ({"epochs": 4, "warmup_steps": 0}, "a run of epochs=4 has no warmup_steps"),
        ({"steps": 0}, "greater than 0"),
        ({"steps": 2.5}, "valid integer"),
        ({"steps": 100, "warmup_steps": 60}, "warmup_steps=60 is longer than half of the run"),
        ({"steps": 100, "warmup_steps": 60}, "optim.warmup_steps=17 it is"),
        (
            {"steps": 9000, "schedule": "step", "milestones": (3000, 6000)},
            "got 3000; steps 3000, 6000 are [0.333, 0.667]",
        ),
    ],
)
def test_what_is_no_length_is_refused(values, message):
    with pytest.raises(ValidationError) as error:
        OptimConfig.model_validate(values)
    assert message in str(error.value)


def test_an_inherited_length_is_taken_back(tmp_path):
    base, own = tmp_path / "base.yaml", tmp_path / "own.yaml"
    base.write_text(
        "output: run\ndata: {index: i.csv}\noptim: {lr: 0.3, epochs: 7, warmup_epochs: 1}\n"
    )
    own.write_text("base: base.yaml\noptim: {epochs: null, warmup_epochs: null, steps: 50}\n")
    config = load_config(own)
    assert config.optim.lr == 0.3
    optim = config.optim
    assert (optim.steps, optim.epochs) == (50, None)
    assert (optim.warmup_steps, optim.warmup_epochs) == (9, None)
    assert OptimConfig.model_validate(config.optim.model_dump()) == config.optim  # as it is stored
    with pytest.raises(SnvideoError, match=r"'optim': a run of steps=50 has no epochs") as caught:
        load_config(own, ["optim.epochs=3"])
    assert "optim.epochs=null" in str(caught.value) and "\n" not in str(caught.value)
    again = load_config(own, ["optim.epochs=3", "optim.steps=null"])
    assert (again.optim.epochs, again.optim.steps) == (3, None)


@pytest.fixture(scope="module")
def inside(toy, tmp_path_factory) -> Path:
    """A run of 9 steps, one and a half epochs, as it was done at once."""
    run = tmp_path_factory.mktemp("steps") / "run"
    train(run_config(toy, run, *IN_STEPS, "optim.steps=9", "optim.ema=0.5"))
    return run


def test_a_run_ends_inside_an_epoch(inside):
    assert [line["step"] for line in metrics(inside, "validate")] == [6, 9]
    assert [line["epoch"] for line in metrics(inside, "importance")] == [1, 1.5]
    assert [line["step"] for line in metrics(inside, "train")] == [2, 4, 6, 8, 9]
    names = [path.name for path in checkpoints(inside / "checkpoints")]
    assert names == ["step_00000006.pt", "step_00000009.pt"]
    found = results(inside)
    assert (found["epochs"], found["steps"]) == (None, 9)
    assert found["best_validation"]["step"] in (6, 9)
    assert "clips, 9 steps, seed 0" in (inside / "model_card.md").read_text()


def test_it_goes_on_from_a_checkpoint_to_the_bit(inside, toy, tmp_path):
    """As after a stop in the epoch that the run ends inside of."""
    again = tmp_path / "run"
    shutil.copytree(inside, again)
    for name in ("results.json", "checkpoints/step_00000009.pt"):
        (again / name).unlink()
    train(run_config(toy, again, *IN_STEPS, "optim.steps=9", "optim.ema=0.5"))
    one, two = last_state(inside), last_state(again)
    for part in ("model", "ema"):
        for name, tensor in one[part].items():
            assert torch.equal(tensor, two[part][name]), name
    assert metrics(inside, "train") == metrics(again, "train")
    assert metrics(inside, "validate") == metrics(again, "validate")


def test_less_than_an_epoch(toy, tmp_path, caplog):
    """It is validated and saved at its end; log and dry run say how much of an epoch it is."""
    config = run_config(toy, tmp_path / "run", *IN_STEPS, "optim.steps=3", "data.test.clips=1")
    found = dry_run(config, timed_steps=0)
    assert found.total_steps == 3 and max(found.factors) == 2
    console = Console(width=200, file=io.StringIO(), record=True)
    console.print(dry_run_table(found))
    assert "6 an epoch, 3 in 0.5 epochs" in console.export_text()
    assert found.without_effect == []
    with caplog.at_level("INFO", logger=loop.log.name):
        train(config)
    assert any("step 2/3  epoch 0.33/0.5  loss" in line for line in caplog.messages)
    assert [line["step"] for line in metrics(tmp_path / "run", "validate")] == [3]
    assert len(checkpoints(tmp_path / "run/checkpoints")) == 1


def test_clips_are_those_of_a_run_of_epochs(toy, tmp_path):
    """And they end with the last step."""
    steps = run_config(toy, tmp_path / "steps", *IN_STEPS, "optim.steps=8")
    epochs = run_config(toy, tmp_path / "epochs", "optim.epochs=2")
    one, two = Trainer(steps, CPU), Trainer(epochs, CPU)
    passes = 8 * one.plan.passes
    pairs = zip(one.batches(), islice(two.batches(), passes), strict=True)
    assert all(torch.equal(a.clips, b.clips) and a.rows == b.rows for a, b in pairs)


def test_a_longer_run_is_refused_as_more_epochs_are(inside, toy):
    with pytest.raises(SnvideoError) as error:
        train(run_config(toy, inside, *IN_STEPS, "optim.steps=20", "optim.ema=0.5"))
    assert "optim.steps: 9 there, 20 now" in str(error.value)
    assert "has no schedule left to go on with" in str(error.value)


def test_settings_are_held_against_the_epochs_that_there_are(toy, tmp_path):
    options = ("optim.steps=9", "log.validate_epochs=3", "optim.warmup_steps=0")
    config = run_config(toy, tmp_path / "run", *IN_STEPS, *options, "optim.warmup_start=0.5")
    assert dry_run(config, timed_steps=0).without_effect == [
        "optim.warmup_start=0.5: optim.warmup_steps is 0",
        "log.validate_epochs=3: the run has 2 epochs",
    ]


def test_timed_steps_of_a_dry_run_are_no_more_than_there_are(toy, tmp_path):
    found = dry_run(run_config(toy, tmp_path / "run", *IN_STEPS, "optim.steps=2"), timed_steps=3)
    assert found.timing is not None and found.timing.steps == 1
