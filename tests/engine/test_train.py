"""Whole runs: their folder, going on after a kill, and the same weights on 1 and 2 processes."""

import errno
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from snvideo.config import load_config
from snvideo.engine.distributed import World
from snvideo.engine.evaluate import evaluate
from snvideo.engine.train import train
from snvideo.engine.trainer import Trainer
from snvideo.errors import SnvideoError
from tests.engine.runs import (
    CPU,
    assert_close,
    metrics,
    results,
    run_config,
    start,
    take_steps,
    values,
)


@pytest.fixture(scope="module")
def finished(toy, tmp_path_factory) -> Path:
    """Folder of a finished run of 2 epochs."""
    output = tmp_path_factory.mktemp("finished") / "run"
    train(run_config(toy, output, "optim.epochs=2"))
    return output


def test_a_run_is_a_folder(finished, toy):
    names = {path.name for path in finished.iterdir()}
    assert names >= {
        *("config.yaml", "environment.json", "metrics.jsonl", "results.json"),
        *("tensorboard", "checkpoints", "predictions.npz"),
    }
    found = results(finished)
    assert found["steps"] == 2 * (48 // 8)
    assert found["videos"] == 16 and found["failed_videos"] == 0
    assert found["replaced_samples"] == 0
    assert len(found["classes"]) == len(found["per_class_accuracy"]) == 8
    assert np.sum(found["confusion"]) == 16
    assert np.trace(found["confusion"]) / 16 == pytest.approx(found["video_top1"])
    assert 0 <= found["clip_top1"] <= found["clip_top5"] <= 1
    assert len(found["importance"]) == 17 and len(found["importance"][0]["mean"]) == 3
    assert [m["step"] for m in metrics(finished, "train")] == [2, 4, 6, 8, 10, 12]
    assert [m["epoch"] for m in metrics(finished, "validate")] == [1, 2]
    assert {m["kind"] for m in metrics(finished)} == {"train", "time", "importance", "validate"}
    assert all(np.isfinite(list(m.values())[1:]).all() for m in metrics(finished))


def test_predictions_agree_with_the_figures_and_an_evaluation(finished):
    found = results(finished)
    stored = np.load(finished / "predictions.npz")
    assert stored["probabilities"].shape == (16, 8) and len(set(stored["videos"])) == 16
    np.testing.assert_allclose(stored["probabilities"].sum(1), 1, rtol=1e-5)
    ranks = (-stored["probabilities"]).argsort(1) == stored["labels"][:, None]
    assert found["video_top1"] == pytest.approx(ranks[:, :1].any(1).mean())
    assert found["video_top5"] == pytest.approx(ranks[:, :5].any(1).mean())
    again = evaluate(load_config(finished), finished)
    for key in ("clip_top1", "clip_top5", "video_top1", "video_top5", "confusion", "index_hash"):
        assert again.stored()[key] == found[key]
    assert (finished / "evaluation.json").exists()


def test_a_finished_run_is_not_repeated_and_another_config_is_refused(finished):
    config = load_config(finished)
    before = (finished / "results.json").stat().st_mtime_ns
    assert train(config).steps == 12
    assert (finished / "results.json").stat().st_mtime_ns == before
    with pytest.raises(SnvideoError, match=r"another config \(seed: 0 there, 5 now\)"):
        train(config.model_copy(update={"seed": 5}))


def test_an_evaluation_is_written_where_it_is_asked_for(finished, tmp_path, monkeypatch):
    own = finished / "evaluation.json"
    before = own.read_bytes() if own.exists() else None
    quick = ("data.test.clips=1", f"output={tmp_path / 'elsewhere'}")
    found = evaluate(load_config(finished, quick), finished)
    assert {path.name for path in (tmp_path / "elsewhere").iterdir()} == {
        *("evaluation.json", "evaluation.npz")
    }
    assert found.views.clips == 1
    assert before == (own.read_bytes() if own.exists() else None)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/config.yaml").touch()
    with pytest.raises(SnvideoError, match="other holds a run: choose another output"):
        evaluate(load_config(finished, (f"output={tmp_path / 'other'}",)), finished)


def test_a_folder_that_cannot_be_written_to_is_refused_before_the_work(finished, monkeypatch):
    def refuse(path: Path, content: object) -> None:
        raise PermissionError(errno.EROFS, "Read-only file system", str(path))

    def compute(*arguments: object) -> None:
        raise AssertionError("computed")

    monkeypatch.setattr("snvideo.engine.run_dir.write_atomic", refuse)
    monkeypatch.setattr("snvideo.engine.evaluate.evaluate_views", compute)
    with pytest.raises(SnvideoError, match=f"cannot write {finished}: Read-only file system"):
        evaluate(load_config(finished), finished)


def test_class_count_must_match_the_checkpoint(finished, toy, tmp_path):
    index = (toy / "index.csv").read_text()
    meta = json.loads((toy / "index.json").read_text())
    (tmp_path / "more.csv").write_text(index)
    (tmp_path / "more.json").write_text(
        json.dumps({**meta, "labels": [*meta["labels"], "jumping"], "root": str(toy)})
    )
    config = load_config(finished)
    data = config.data.model_copy(update={"index": tmp_path / "more.csv"})
    with pytest.raises(SnvideoError, match="was trained for 8 classes, the index has 9"):
        evaluate(config.model_copy(update={"data": data}), finished)


@pytest.mark.process
def test_it_learns_its_training_clips(toy, tmp_path):
    """Sixty steps on 48 easy videos bring the loss well below chance (ln 8 = 2.08)."""
    overrides = (
        "optim.epochs=10",
        "optim.lr=0.4",
        "log.validate_epochs=0",
        "batch.clips_per_gpu=2",
    )
    train(run_config(toy, tmp_path / "run", *overrides))
    losses = [m["loss"] for m in metrics(tmp_path / "run", "train")]
    assert np.mean(losses[-3:]) < np.mean(losses[:3]) - 0.2


NORMS = ("sn", "bn", "gn")
PLAYED = {
    "four passes": (1, "batch.gpus_per_pass=1"),
    "one pass": (1, "batch.gpus_per_pass=4"),
    "two processes": (2, "batch.gpus_per_pass=2"),
    "four processes": (4, "batch.gpus_per_pass=1"),
}
"""Ways to play 4 gpus of 2 clips: processes, and how much shares a pass."""

Played = dict[tuple[str, str], dict[str, torch.Tensor]]


def play(toy: Path, folder: Path, norms: tuple[str, ...], ways: tuple[str, ...]) -> Played:
    """Weights and statistics after four steps by norm and way to play; those before, as initial."""
    found, configs = {}, {}
    for norm in norms:
        for way in ways:
            options = (
                "optim.lr=0.02",
                "optim.ema=0.5",
                "model.dropout=0.3",
                "model.drop_path=0.4",
                PLAYED[way][1],
            )
            output = folder / f"{norm} {way}"
            configs[norm, way] = run_config(toy, output, *options, f"model.norm.name={norm}")
        found[norm, "initial"] = values(Trainer(configs[norm, "one pass"], CPU))
    for processes in {PLAYED[way][0] for way in ways}:
        mine = [key for key in configs if PLAYED[key[1]][0] == processes]
        paths = [f"{configs[key].output}.yaml" for key in mine]
        start("weights", paths, 4, log=folder / f"{processes}.log", processes=processes).done()
        found |= {key: torch.load(configs[key].output) for key in mine}
    return found


@pytest.fixture(scope="module")
def played(toy, tmp_path_factory) -> Played:
    return play(toy, tmp_path_factory.mktemp("played"), NORMS, tuple(PLAYED))


@pytest.fixture(scope="module")
def synced(toy, tmp_path_factory) -> Played:
    norms, ways = ("sn", "bn", "syncsn", "syncbn"), ("one pass", "two processes")
    return play(toy, tmp_path_factory.mktemp("synced"), norms, ways)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.process
def test_it_is_all_one_who_plays_the_groups(played, norm):
    """Ghost groups, accumulated passes, two processes and four: the same weights and statistics,
    with dropout and drop path, after four steps."""
    for way in PLAYED:
        assert_close(played[norm, way], played[norm, "four passes"], played[norm, "initial"])


@pytest.mark.parametrize("norm", ["sn", "bn", "syncsn", "syncbn"])
@pytest.mark.process
def test_two_processes_come_to_the_same(synced, norm):
    assert_close(synced[norm, "two processes"], synced[norm, "one pass"], synced[norm, "initial"])


@pytest.mark.parametrize("norm", ["sn", "bn"])
@pytest.mark.process
def test_groups_make_a_difference(synced, norm):
    """Else the tests above would say nothing: one group of eight clips is another experiment."""
    one, other = synced[norm, "one pass"], synced[f"sync{norm}", "one pass"]
    with pytest.raises(AssertionError):
        assert_close(one, other, synced[norm, "initial"])


def test_the_same_run_twice_is_the_same(toy, tmp_path):
    weights = []
    for name in ("a", "b"):
        trainer = Trainer(run_config(toy, tmp_path / name, "data.workers=1"), CPU)
        take_steps(trainer, 3)
        weights.append(trainer.model.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_accumulated_passes_move_running_statistics_once(toy, tmp_path):
    """BN over four groups: one update by the mean of the groups' statistics, momentum 0.1."""
    config = run_config(toy, tmp_path / "run", "model.norm.name=bn", "optim.lr=1e-9")
    trainer = Trainer(config, CPU)
    take_steps(trainer, 2)
    norm = trainer.model.blocks[0].norm
    assert norm.num_batches_tracked == 2
    assert (norm.running_var > 0.8 * 0.9).all()  # 1 -> 0.81 + what two updates of 0.1 add


AUGMENTED = (
    "data.train.flip=true",
    "data.train.color={brightness: 0.4, hue: 0.1}",
    "data.train.rand_augment={operations: 1}",
    "data.train.random_erasing={probability: 0.7, fill: pixel}",
    "data.train.mixup=0.8",
    "data.train.cutmix=1.0",
)


def test_clips_are_changed_and_mixed_alike_however_their_groups_are_played(toy, tmp_path):
    weights = []
    for packed, augmented in ((1, AUGMENTED), (4, AUGMENTED), (4, ())):
        overrides = (*augmented, "model.norm.name=bn", f"batch.gpus_per_pass={packed}")
        config = run_config(toy, tmp_path / f"run{packed}", *overrides, "optim.lr=0.02")
        trainer = Trainer(config, CPU)
        take_steps(trainer, 2)
        weights.append(trainer.model.state_dict())
    plain = max((weights[2][name] - weights[1][name]).abs().max() for name in weights[0])
    assert plain > 1e-3
    for name in weights[0]:
        torch.testing.assert_close(weights[0][name], weights[1][name], rtol=1e-3, atol=1e-5)


def test_a_lone_clip_cannot_be_mixed(toy, tmp_path):
    overrides = ("batch.clips_per_gpu=1", "data.train.mixup=0.8")
    config = run_config(toy, tmp_path / "run", *overrides)
    with pytest.raises(SnvideoError, match=r"batch\.clips_per_gpu is 1: set both to 0"):
        Trainer(config, CPU)
    # A synchronised norm deals the batch out among processes, which may tear groups apart.
    overrides = ("model.norm.name=syncbn", "batch.clips_per_gpu=8", "data.train.cutmix=1.0")
    config = run_config(toy, tmp_path / "run", *overrides, "batch.gpus=1")
    with pytest.raises(SnvideoError, match="each of 2 processes has 4: start fewer"):
        Trainer(config, World(0, 2, torch.device("cpu")))


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_mixed_precision_trains(toy, tmp_path, amp):
    trainer = Trainer(run_config(toy, tmp_path / "run", f"speed.amp={amp}"), CPU)
    before = {n: p.clone() for n, p in trainer.model.named_parameters()}
    take_steps(trainer, 3)
    moved = [n for n, p in trainer.model.named_parameters() if not torch.equal(p, before[n])]
    assert len(moved) > len(before) / 2
    assert all(torch.isfinite(p).all() for p in trainer.model.parameters())


def test_one_clip_per_gpu_leaves_the_batch_part_out(toy, tmp_path, caplog):
    caplog.set_level("INFO")
    config = run_config(toy, tmp_path / "run", "batch.gpus=8", "batch.clips_per_gpu=1")
    trainer = Trainer(config, CPU)
    assert trainer.model.blocks[0].norm.use_batch is False
    assert "without its batch part" in caplog.text
    assert trainer.tracking == []


def test_validation_leaves_the_moving_averages(toy, tmp_path):
    """Averaged statistics are for the test alone: training goes on with its own."""
    trainer = Trainer(run_config(toy, tmp_path / "run", "model.norm.name=bn"), CPU)
    take_steps(trainer, 2)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.validate([0, 1])
    after = trainer.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    with trainer.tested_network() as model:
        name = "blocks.0.norm.running_var"
        assert not torch.equal(before[name], model.state_dict()[name])
        assert torch.equal(trainer.averages[name], model.state_dict()[name])
    take_steps(trainer, 1)
    assert trainer.averages is None  # they were of other weights
