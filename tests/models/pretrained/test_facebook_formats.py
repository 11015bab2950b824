"""X3D of PySlowFast, and the files of Caffe2 that its model zoo has."""

from __future__ import annotations

import os
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn

from snvideo.errors import SnvideoError
from snvideo.models import create_model
from snvideo.models.pretrained import open_weights
from snvideo.models.pretrained.formats.source import KINETICS
from tests.models.pretrained import foreign
from tests.models.pretrained.nets import CLASSES, blank, clips, error, lively, source, take


def logits(net: nn.Module, clip: Tensor) -> Tensor:
    with torch.no_grad():
        return net(clip)


@pytest.fixture(scope="module")
def x3d() -> tuple[nn.Module, Tensor]:
    """X3D as PySlowFast builds it, with a norm in the shortcut of res2, and a clip."""
    net, clip = create_model("x3d_xs", len(CLASSES), "bn"), clips(2, 0, frames=4, pixels=64)
    net.blocks[1].res_blocks[0].branch1_norm = nn.BatchNorm3d(24)
    return lively(net, clip), clip


def test_x3d_of_pyslowfast(x3d):
    """Bit for bit where the layers are the same; the one norm more is within rounding."""
    theirs, clip = x3d
    state = foreign.pyslowfast_x3d(theirs)
    assert state["s1.pathway0_stem.conv_xy.weight"].shape == (24, 3, 1, 3, 3)  # as published
    found = source(state)
    assert (found.format, found.mean_std, found.norm) == ("PySlowFast", KINETICS, "bn")
    ours = blank("x3d_xs")
    report = take(ours, found._replace(classes=CLASSES))
    assert {entry.status for entry in report.entries} == {"loaded"}
    (note,) = report.notes
    assert note.startswith("its norm beside the shortcut of res2")
    assert error(logits(ours, clip), logits(theirs, clip)) < 1e-4
    own, other = ours.state_dict(), theirs.state_dict()
    differ = {name for name in own if not torch.equal(own[name], other[name])}
    place = "blocks.1.res_blocks.0"
    assert {name for name in differ if "num_batches" not in name} == {
        *(f"{place}.branch1_conv.weight", f"{place}.branch2.norm_c.bias")
    }


def test_x3d_without_the_norm_gives_the_same_bits(x3d):
    theirs, clip = create_model("x3d_s", len(CLASSES), "bn"), x3d[1]
    lively(theirs, clip)
    ours = blank("x3d_s")
    take(ours, source(foreign.pyslowfast_x3d(theirs))._replace(classes=CLASSES))
    assert torch.equal(logits(ours, clip), logits(theirs, clip))


def test_x3d_of_blue_green_red(x3d):
    theirs, clip = x3d
    cfg = yaml.safe_dump({"DATA": {"REVERSE_INPUT_CHANNEL": True}})
    ours = blank("x3d_xs")
    take(ours, source(foreign.pyslowfast_x3d(theirs), cfg=cfg)._replace(classes=CLASSES))
    assert error(logits(ours, clip.flip(1)), logits(theirs, clip)) < 1e-4


def test_other_x3ds_are_refused(x3d):
    """One of another depth, one with a norm before the classifier, one that is cut off."""
    state = foreign.pyslowfast_x3d(x3d[0])
    found = source(state)._replace(classes=CLASSES)
    with pytest.raises(SnvideoError, match="is not this network: tensors"):
        take(blank("x3d_l"), found)
    with pytest.raises(SnvideoError, match="is not this network: tensors"):
        take(blank("i3d_tiny"), found)
    extra = {f"head.lin_5_bn.{field}": torch.ones(2048) for field in ("weight", "bias")}
    with pytest.raises(SnvideoError, match=r"2 too many \(such as head\.lin_5_bn"):
        take(blank("x3d_xs"), source(state | extra)._replace(classes=CLASSES))
    short = {k: t for k, t in state.items() if not k.startswith("s2.pathway0_res0.branch1_bn.w")}
    with pytest.raises(SnvideoError, match="too many"):
        take(blank("x3d_xs"), source(short)._replace(classes=CLASSES))


