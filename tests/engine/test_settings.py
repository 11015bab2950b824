"""Settings that cannot take effect: refused by the config, or said before the first step."""

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from snvideo.config import load_config, load_study
from snvideo.data.index import ClipIndex, IndexRow
from snvideo.engine import train as module
from snvideo.engine.batch_plan import plan_batch
from snvideo.engine.config import STORED, OptimConfig
from snvideo.engine.dry_run import dry_run
from snvideo.engine.optim import EMA, ema_decay, lr_factor
from snvideo.engine.settings import settings_without_effect
from snvideo.engine.train import train
from snvideo.errors import SnvideoError
from snvideo.report.dry_run_table import dry_run_table
from tests.engine.runs import run_config

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 30, "warmup_epochs": 34}, "optim.warmup_epochs=5.2"),
        ({"epochs": 10, "warmup_epochs": 34}, "never comes to its peak"),
        ({"epochs": 10, "warmup_epochs": 6}, "longer than half of the run"),
        ({"epochs": 10, "warmup_epochs": 10, "schedule": "constant"}, "never comes to its peak"),
        (
            {"schedule": "step", "milestones": (0.1, 0.5), "epochs": 10, "warmup_epochs": 2},
            "longer than the first milestone (1 of 10 epochs)",
        ),
        ({"schedule": "step"}, "needs milestones, the fractions of the run"),
        (
            {"schedule": "step", "milestones": (4, 8), "epochs": 12},
            "got 4; epochs 4, 8 are [0.333, 0.667]",
        ),
        ({"schedule": "step", "milestones": (0.5, 1.0)}, "got 1"),
        ({"schedule": "step", "milestones": (-0.5, 300)}, "got -0.5"),
        ({"milestones": (4, 8)}, "milestones are fractions"),
        ({"momentum": 1.0}, "less than 1"),
        ({"name": "adamw"}, "needs a learning rate of its own"),
    ],
)
def test_a_schedule_that_is_none_is_refused(values, message):
    with pytest.raises(ValidationError, match="OptimConfig") as error:
        OptimConfig.model_validate(values)
    assert message in str(error.value)


def test_a_run_that_was_begun_with_one_is_still_read(tmp_path):
    values: dict[str, Any] = {"epochs": 30, "warmup_epochs": 34}
    config = OptimConfig.model_validate(values, context=STORED)
    factors = [lr_factor(config, 5, step) for step in range(150)]
    assert all(0 <= factor <= 0.1 for factor in factors)  # defined to the end
    assert all(a > b for a, b in pairwise(factors))
    (tmp_path / "config.yaml").write_text(
        "output: run\ndata: {index: i.csv}\noptim: {epochs: 30, warmup_epochs: 34}\n"
    )
    assert load_config(tmp_path, ["seed=3"]).optim.warmup_epochs == 34
    with pytest.raises(SnvideoError) as caught:
        load_config(tmp_path / "config.yaml")
    assert "'optim': warmup_epochs=34 is longer than half" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("epochs", [1, 4, 10, 17, 30, 196, 1000])
@pytest.mark.parametrize("more", [{}, {"schedule": "step", "milestones": (0.5, 0.75)}])
def test_the_warm_up_that_nobody_states_fits_the_run(epochs, more):
    """It takes the part that 34 of 196 epochs are, and the rate comes close to its peak."""
    config = OptimConfig.model_validate({"epochs": epochs, **more})
    assert config.warmup_epochs == pytest.approx(34 * epochs / 196)
    factors = [lr_factor(config, 100, step) for step in range(100 * epochs)]
    assert max(factors) > 0.92 and factors[0] == 0.1
    top = factors.index(max(factors))
    assert all(a <= b for a, b in pairwise(factors[: top + 1]))
    assert all(a >= b for a, b in pairwise(factors[top:]))


def test_a_constant_schedule_stays():
    config = OptimConfig(epochs=4, warmup_epochs=1, schedule="constant")
    assert [lr_factor(config, 2, step) for step in range(8)] == [0.1, 0.55, *[1] * 6]


def test_an_average_follows_the_weights_in_a_short_run():
    """With a decay of 0.9999 in 120 steps it would otherwise stay near what it began with."""
    model = torch.nn.Linear(1, 1, bias=False)
    ema = EMA(model, 0.9999)
    for step in range(120):
        model.weight.data.fill_(step)
        ema.update()
    assert 105 < ema.module.weight.item() < 119
    assert ema_decay(0.9999, 0) == 0.1 and ema_decay(0.5, 120) == 0.5
    assert ema_decay(0.9999, 10**6) == 0.9999


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> ClipIndex:
    rows = [IndexRow(path=f"{n}.mp4", label=n % 2, split="train", frames=9) for n in range(160)]
    return ClipIndex(rows, "train", ["a", "b"], tmp_path_factory.mktemp("videos"))


