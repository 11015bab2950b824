"""Diagnosis of a run's norms on toy videos, and its command."""

import json

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from snvideo import create_model
from snvideo.cli import app
from snvideo.engine.norm_diagnosis import RunDiagnosis, diagnose_run, norm_labels
from snvideo.errors import SnvideoError
from snvideo.norm.advice import network_noise
from tests.engine.runs import ROOT, run_config


@pytest.fixture(scope="module")
def found(toy, tmp_path_factory) -> RunDiagnosis:
    folder = tmp_path_factory.mktemp("diagnosis")
    config = run_config(toy, folder / "run", "model.norm.name=bn")
    return diagnose_run(config, clips=32)


def test_layers_and_stages_are_called_as_in_papers(found):
    assert not found.training.left_out
    assert len(found.training.layers) == len(found.batch.layers) == 17
    labels = [found.labels[layer.layer] for layer in found.training.layers]
    assert labels[:3] == ["stem.norm", "res2.0.shortcut.norm", "res2.0.norm_a"]
    assert [one.stage for one in found.advice] == ["stem", "res2", "res3", "res4", "res5"]


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("x3d_xs", ["stem", "res2", "res3", "res4", "res5", "blocks.5"]),
        ("r2plus1d_tiny", ["stem", "res2", "res3", "res4", "res5"]),
        ("r3d_18", ["stem", "layer1", "layer2", "layer3", "layer4"]),
        ("slowfast_tiny", ["slow.stem", "fast.stem", "fuse1", "slow.res2", "fast.res2", "fuse2"]),
    ],
)
def test_stages_of_every_kind_of_network(name, stages):
    with torch.device("meta"):
        model = create_model(name, 4, "bn")
    norms = [name for name, m in model.named_modules() if isinstance(m, nn.BatchNorm3d)]
    labels, found = norm_labels(model, norms)
    assert list(labels) == norms and len(set(labels.values())) == len(norms)
    assert list(dict.fromkeys(found[name] for name in norms))[:6] == stages


def test_few_clips_are_warned_of(toy, tmp_path, caplog):
    diagnose_run(run_config(toy, tmp_path / "run"), clips=4)
    assert "4 clips are few" in caplog.text and "take 32 clips or more" in caplog.text


def test_both_diagnoses_see_the_clips_of_training(found):
    """The stem's input depends on no norm, and so do its figures."""
    stem, same = found.training.layers[0], found.batch.layers[0]
    assert (stem.clips, stem.group, found.large_group) == (32, 2, 32)
    assert stem.noise == pytest.approx(same.noise, rel=1e-3)
    assert stem.noise_by_size == pytest.approx(same.noise_by_size, rel=1e-3)
    assert found.noise == network_noise(found.batch.layers, 2)
    assert found.advice[0].noise == pytest.approx(same.noise_by_size[2])


def test_a_synchronised_norm_sees_the_batch_of_a_step_and_no_more(toy, tmp_path):
    """Its groups are one group, whatever `gpus_per_pass` says of others."""
    batches = {
        "bn": "batch={gpus: 1, clips_per_gpu: 8, gpus_per_pass: 1}",
        "syncbn": "batch={gpus: 4, clips_per_gpu: 2, gpus_per_pass: 4}",
    }
    noise = {}
    for norm, batch in batches.items():
        config = run_config(toy, tmp_path / "run", f"model.norm.name={norm}", batch)
        passes = []
        found = diagnose_run(config, None, 16, lambda *one, seen=passes: seen.append(one))
        assert passes[0] == ("as trained", 0, 2) and found.training.layers[0].group == 8
        noise[norm] = [layer.noise for layer in found.training.layers]
    assert noise["syncbn"] == pytest.approx(noise["bn"], rel=1e-3)


