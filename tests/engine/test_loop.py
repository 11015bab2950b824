"""What a run says and keeps between its steps."""

import logging
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from snvideo.config import load_config
from snvideo.engine import loop, step_timer
from snvideo.engine.checkpoint import checkpoints, load_checkpoint
from snvideo.engine.checkpointer import Checkpointer
from snvideo.engine.config import LogConfig
from snvideo.engine.evaluate import evaluate
from snvideo.engine.run_dir import RunDir
from snvideo.engine.train import train
from snvideo.engine.trainer import Trainer
from snvideo.errors import SnvideoError
from tests.engine.runs import CPU, fill, metrics, results, run_config, small_disk, take_steps

said: list[str] = []  # by the loop, of that run


@pytest.fixture(scope="module")
def rich(toy, tmp_path_factory) -> Path:
    """A run of two epochs with weights averaged, a first look after four steps, a slow loader."""
    run = tmp_path_factory.mktemp("rich") / "run"
    overrides = (
        "optim.epochs=2",
        "optim.lr=0.2",
        "optim.ema=0.5",
        "optim.clip_norm=1",
        "log.early_validation={step: 4, videos: 5}",
    )
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step_timer, "STARVED", 0.0)
        patch.setattr(step_timer, "MIN_SECONDS", 0.0)
        loop.log.addHandler(handler)
        train(run_config(toy, run, *overrides))
        loop.log.removeHandler(handler)
    return run


def test_an_early_look_at_some_videos(rich, toy):
    (early,) = metrics(rich, "early_validation")
    assert early["step"] == 4 and early["epoch"] == pytest.approx(4 / 6)
    assert early["top1"] * 5 == pytest.approx(round(early["top1"] * 5))  # of five videos
    assert [line["step"] for line in metrics(rich, "validate")] == [6, 12]


