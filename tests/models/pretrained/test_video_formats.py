"""Networks for videos of pytorchvideo, PySlowFast and torchvision: here they say the same."""

import pytest
import torch
import yaml
from pytorchvideo.models import hub
from torch import nn
from torchvision.models import video

from snvideo.errors import SnvideoError
from snvideo.models import create_model
from snvideo.models.pretrained import open_weights
from snvideo.models.pretrained.formats import identify
from snvideo.models.pretrained.formats.source import KINETICS
from snvideo.models.pretrained.reader import Contents
from tests.models.pretrained import foreign
from tests.models.pretrained.nets import CLASSES, blank, error, lively, source, take

OURS = {
    "c2d_r50": "c2d_r50_8x8",
    "i3d_r50": "i3d_r50_8x8",
    "slow_r50": "slow_r50_8x8",
    "slowfast_r50": "slowfast_r50_8x8",
    "r2plus1d_r50": "r2plus1d_r50_16x4",
    "x3d_xs": "x3d_xs",
}
RESNETS = ("c2d_r50", "i3d_r50", "slow_r50", "slowfast_r50")

HERE = tuple(reversed(CLASSES))
"""Classes in another order than theirs."""


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    """A file of the names of their classes, in their order."""
    path = tmp_path_factory.mktemp("classes") / "names.txt"
    path.write_text("\n".join(CLASSES))
    return path


def disagreement(ours: nn.Module, clip: torch.Tensor, logits: torch.Tensor) -> float:
    """Error of the logits, class by class by name."""
    with torch.no_grad():
        return error(ours(clip)[:, [HERE.index(name) for name in CLASSES]], logits)


@pytest.mark.parametrize("name", OURS)
def test_networks_of_the_hub(theirs, names, name, tmp_path):
    net, clip, logits = theirs(name)
    file = tmp_path / "hub.pyth"
    torch.save({"model_state": net.state_dict(), "epoch": 196}, file)
    ours = blank(OURS[name])
    found = open_weights(str(file))
    report = take(ours, found, HERE, classes=names)
    assert found.format == "pytorchvideo" and found.mean_std == KINETICS
    assert {entry.status for entry in report.entries} == {"loaded"}
    assert disagreement(ours, clip, logits) < 1e-5


def test_a_network_of_the_hub_as_it_is_at_the_size_it_was_made_for(names):
    with torch.device("meta"):
        net = hub.c2d_r50(model_num_class=len(CLASSES))
    clip = torch.randn(1, 3, 8, 224, 224)
    net = lively(net.to_empty(device="cpu"), clip)
    ours = blank("c2d_r50_8x8")
    take(ours, source(net.state_dict()), HERE, classes=names)
    with torch.no_grad():
        assert disagreement(ours, clip, net(clip)) < 1e-5


@pytest.mark.parametrize("name", ["r3d_18", "mc3_18", "r2plus1d_18"])
def test_networks_of_torchvision(names, name):
    with torch.device("meta"):
        net = getattr(video, name)(num_classes=len(CLASSES))
    clip = torch.randn(2, 3, 8, 32, 32)
    net = lively(net.to_empty(device="cpu"), clip)
    found = source(net.state_dict())
    assert found.format == "torchvision's video networks"
    assert found.mean_std[0] == (0.43216, 0.394666, 0.37645)
    ours = blank(name)
    take(ours, found, HERE, classes=names)
    with torch.no_grad():
        assert disagreement(ours, clip, net(clip)) < 1e-5


@pytest.mark.parametrize("name", RESNETS)
def test_pyslowfast(theirs, names, name):
    net, clip, logits = theirs(name)
    found = source(foreign.pyslowfast(net))
    assert found.format == "PySlowFast" and found.mean_std == KINETICS and not found.notes
    ours = blank(OURS[name])
    take(ours, found, HERE, classes=names)
    assert disagreement(ours, clip, logits) < 1e-5


@pytest.mark.parametrize("name", ["i3d_r50", "slowfast_r50"])
@pytest.mark.parametrize("reverse", [True, False])
def test_pyslowfast_of_blue_green_red(theirs, names, name, reverse):
    """Its networks may have been shown BGR; the mean is that of RGB all the same."""
    net, clip, logits = theirs(name)
    mean, std = [0.5, 0.4, 0.3], [0.25, 0.2, 1]
    data = {"MEAN": mean, "STD": std, "REVERSE_INPUT_CHANNEL": reverse, "NUM_FRAMES": 8}
    cfg = yaml.safe_dump({"DATA": data, "WEIGHTS_FILE": {"ARCH": name}})
    found = source(foreign.pyslowfast(net), cfg=cfg, epoch=3)
    assert found.mean_std == (tuple(mean), tuple(std))
    ours = blank(OURS[name])
    report = take(ours, found, HERE, classes=names)
    said = [line for line in report.table() if "BGR" in line]
    if reverse:
        assert len(said) == 1
        assert disagreement(ours, clip.flip(1), logits) < 1e-5
        assert disagreement(ours, clip, logits) > 0.01
    else:
        assert not said
        assert disagreement(ours, clip, logits) < 1e-5


