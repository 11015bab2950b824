"""What a run starts from: weights of others, what they say, and what it remembers of them."""

import json
import shutil

import numpy as np
import pytest
import torch
import torchvision

import snvideo
from snvideo.engine.dry_run import dry_run
from snvideo.engine.evaluate import evaluate
from snvideo.engine.train import train
from snvideo.engine.trainer import Trainer
from snvideo.errors import SnvideoError
from snvideo.models.pretrained import WEIGHTS_FILE
from tests.engine.runs import CPU, last_state, last_weights, results, run_config, start


@pytest.fixture(scope="module")
def bn(toy, tmp_path_factory):
    """A finished run with Batch Normalization, on videos normalized in a way of its own."""
    folder = tmp_path_factory.mktemp("bn") / "run"
    train(run_config(toy, folder, "model.norm.name=bn", "data.mean=[0.4, 0.5, 0.6]"))
    return folder


def from_bn(bn, toy, output, *overrides):
    source = f"model.weights.source={bn / WEIGHTS_FILE}"
    return run_config(toy, output, "model.norm.start=batch", source, *overrides)


def test_a_run_leaves_a_network_that_says_what_it_is(bn, toy, tmp_path):
    found = results(bn)
    model, about = snvideo.load_model(bn)
    assert (about.architecture, about.norm, about.statistics) == ("i3d_tiny", "bn", "average")
    assert list(about.classes) == found["classes"]
    assert about.preprocessing.mean == (0.4, 0.5, 0.6)
    assert about.preprocessing.std == (0.225, 0.225, 0.225)
    assert (about.preprocessing.frames, about.preprocessing.stride) == (4, 4)
    assert about.results["video_top1"] == found["video_top1"]
    trained = last_weights(bn)
    own = model.state_dict()
    assert own.keys() == trained.keys()
    assert all(torch.equal(own[n], trained[n]) for n in own if "running" not in n)
    card = (bn / "model_card.md").read_text()
    assert f"video top-1 | {100 * found['video_top1']:.1f} %" in card and "name: bn" in card
    for path in (bn / "checkpoints").glob("*.pt"):
        _, about = snvideo.load_model(path)
        assert (about.norm, about.statistics, about.results) == ("bn", "average", None)
    # With the statistics of the test, its answers are those that were counted.
    overrides = ("model.norm.name=bn", f"model.weights.source={bn / WEIGHTS_FILE}")
    again = evaluate(run_config(toy, tmp_path / "again", *overrides))
    assert again.confusion == found["confusion"]
    stored = (bn / "predictions.npz", tmp_path / "again" / "evaluation.npz")
    np.testing.assert_array_equal(*(np.load(path)["probabilities"] for path in stored))


def test_sn_starts_from_bn_and_its_preprocessing_and_goes_on_without(bn, toy, tmp_path, caplog):
    copy, run = tmp_path / "weights.safetensors", tmp_path / "run"
    copy.write_bytes((bn / WEIGHTS_FILE).read_bytes())
    config = run_config(toy, run, f"model.weights.source={copy}", "model.norm.start=batch")
    with caplog.at_level("INFO"):
        found = train(config)
    assert "87 loaded" in caplog.text and "34 reset: importance logits start at" in caplog.text
    assert found.started_from["origin"] == str(copy)
    assert found.started_from["loaded"] == 87 and found.started_from["reset"] == 34
    report = json.loads((run / "weights.json").read_text())
    assert {entry["fate"] for entry in report["tensors"]} == {"loaded", "reset"}
    for file in (copy, run / "results.json", run / WEIGHTS_FILE):
        file.unlink()
    assert train(config).started_from == found.started_from == last_state(run)["started_from"]
    about = snvideo.load_model(run).metadata
    assert about.preprocessing.mean == (0.4, 0.5, 0.6)
    assert about.started_from == found.started_from
    assert about.started_from["sha256"] == report["sha256"]