def said(index: ClipIndex, tmp_path: Path, *overrides: str) -> list[str]:
    """Lines on a run of 10 epochs of 20 steps."""
    path = tmp_path / "config.yaml"
    path.write_text("output: run\ndata: {index: i.csv, workers: 2}\noptim: {epochs: 10}\n")
    path = path.rename(tmp_path / "own.yaml")
    config = load_config(path, ("batch={gpus: 4, clips_per_gpu: 2}", *overrides))
    plan = plan_batch(config.batch, config.model.norm.name, 1, 0, len(index))
    steps = config.optim.epochs * plan.steps(len(index))
    return settings_without_effect(config, plan, index, steps, CPU)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("batch.gpus_per_pass=5",), "batch.gpus_per_pass=5 beyond batch.gpus=4"),
        (("batch.gpus_per_pass=3",), "does not divide 4 groups of a process, so a pass has 1"),
        (("model.norm.name=syncbn", "batch.gpus_per_pass=4"), "whole batch in one pass"),
        (("model.norm.name=bn", "model.norm.start=batch"), "bn has no importance logits"),
        (("model.norm.start=batch", "batch.clips_per_gpu=1"), "start is equal"),
        (("model.norm.name=brn",), "Batch Normalization for 5000 steps, the run has 200"),
        (("model.norm.name=brn", "model.norm.schedule=[200,300,400]"), "for 200 steps"),
        (("optim.momentum=0",), "optim.nesterov: optim.momentum is 0"),
        (
            ("optim={name: adamw, lr: 0.001, momentum: 0.5}",),
            "optim.momentum=0.5: that of adamw is",
        ),
        (("optim.betas=[0.9, 0.95]",), "optim.betas: they are those of optim.name=adamw"),
        (("model.norm.name=gn", "optim.logit_lr=10"), "optim.logit_lr=10: gn has no"),
        (("optim.warmup_epochs=0", "optim.warmup_start=0.5"), "optim.warmup_start=0.5"),
        (("optim.milestones=[0.5]",), "optim.milestones: they are those of optim.schedule=step"),
        (("optim.gamma=0.5",), "optim.gamma: they are those of"),
        (
            ("optim.schedule=step", "optim.milestones=[0.5,0.999]"),
            "optim.milestones: no step of 200 comes after 0.999",
        ),
        (
            ("optim.schedule=step", "optim.milestones=[0.5]", "optim.gamma=1"),
            "optim.milestones: optim.gamma is 1",
        ),
        (
            ("optim.ema=0.9999",),
            "optim.ema=0.9999: the decay rises by (1 + t) / (10 + t), in 200 steps to 0.957",
        ),
        (("data.clip={frames: 1, stride: 4}",), "data.clip.stride=4: clips have one frame"),
        (("data.train.color={hue: 0.1, probability: 0}",), "data.train.color: its probability"),
        (("data.train.color.probability=0.5",), "data.train.color.probability=0.5: no strength"),
        (("data.train.rand_augment={probability: 0}",), "data.train.rand_augment: its prob"),
        (
            ("data.train.random_erasing={probability: 0}",),
            "data.train.random_erasing: its probability is 0",
        ),
        (("data.train={mixup: 0.8, mix_probability: 0}",), "data.train.mixup: data.train.mix_"),
        (("data.train.mix_probability=0.5",), "mixup and cutmix are off"),
        (("data.workers=0", "data.timeout=5"), "data.timeout=5.0: data.workers is 0"),
        (("data.workers=0", "data.start_method=spawn"), "data.start_method=spawn: data.workers"),
        (("data.decoder=decord",), "the index trusts it with no training video"),
        (("statistics={kind: population, batches: 0}",), "statistics.kind=population"),
        (("log.early_validation={step: 200, videos: 1}",), "step 200 does not come before"),
        (("log.validate_epochs=11",), "log.validate_epochs=11: the run has 10 epochs"),
        (("data.val_split=val", "log.validate_epochs=0"), "data.val_split=val: log.validate_"),
        (("log.checkpoint_epochs=11",), "log.checkpoint_epochs=11: the run has 10 epochs"),
        (("log={checkpoint_epochs: 0, checkpoint_minutes: null}",), "log.keep_checkpoints"),
        (("speed.prefetch=true",), "speed.prefetch: batches are copied to GPUs, not to cpu"),
    ],
)
def test_a_setting_without_effect_is_said(index, tmp_path, overrides, words):
    (line,) = said(index, tmp_path, *overrides)
    assert words in line and "\n" not in line


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("batch.gpus_per_pass=4",),
        ("optim.schedule=step", "optim.milestones=[0.375,0.75]"),
        ("optim={name: adamw, lr: 0.001, betas: [0.9, 0.95]}",),
        ("optim.ema=0.9", "optim.warmup_epochs=2", "optim.warmup_start=0.5"),
        ("model.norm={name: brn, schedule: [10, 20, 30]}",),
        ("model.norm.start=batch", "optim.logit_lr=10"),
        ("data.train={mixup: 0.8, mix_probability: 0.5}", "log.validate_epochs=0"),
        ("data.val_split=val", "log={validate_epochs: 0, early_validation: {step: 2, videos: 2}}"),
    ],
)
def test_nothing_is_said_of_settings_that_have_one(index, tmp_path, overrides):
    assert said(index, tmp_path, *overrides) == []