def test_ratios_over_time(rich):
    lines = metrics(rich, "importance")
    assert [line["step"] for line in lines] == [6, 12]
    for line in lines:
        for kind in ("mean", "variance"):
            parts = [line[f"{kind}_{part}"] for part in ("instance", "layer", "batch")]
            assert sum(parts) == pytest.approx(1) and parts != [1 / 3] * 3
    board = EventAccumulator(str(rich / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    tags = board.Tags()["scalars"]
    assert sum(tag.startswith("importance.") for tag in tags) == 17 * 6
    ratios = [
        board.Scalars(f"importance.blocks.0.norm/mean_{part}")[-1].value
        for part in ("instance", "layer", "batch")
    ]
    assert sum(ratios) == pytest.approx(1, abs=1e-6)
    assert [event.step for event in board.Scalars("train/loss")] == [2, 4, 6, 8, 10, 12]


def test_log_lines_have_times_and_the_gradient_before_it_is_clipped(rich):
    assert all(line["gradient_norm"] > 1 for line in metrics(rich, "train"))
    for line in metrics(rich, "time"):
        assert line["data"] > 0 and line["forward"] > 0 and line["backward"] > 0
        assert line["communication"] == 0 and line["clips_per_second"] > 0


def test_the_average_of_weights_is_what_is_tested(rich):
    state = load_checkpoint(checkpoints(rich / "checkpoints")[-1])
    name = "blocks.0.conv.weight"
    assert state["averaged"] == 12
    assert not torch.equal(state["model"][name], state["ema"][name])
    again = evaluate(load_config(rich), rich)
    assert again.confusion == results(rich)["confusion"]
    np.testing.assert_array_equal(
        np.load(rich / "evaluation.npz")["probabilities"],
        np.load(rich / "predictions.npz")["probabilities"],
    )


def test_the_average_follows_the_weights(toy, tmp_path):
    """The first as it is, 2/11 of it beside the second, and 3/12 of that beside the third."""
    trainer = Trainer(run_config(toy, tmp_path / "run", "optim.ema=0.5"), CPU)
    batches, seen = trainer.batches(), []
    for _ in range(3):
        trainer.step(batches)
        seen.append(trainer.model.blocks[0].conv.weight.detach().clone())
    expected = 0.25 * (2 / 11 * seen[0] + 9 / 11 * seen[1]) + 0.75 * seen[2]
    torch.testing.assert_close(trainer.evaluated.blocks[0].conv.weight, expected)


def test_the_best_weights_are_kept(rich):
    best = max(metrics(rich, "validate"), key=lambda line: (line["top1"], -line["step"]))
    assert results(rich)["best_validation"] == {"step": best["step"], "top1": best["top1"]}
    path = rich / "checkpoints/best.pt"
    assert load_checkpoint(path)["progress"]["step"] == best["step"]
    again = evaluate(load_config(rich, ("data.test.clips=1",)), rich, path)
    assert again.checkpoint == str(path)


def test_frozen_parts_stay_as_they_are(toy, tmp_path):
    overrides = ("model.norm.name=bn", "optim.freeze=[blocks.0, blocks.1]", "optim.lr=0.2")
    trainer = Trainer(run_config(toy, tmp_path / "run", *overrides), CPU)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    take_steps(trainer, 2)
    trainer.test(1, 1)  # averages statistics
    moved = {n for n, v in trainer.model.state_dict().items() if not torch.equal(before[n], v)}
    # Block 2 is a pooling and has nothing to learn.
    assert {name.split(".")[1] for name in moved} == {"3", "4", "5", "6"}
    assert any(name.endswith("running_var") for name in moved)


def test_checkpoints_by_the_clock(toy, tmp_path):
    overrides = ("log.checkpoint_epochs=0", "log.validate_epochs=0", "log.keep_checkpoints=9")
    quick = ("log.checkpoint_minutes=1e-6", "statistics.batches=0", "data.test.clips=1")
    train(run_config(toy, tmp_path / "run", *overrides, *quick))
    steps = [path.stem for path in checkpoints(tmp_path / "run/checkpoints")]
    assert steps == [f"step_0000000{step}" for step in range(1, 7)]
    assert not Checkpointer(
        RunDir(tmp_path), LogConfig(checkpoint_minutes=None), CPU, 0
    ).due_by_time()


def test_a_loader_that_does_not_keep_up_is_said_once_an_epoch(rich):
    slow = [message for message in said if message.startswith("steps wait for data")]
    assert len(slow) == 2 and "with data.workers=0: about" in slow[0]


@pytest.fixture
def disk(tmp_path) -> Iterator[Path]:
    """A file system of 14 MB; a checkpoint of the network takes 4.9 MB."""
    with small_disk(tmp_path / "disk", "14m") as path:
        yield path


def test_a_disk_that_is_too_small_is_seen_at_the_start(toy, disk, tmp_path):
    config = run_config(toy, tmp_path / "run", f"output={disk}/run")
    with pytest.raises(SnvideoError, match=r"free and its checkpoints need .* MB more"):
        train(config)
    assert not (disk / "run/metrics.jsonl").exists()


@pytest.mark.process
def test_a_disk_that_fills_up_costs_checkpoints_and_nothing_else(
    toy, disk, tmp_path, caplog, monkeypatch
):
    from snvideo.engine import train as module

    monkeypatch.setattr(module, "check_disk_space", lambda *args: None)  # who could have known
    monkeypatch.setattr(Trainer, "validate", fill_the_disk(disk, Trainer.validate))
    options = ("optim.epochs=4", "statistics.batches=0", "log.keep_checkpoints=1")
    whole = train(run_config(toy, tmp_path / "whole", *options))
    caplog.clear()
    (disk / "run").mkdir()
    filled = train(run_config(toy, tmp_path / "run", *options, f"output={disk}/run"))
    assert any("training goes on" in message for message in caplog.messages)
    assert filled.confusion == whole.confusion
    for kind in ("train", "validate", "importance"):
        assert metrics(disk / "run", kind) == metrics(tmp_path / "whole", kind)


def fill_the_disk(place: Path, validate):
    """After the first epoch somebody takes all the room that is left; later it is given back."""
    called = count(1)

    def validating(trainer, rows):
        number = next(called) if trainer.config.output.is_relative_to(place) else 0
        if number == 1:
            fill(place)
        if number == 3:
            (place / "ballast").unlink()
        return validate(trainer, rows)

    return validating
