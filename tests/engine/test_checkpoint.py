"""Checkpoints: whole or not there, never code, and strict about what they fit."""

import pickle

import pytest
import torch

from snvideo.engine.checkpoint import checkpoints, load_checkpoint, load_weights, save_checkpoint
from snvideo.errors import SnvideoError
from snvideo.models import build_model


def test_round_trip_keeps_the_newest(tmp_path):
    for step in (5, 10, 15):
        save_checkpoint(tmp_path, step, {"model": {"a": torch.tensor([step])}}, keep=2)
    assert [path.name for path in checkpoints(tmp_path)] == ["step_00000010.pt", "step_00000015.pt"]
    assert load_checkpoint(checkpoints(tmp_path)[-1])["model"]["a"].item() == 15


def test_a_write_that_breaks_off_leaves_the_old_one(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, 5, {"model": {}}, keep=1)

    def full(*args):
        args[1].write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(tmp_path, 10, {"model": {}}, keep=1)
    assert [path.name for path in checkpoints(tmp_path)] == ["step_00000005.pt"]


class Hostile:
    def __reduce__(self):
        return (print, ("this must never run",))


def test_what_is_no_checkpoint_is_one_line(tmp_path, capsys):
    text, hostile, other = tmp_path / "text.pt", tmp_path / "hostile.pt", tmp_path / "other.pt"
    text.write_text("not a checkpoint")
    hostile.write_bytes(pickle.dumps({"model": Hostile()}))
    torch.save({"weights": 1}, other)
    for path in (text, hostile, other, tmp_path / "missing.pt"):
        with pytest.raises(SnvideoError) as error:
            load_checkpoint(path)
        assert str(path) in str(error.value) and "\n" not in str(error.value)
    assert "this must never run" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "classes", "norm", "message"),
    [
        ("i3d_tiny", 8, "bn", "was trained for 8 classes, the index has 5"),
        ("i3d_tiny", 5, "sn", "another model or norm: tensors"),
        ("slow_r50_8x8", 5, "bn", "another model or norm: tensors"),
    ],
)
def test_weights_must_fit(tmp_path, name, classes, norm, message):
    state = {"model": build_model(name, classes, norm).state_dict()}
    model = build_model("i3d_tiny", 5, "bn")
    before = model.state_dict()["blocks.0.conv.weight"].clone()
    with pytest.raises(SnvideoError) as error:
        load_weights(model, state, tmp_path / "x.pt")
    assert message in str(error.value) and "\n" not in str(error.value)
    assert torch.equal(model.state_dict()["blocks.0.conv.weight"], before)
