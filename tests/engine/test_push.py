"""Runs on the Hugging Face Hub: what is published comes back to the bit, faults are one line."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load

import snvideo
from snvideo.engine.push import push
from snvideo.errors import SnvideoError
from snvideo.models import create_model
from snvideo.models.pretrained import (
    Preprocessing,
    WeightsMetadata,
    layer_strides,
    open_weights,
    write_weights,
)
from tests.engine.hub_server import TOKEN, Hub, serve
from tests.study.fakes import CLASSES, results_of, run_config

constants = pytest.importorskip("huggingface_hub.constants")

SEEN = Preprocessing(
    mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25), frames=4, stride=4, short_side=40, crop=32
)
ME = "me/sn"


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Iterator[Hub]:
    """A hub without repositories, a token for it, and an empty cache."""
    with serve() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        template = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # the server has no such storage
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("HOME", str(tmp_path))
        yield hub


@pytest.fixture
def run(tmp_path) -> Path:
    """Folder of a finished run."""
    folder = tmp_path / "runs/sn"
    folder.mkdir(parents=True)
    config = run_config(folder)
    model = create_model("i3d_tiny", len(CLASSES), "sn")
    metadata = WeightsMetadata(
        architecture="i3d_tiny",
        strides=layer_strides(model),
        norm="sn",
        statistics="average",
        classes=tuple(CLASSES),
        preprocessing=SEEN,
        results=results_of(config, 0.75),
    )
    write_weights(folder / "model.safetensors", model, metadata)
    (folder / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    (folder / "results.json").write_text(json.dumps(results_of(config, 0.75)))
    return folder


def said(call) -> str:
    """The line of the error that a call ends in."""
    with pytest.raises(SnvideoError) as error:
        call()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_network_comes_back_to_the_bit(run, hub, tmp_path, caplog):
    caplog.set_level(logging.INFO, "snvideo")
    assert push(run, ME, private=True).startswith(f"{hub.endpoint}/me/sn/commit/")
    assert hub.made[0]["visibility"] == "private"
    ((commit, files),) = hub.repos[ME].items()
    assert set(files) == {"model.safetensors", "README.md", "config.yaml", "preprocessing.json"}
    assert files["model.safetensors"] == (run / "model.safetensors").read_bytes()
    loaded, own = snvideo.load_model(f"hf:{ME}"), snvideo.load_model(run)
    clips = torch.randn(2, 3, 4, 32, 32)
    assert torch.equal(loaded.model(clips), own.model(clips))
    assert loaded.metadata == own.metadata
    assert f"hf:{ME} is commit {commit}" in caplog.text
    source = open_weights(f"hf:{ME}@{commit}")
    assert source.origin == f"hf:{ME}@{commit}" and source.mean_std == (SEEN.mean, SEEN.std)
    for name, tensor in load(files["model.safetensors"]).items():
        assert torch.equal(own.model.state_dict()[name], tensor)


def test_the_card_says_what_it_is_and_no_home_folder(run, hub, tmp_path):
    push(run, ME)
    (files,) = hub.repos[ME].values()
    card = files["README.md"].decode()
    front, text = card.removeprefix("---\n").split("---\n\n", 1)
    assert yaml.safe_load(front) == {
        "library_name": "snvideo",
        "pipeline_tag": "video-classification",
        "tags": ["snvideo", "action-recognition", "i3d_tiny", "sn"],
    }
    for part in ('load_model("hf:me/sn")', "--weights hf:me/sn", "| video top-1 | 75.0 % |"):
        assert part in text
    assert "output: ~/runs/sn" in text and "output: ~/runs/sn" in files["config.yaml"].decode()
    assert str(tmp_path) not in text
    seen = json.loads(files["preprocessing.json"])
    assert (seen["crop"], seen["mean"], seen["classes"]) == (32, [0.4, 0.5, 0.6], CLASSES)


def test_a_second_push_is_a_second_commit_and_the_first_can_be_named(run, hub):
    push(run, ME)
    first = snvideo.load_model(f"hf:{ME}").metadata
    changed = create_model("i3d_tiny", len(CLASSES), "sn")
    write_weights(run / "model.safetensors", changed, first.model_copy(update={"dropout": 0.25}))
    push(run, f"hf:{ME}")
    commit = next(iter(hub.repos[ME]))
    assert len(hub.repos[ME]) == 2
    assert snvideo.load_model(f"hf:{ME}").metadata.dropout == 0.25
    assert snvideo.load_model(f"hf:{ME}@{commit}").metadata == first


def test_only_finished_runs_are_published(run, hub, tmp_path):
    (tmp_path / "empty").mkdir()
    assert said(lambda: push(tmp_path / "empty", ME)) == (
        f"{tmp_path}/empty is not the folder of a run: it has no config.yaml"
    )
    weights = (run / "model.safetensors").read_bytes()
    (run / "model.safetensors").write_bytes(weights[:-9])
    assert "is damaged" in said(lambda: push(run, ME))
    (run / "model.safetensors").write_bytes(weights)
    (run / "results.json").unlink()
    assert said(lambda: push(run, ME)) == (
        f"{run} is not finished, so it has no results: snvideo train {run}"
    )
    assert hub.repos == {}


def test_a_missing_or_wrong_token_is_one_line(run, hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    assert said(lambda: push(run, ME)).startswith(f"{ME}: the token is not accepted")
    monkeypatch.delenv("HF_TOKEN")
    assert said(lambda: push(run, ME)).startswith("no token of the Hugging Face Hub: 'hf auth")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hf:me/other", "there is no such repository, or it is private"),
        ("hf:me/sn@v9", "the repository has no such revision"),
        ("hf:me/sn@", "names no revision: expected hf:USER/NAME@REVISION"),
        ("hf:me/empty", "the repository has no weights of snvideo"),
        ("hf:me/a/b", "this is no name of a repository: expected USER/NAME"),
        ("hf:", "this is no name of a repository: expected USER/NAME"),
    ],
)
def test_what_is_not_there_is_one_line(hub, name, message):
    hub.repos = {"me/sn": {"0" * 40: {}}, "me/empty": {"1" * 40: {"README.md": b"x"}}}
    for load_it in (snvideo.load_model, open_weights):
        line = said(lambda load_it=load_it: load_it(name))
        assert line.startswith(name) and message in line


def test_without_network_there_is_one_line_or_what_came_last(run, hub, monkeypatch, caplog):
    push(run, ME)
    loaded = snvideo.load_model(f"hf:{ME}")
    hub.status = 503
    assert "fails: Server error '503" in said(lambda: push(run, ME))
    hub.shutdown()
    hub.server_close()
    again = snvideo.load_model(f"hf:{ME}")
    assert again.metadata == loaded.metadata
    assert f"hf:{ME} as it was downloaded last" in caplog.text
    assert f"hf:me/other: {hub.endpoint} cannot be reached" in said(
        lambda: snvideo.load_model("hf:me/other")
    )
    assert f"{ME}: {hub.endpoint} cannot be reached" in said(lambda: push(run, ME))


def test_a_file_of_such_a_name_is_a_file(run, hub, monkeypatch):
    monkeypatch.chdir(run)
    (run / "model.safetensors").rename("hf:mine")
    assert snvideo.load_model("hf:mine").classes == tuple(CLASSES)