@pytest.mark.parametrize("cfg", ["DATA: [1", "DATA: 3", "- x", "DATA:\n  MEAN: 3\n  STD: [a]", 5])
def test_a_config_of_pyslowfast_that_says_nothing_is_passed_over(theirs, cfg):
    found = source(foreign.pyslowfast(theirs("c2d_r50").net), cfg=cfg)
    assert found.mean_std == KINETICS


@pytest.mark.parametrize("write", [nn.Module.state_dict, foreign.pyslowfast])
def test_a_network_that_keeps_all_frames_is_not_one_that_halves_them(theirs, write):
    """The tensors of both I3Ds are alike; only the strides tell them apart."""
    ours = blank("i3d_r50_32x2")
    with pytest.raises(SnvideoError, match="stride 1 in time, this network has 2"):
        take(ours, source(write(theirs("i3d_r50").net)), head="new")
    assert all(t.isnan().all() for t in ours.parameters())


NON_LOCAL = {"INSTANTIATION": "softmax", "GROUP": [[1]] * 4, "POOL": [[[1, 2, 2]]] * 4}


def test_non_local_blocks_of_pyslowfast(names):
    theirs, clip = create_model("i3d_nln_tiny", len(CLASSES), "bn"), torch.randn(2, 3, 8, 64, 64)
    lively(theirs, clip)
    cfg = yaml.safe_dump({"NONLOCAL": NON_LOCAL})
    found = source(foreign.pyslowfast(theirs), cfg=cfg)
    ours = blank("i3d_nln_tiny")
    report = take(ours, found, HERE, classes=names)
    assert {entry.status for entry in report.entries} == {"loaded"} and not report.notes
    with torch.no_grad():
        assert disagreement(ours, clip, theirs(clip)) < 1e-5
    (note,) = source(foreign.pyslowfast(theirs)).notes
    assert note.startswith("the file does not say what its non-local blocks compute")
    with pytest.raises(SnvideoError, match="too many"):
        take(blank("i3d_tiny"), found, HERE, head="new")


@pytest.mark.parametrize(
    "other",
    [
        {"INSTANTIATION": "dot_product"},
        {"POOL": [[[2, 2, 2]]] * 4},
        {"GROUP": [[1], [4], [4], [1]]},
    ],
)
def test_non_local_blocks_that_compute_something_else_are_refused(other):
    with torch.device("meta"):
        state = foreign.pyslowfast(create_model("i3d_nln_tiny", len(CLASSES), "bn"))
    with pytest.raises(SnvideoError, match=r"has non-local blocks of the kind [^\n]*$"):
        source(state, cfg=yaml.safe_dump({"NONLOCAL": NON_LOCAL | other}))


@pytest.mark.parametrize("norm, norms", [("bn", "keep"), ("sn", "new")])
def test_non_local_blocks_are_added_to_a_network_without(norm, norms):
    """They begin as the identity, so the network begins as the one that it starts from."""
    theirs, clip = create_model("i3d_tiny", len(CLASSES), "bn"), torch.randn(2, 3, 8, 64, 64)
    lively(theirs, clip)
    ours = create_model("i3d_nln_tiny", len(CLASSES), norm).eval()
    found = source(theirs.state_dict())._replace(classes=CLASSES)
    report = take(ours, found, norms=norms)
    new = [entry.name for entry in report.entries if "non-local" in entry.why]
    assert len(new) == 2 * (4 * 2 + {"bn": 4, "sn": 6}[norm])
    if norms == "keep":
        with torch.no_grad():
            assert error(ours(clip), theirs(clip)) < 1e-5


def test_a_bare_state_dict_may_have_any_strides_and_says_so(theirs):
    """As torch.save writes it of a network of ours, of whichever of the two."""
    found = identify(Contents(theirs("i3d_r50").net.state_dict(), {}, None), "bare.pth")
    report = take(blank("i3d_r50_32x2"), found, head="new")
    (note,) = report.notes
    assert note == "the file does not say what strides its network had: see that they are these"