def test_weights_that_lack_something_cannot_be_tested(bn, toy, tmp_path):
    config = from_bn(bn, toy, tmp_path / "run")
    with pytest.raises(SnvideoError, match=r"cannot be tested without training: .*mean_logits"):
        evaluate(config)
    with pytest.raises(SnvideoError, match=r"nothing to test: name weights"):
        evaluate(run_config(toy, tmp_path / "run"))


def test_a_config_that_says_otherwise_is_followed_with_a_warning(bn, toy, tmp_path, caplog):
    other = ("data.mean=[0.1, 0.1, 0.1]", "data.clip.stride=2", "data.test.short_side=40")
    dry_run(from_bn(bn, toy, tmp_path / "sn", *other), timed_steps=0)
    assert "was trained with (0.4, 0.5, 0.6)" in caplog.text
    assert "data.clip.stride is 2" in caplog.text and "was trained with 4" in caplog.text
    assert "data.test.short_side is 40" in caplog.text


def test_image_networks_are_inflated(toy, tmp_path):
    path = tmp_path / "r50.pth"
    torch.save(torchvision.models.resnet50().state_dict(), path)
    overrides = ("model.name=i3d_r50_8x8", f"model.weights.source={path}", "model.norm.name=bn")
    config = run_config(toy, tmp_path / "run", *overrides)
    found = dry_run(config, timed_steps=0)
    assert found.config.data.mean == (0.485, 0.456, 0.406)
    assert list(tmp_path.iterdir()) == [path, tmp_path / "run.yaml"]


def test_weights_of_more_classes_can_be_tested(bn, toy, tmp_path):
    """On videos of some of the classes that a network knows."""
    folder = tmp_path / "some"
    shutil.copytree(toy, folder)
    meta = json.loads((folder / "index.json").read_text())
    lines = (folder / "index.csv").read_text().splitlines()
    last = meta["labels"].pop()
    kept = [line for line in lines if f",{last}," not in line]
    assert len(kept) < len(lines)
    (folder / "index.csv").write_text("\n".join(kept) + "\n")
    (folder / "index.json").write_text(json.dumps(meta))
    overrides = ("model.norm.name=bn", f"model.weights.source={bn / WEIGHTS_FILE}")
    found = evaluate(run_config(folder, tmp_path / "run", *overrides))
    assert len(found.classes) == 7 and found.videos == 14
    with pytest.raises(SnvideoError, match="holds a run: choose another output"):
        evaluate(run_config(folder, bn, *overrides))


@pytest.mark.process
def test_all_processes_fail_together(bn, toy, tmp_path):
    """And one of them says why."""
    config = from_bn(bn, toy, tmp_path / "run", "model.name=c2d_tiny")
    job = start("command", "train", str(tmp_path / "run.yaml"), log=tmp_path / "log", processes=2)
    assert job.wait() == [2, 2]
    said = (tmp_path / "log").read_text()
    assert said.count("is not c2d_tiny") == 1 and not config.output.exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.norm.start=equal"], "set model.norm.start=batch"),
        (["model.norm.name=gn"], "set model.norm.name=bn"),
        (["batch.gpus=8", "batch.clips_per_gpu=1"], "with one clip per GPU SN has no batch part"),
        (["model.name=i3d_r50_8x8"], "choose the model.name"),
        (["model.norm.name=frozen_bn", "model.weights.norms=new"], "frozen_bn trains no norm"),
        (["model.weights.source=none.pth"], "cannot read weights none.pth: No such file"),
        (["model.weights.source=torchvision:resnet5"], "torchvision has no weights 'resnet5'"),
    ],
)
def test_weights_that_do_not_fit_are_one_line(bn, toy, tmp_path, overrides, message):
    config = from_bn(bn, toy, tmp_path / "run", *overrides)
    for attempt in (train, lambda config: dry_run(config, timed_steps=0)):
        with pytest.raises(SnvideoError) as error:
            attempt(config)
        assert message in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_batch_renormalization_cannot_be_computed_again(toy, tmp_path):
    more = ("model.norm.name=brn", "speed.activation_checkpointing=true")
    with pytest.raises(SnvideoError, match=r"set speed\.activation_checkpointing=false"):
        Trainer(run_config(toy, tmp_path / "run", *more), CPU)