def test_train_and_dry_run_say_it_before_the_first_step(toy, tmp_path, caplog, monkeypatch):
    config = run_config(toy, tmp_path / "run", "optim.ema=0.9999", "optim.momentum=0")
    found = dry_run(config, timed_steps=0)
    lines = found.without_effect
    assert [line.partition(":")[0] for line in lines] == ["optim.nesterov", "optim.ema=0.9999"]
    table = dry_run_table(found)
    assert list(table.columns[0].cells).count("without effect") == 2

    class Begun(Exception):
        pass

    def begin(*_: object) -> None:
        raise Begun

    monkeypatch.setattr(module.TrainingLoop, "run", begin)
    with pytest.raises(Begun):
        train(config)
    said = [m for m in caplog.messages if m.startswith("without effect: ")]
    assert said == [f"without effect: {line}" for line in lines]


@pytest.mark.parametrize(
    ("override", "message"),
    [("seed=5", "study.seeds"), ("batch.gpus=5", "study.batches"), ("model.norm.name=bn", "norms")],
)
def test_what_a_study_sets_is_not_set_beside_it(override, message):
    with pytest.raises(SnvideoError, match=message):
        load_study("toy/compare", [override])
    with pytest.raises(SnvideoError, match="of 'snvideo compare' alone"):
        load_config("toy/compare", ["study.seeds=[1]"])


# Too few of something -------------------------------------------------------------------------


def refused(toy: Path, folder: Path, message: str, *overrides: str) -> None:
    """Both a dry run and training say so, and training leaves nothing behind."""
    config = run_config(toy, folder / "run", *overrides)
    for begin in (lambda: dry_run(config, timed_steps=0), lambda: train(config)):
        with pytest.raises(SnvideoError, match=message) as error:
            begin()
        assert "\n" not in str(error.value)
    assert not (folder / "run" / "metrics.jsonl").exists()


def test_clips_that_are_too_short_are_refused_before_training(toy, tmp_path):
    refused(toy, tmp_path, "cannot take clips of 1 frame, 32 x 32 pixels", "data.clip.frames=1")


def test_batch_statistics_of_one_value_are_refused_before_training(toy, tmp_path):
    """The last stage of a clip of two frames has a single position."""
    options = ("data.clip.frames=2", "model.norm.name=bn", "batch.clips_per_gpu=1")
    refused(toy, tmp_path, "more than 1 value per channel.*: change data.clip.frames", *options)


def test_one_class_is_refused_before_training(toy, tmp_path):
    lines = (toy / "index.csv").read_text().splitlines()
    rows = [line.split(",") for line in lines]
    label = rows[0].index("label")
    for row in rows[1:]:
        row[label] = "0"
    (tmp_path / "index.csv").write_text("\n".join([",".join(row) for row in rows] + [""]))
    (tmp_path / "index.json").write_text(f'{{"root": "{toy}", "labels": ["only"], "version": 2}}')
    refused(tmp_path, tmp_path, "the index has one class, 'only'")


def test_classes_without_videos_are_named(toy, tmp_path):
    meta = json.loads((toy / "index.json").read_text())
    names = [f"new {number}" for number in range(7)]
    text = json.dumps({**meta, "root": str(toy), "labels": meta["labels"] + names})
    (tmp_path / "index.json").write_text(text)
    (tmp_path / "index.csv").write_text((toy / "index.csv").read_text())
    found = dry_run(run_config(tmp_path, tmp_path / "run"), timed_steps=0)
    (first,), (second,) = (split.empty_classes() for split in found.splits)
    said = "7 of 15 classes have no usable video in split 'train': new 0, new 1, new 2, new 3, "
    assert first == f"{said}new 4, ..."
    assert "split 'val'" in second
    assert any("7 of 15 classes" in str(text) for text in dry_run_table(found).columns[1].cells)


def test_files_that_are_gone_are_said_before_training(toy, tmp_path):
    (tmp_path / "empty").mkdir()
    message = "none of its first 5 videos is there"
    refused(toy, tmp_path, message, f"data.root={tmp_path / 'empty'}")


def test_the_peak_is_that_of_the_papers_recipe():
    config = OptimConfig()
    assert config.warmup_epochs == 34
    assert lr_factor(config, 10, 340) == pytest.approx(0.5 * (1 + math.cos(math.pi * 34 / 196)))