def test_non_local_blocks_of_todays_pyslowfast():
    """It calls their norms bn, as it calls all others."""
    theirs, clip = create_model("i3d_nln_tiny", len(CLASSES), "bn"), clips(2, 0)
    lively(theirs, clip)
    state = {k.replace(".norm.", ".bn."): t for k, t in foreign.pyslowfast(theirs).items()}
    ours = blank("i3d_nln_tiny")
    take(ours, source(state)._replace(classes=CLASSES))
    assert torch.equal(logits(ours, clip), logits(theirs, clip))


def caffe2_file(path: Path, net: nn.Module, protocol: int = 2) -> Path:
    """A file of Caffe2, with what its optimizer leaves there."""
    blobs = {name: tensor.numpy() for name, tensor in foreign.caffe2(net).items()}
    momenta = {f"{name}_momentum": array for name, array in blobs.items()}
    of_training = {"lr": np.float32(0.1), "model_iter": np.array([7])}
    path.write_bytes(pickle.dumps({"blobs": blobs | momenta | of_training}, protocol))
    return path


@pytest.mark.parametrize(
    "name, frames, protocol",
    [("i3d_tiny", 8, 2), ("i3d_nln_tiny", 8, 4), ("slow_tiny", 8, 2), ("slowfast_tiny", 16, 2)],
)
def test_caffe2(tmp_path, name, frames, protocol):
    theirs, clip = create_model(name, len(CLASSES), "bn"), clips(2, 0, frames=frames)
    lively(theirs, clip)
    path = caffe2_file(tmp_path / "zoo.pkl", theirs, protocol)
    found = open_weights(str(path))
    assert (found.format, found.mean_std, found.norm) == ("Caffe2", KINETICS, "bn")
    ours = blank(name)
    report = take(ours, found._replace(classes=CLASSES))
    assert {entry.status for entry in report.entries} == {"loaded"}
    assert torch.equal(logits(ours, clip), logits(theirs, clip))
    said = "; ".join(report.notes)
    assert "neither what strides" in said and "blobs of its optimizer were left out" in said
    assert ("see that it is softmax" in said) == ("nln" in name)


def test_networks_without_a_pool_are_a_start_alone():
    """A pool over time has no tensors; published logits would be others here."""
    with torch.device("meta"):
        net = create_model("c2d_tiny", len(CLASSES), "bn")
    cfg = yaml.safe_dump({"MODEL": {"ARCH": "c2d_nopool"}})
    for found in (source(foreign.caffe2(net)), source(foreign.pyslowfast(net), cfg=cfg)):
        assert not found.exact and "has no pool over time" in found.notes[-1]
    assert source(foreign.pyslowfast(net), cfg=cfg.replace("_nopool", "")).exact


def test_blobs_that_nobody_knows_are_not_passed_over(tmp_path):
    with torch.device("meta"):
        state = foreign.caffe2(create_model("i3d_tiny", len(CLASSES), "bn"))
    with pytest.raises(SnvideoError, match=r"1 too many \(such as res2_0_branch3_w"):
        take(blank("i3d_tiny"), source(state | {"res2_0_branch3_w": torch.ones(1)}))
    del state["res3_0_branch2b_bn_riv"]
    with pytest.raises(SnvideoError, match="1 missing"):
        take(blank("i3d_tiny"), source(state))


class _Runs:
    def __reduce__(self):
        return os.mkdir, ("made",)


@pytest.mark.parametrize(
    "value, problem",
    [
        ({"blobs": {"conv1_w": _Runs()}}, r"would run (posix|nt)\.mkdir to be read: refused"),
        ({"blobs": OrderedDict(conv1_w=np.array([_Runs()], dtype=object))}, "would run"),
        ({"blobs": 3}, "holds no blobs of Caffe2"),
        ([np.zeros(3)], "holds no blobs of Caffe2"),
        ({"blobs": {"lr": "0.1"}}, "holds no tensors"),
    ],
)
def test_pickles_that_are_something_else(tmp_path, monkeypatch, value, problem):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "zoo.pkl"
    path.write_bytes(pickle.dumps(value, protocol=2))
    with pytest.raises(SnvideoError, match=problem) as caught:
        open_weights(str(path))
    assert "\n" not in str(caught.value) and not (tmp_path / "made").exists()


def test_a_pickle_that_is_cut_off(tmp_path):
    net = create_model("slow_tiny", len(CLASSES), "bn")
    path = caffe2_file(tmp_path / "zoo.pkl", net)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(SnvideoError, match="is damaged, cut off"):
        open_weights(str(path))