def test_nothing_is_written_and_weights_are_taken(toy, tmp_path, found):
    run = ROOT / "tests/golden/recorded/run"
    config = run_config(toy, tmp_path / "run", "data.train.flip=true")
    passes = []
    trained = diagnose_run(config, run, 8, lambda *progress: passes.append(progress))
    assert not (tmp_path / "run").exists()
    weights = trained.stored()["weights"]
    assert weights.endswith("step_00000004.pt") and found.stored()["weights"] is None
    fresh = diagnose_run(config, clips=8)
    assert fresh.training.layers[0].kind == "SwitchNorm3d"
    assert fresh.batch.layers[0].kind == "BatchNorm3d"
    pairs = zip(trained.training.layers, fresh.training.layers, strict=True)
    assert all(one.noise != two.noise for one, two in pairs)
    assert passes[-1] == ("with batch norm", 1, 1) and ("as trained", 4, 4) in passes
    assert all(one.choice != "freeze" for one in trained.advice)  # it does not start from them


def test_frozen_norms_are_advised_to_what_starts_from_weights(toy, tmp_path):
    weights = ROOT / "tests/golden/recorded/run/checkpoints/step_00000004.pt"
    one = ("batch.gpus=2", "batch.clips_per_gpu=2", f"model.weights.source={weights}")
    found = diagnose_run(run_config(toy, tmp_path / "run", *one), clips=16)
    choices = {stage.choice for stage in found.advice if stage.noise > 0.25}
    assert choices <= {"freeze", "groups"} and "freeze" in choices


@pytest.mark.parametrize(
    ("overrides", "clips", "message"),
    [
        ([], 3, "less than two of 2: take more clips"),
        (["batch.gpus=1", "batch.clips_per_gpu=32"], 512, "32 clips are less than two of 32"),
        (["batch.gpus=40"], 512, "less than one batch of 40 x 2 = 80"),
    ],
)
def test_too_few_clips(toy, tmp_path, overrides, clips, message):
    with pytest.raises(SnvideoError, match=message):
        diagnose_run(run_config(toy, tmp_path / "run", *overrides), clips=clips)


def test_a_folder_without_weights(toy, tmp_path):
    with pytest.raises(SnvideoError, match=r"nor a checkpoint: train it first"):
        diagnose_run(run_config(toy, tmp_path / "run"), tmp_path)


def test_clips_are_mixed_as_in_training(toy, tmp_path):
    plain = run_config(toy, tmp_path / "plain")
    mixed = run_config(toy, tmp_path / "mixed", "data.train.mixup=0.8")
    one, two = (diagnose_run(config, clips=4).training.layers[0] for config in (plain, mixed))
    assert one.noise != two.noise


def test_the_command(toy, tmp_path):
    run_config(toy, tmp_path / "run", "model.norm.name=bn")
    out = tmp_path / "norms.json"
    command = ["norms", "doctor", str(tmp_path / "run.yaml"), "--clips", "8"]
    done = CliRunner().invoke(app, [*command, "batch.clips_per_gpu=1", "--out", str(out)])
    assert done.exit_code == 0, done.output
    lines = [line.split() for line in done.output.splitlines()]
    assert ["layer", "samples", "now", "group", "layer", "1", "2", "4", "8", "16", "32"] in lines
    assert any(line[:1] == ["res5.0.norm_c"] and len(line) == 11 for line in lines)
    assert any(line[:5] == ["res5", "noise", line[2], "with", "1"] for line in lines if line[2:])
    stored = json.loads(out.read_text())
    assert stored["batch"] == {"gpus": 4, "clips_per_gpu": 1} and stored["group"] == 1
    assert len(stored["in_training"]) == len(stored["batch_norm"]) == 17
    assert [one["stage"] for one in stored["stages"]] == ["stem", "res2", "res3", "res4", "res5"]
    assert stored["batch_norm"][0]["noise_by_size"]["32"] < stored["network_noise"]
    refused = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "norms.csv")])
    assert isinstance(refused.exception, SnvideoError)
    assert "call it something.json" in str(refused.exception)
