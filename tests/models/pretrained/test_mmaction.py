"""Networks of mmaction2: its names always, and its own networks where it is installed."""

from __future__ import annotations

import importlib
import sys
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
import torch
from pytorchvideo.models import hub
from torch import Tensor, nn

from snvideo.errors import SnvideoError
from snvideo.models import create_model
from snvideo.models.pretrained import open_weights
from snvideo.models.pretrained.formats.source import IMAGENET, TORCHVISION
from tests.models.pretrained import foreign
from tests.models.pretrained.nets import CLASSES, blank, error, lively, source, take

HERE = tuple(reversed(CLASSES))
OURS = {
    "i3d_r50": "i3d_r50_32x2",
    "slow_r50": "slow_r50_8x8",
    "c2d_r50": "c2d_r50_8x8",
    "slowfast_r50": "slowfast_r50_8x8",
}

# Of the state dicts that mmaction2 1.2.0 builds from its own configs, with 400 classes; to measure
# them again, install it (as below) and run these tests, or print foreign.fingerprint of one.
FINGERPRINTS = {
    "i3d_r50": "50a21675a98b7b0b046f7373e23704a91759cf7420cb9650e8e089930e5b292b",
    "slow_r50": "c3bc0b76461cd30d162536a9b5339a81e11db2855e38592cf6fe0ef04ef89f02",
    "c2d_r50": "8bd78e66faa3ff1b74b968b1744eeb0b50971a32f9447437136234d94fe14753",
    "slowfast_r50": "5b594776a971f93d24188a75c8759325ee2f3a5086c3157c0477aee15e3afac7",
}
PLAIN_SLOWFAST = "ea733c89a964d148eb7918d41dfac4765a14cc0cd3d764b99c51ba27b9a944ac"
"""Without norms on its lateral connections, as most of its published ones."""

# Where its pools differ from those of the papers: after the first convolution, I3D looks at one
# frame of two, and C2D does not pad.
POOLS = {
    "i3d_r50": nn.MaxPool3d((1, 3, 3), (2, 2, 2), (0, 1, 1)),
    "c2d_r50": nn.MaxPool3d((1, 3, 3), (1, 2, 2)),
}
HALVED = {"stem_conv_stride": (2, 2, 2), "stem_pool_stride": (2, 2, 2)}
"""Of its I3D, in the words of pytorchvideo's builder."""


def written(name: str, net: nn.Module, **options: bool) -> foreign.State:
    return foreign.mmaction(net, flat=name == "c2d_r50", **options)


@pytest.mark.parametrize("name", OURS)
def test_names_and_shapes_are_those_of_mmaction2(name):
    with torch.device("meta"):
        net = getattr(hub, name)()
    assert foreign.fingerprint(written(name, net)) == FINGERPRINTS[name]
    if name == "slowfast_r50":
        assert foreign.fingerprint(written(name, net, lateral_norm=False)) == PLAIN_SLOWFAST


def disagreement(ours: nn.Module, clip: Tensor, logits: Tensor) -> float:
    """Error of the logits of a network whose classes are in the reverse order."""
    with torch.no_grad():
        return error(ours(clip).flip(1), logits)


@pytest.mark.parametrize("name", OURS)
def test_networks_in_its_names(theirs, name):
    net, clip, logits = theirs(name, **(HALVED if name == "i3d_r50" else {}))
    found = source(written(name, net), meta={"dataset_meta": {"classes": list(CLASSES)}})
    assert found.format == "mmaction2" and found.mean_std == IMAGENET and found.classes == CLASSES
    ours = blank(OURS[name])
    report = take(ours, found, HERE)
    assert report.count("inflated") == (53 if name == "c2d_r50" else 0)
    if name == "i3d_r50":
        ours.blocks[0].pool = POOLS[name]
    assert disagreement(ours, clip, logits) < 1e-5
    assert [" pool of mmaction2's " in line for line in report.notes] == [True] * (name in POOLS)


@pytest.mark.parametrize("authors", [False, True])
def test_networks_that_shift_channels(authors):
    """Those of mmaction2, and those of the authors of TSM."""
    theirs, clip = create_model("tsm_tiny", len(CLASSES), "bn"), torch.randn(2, 3, 8, 48, 48)
    lively(theirs, clip)
    state = foreign.shifted(foreign.mmaction(theirs, flat=True))
    found = source(
        foreign.tsm(theirs) if authors else state,
        meta={"dataset_meta": {"classes": list(CLASSES)}},
    )
    assert found.format == ("TSM" if authors else "mmaction2")
    assert found.mean_std == IMAGENET and found.exact and not found.notes and not found.images
    ours = blank("tsm_tiny")
    report = take(ours, found._replace(classes=CLASSES), HERE)
    assert report.count("inflated") == 17 and report.count("reset") == 0
    with torch.no_grad():
        assert disagreement(ours, clip, theirs(clip)) < 1e-5


@pytest.mark.parametrize("write", [foreign.pyslowfast, partial(foreign.mmaction, flat=True)])
def test_shifted_channels_are_not_guessed(write):
    """Networks that shift channels and those that do not have the same tensors."""
    with torch.device("meta"):
        plain = source(write(create_model("tsm_tiny", len(CLASSES), "bn")))
        shifted = source(foreign.tsm(create_model("tsm_tiny", len(CLASSES), "bn")))
    with pytest.raises(SnvideoError, match="does not shift channels along time, this network shif"):
        take(blank("tsm_tiny"), plain, HERE, head="new")
    assert shifted.shifted and plain.shifted is False
    with pytest.raises(
        SnvideoError, match="that shifts channels along time, this network does not"
    ):
        take(blank("c2d_tiny"), shifted, HERE, head="new")


@pytest.mark.parametrize("name", ["ir_csn_tiny", "ip_csn_tiny"])
def test_channel_separated_networks(name):
    """Their norms have an eps of their own, and their input the normalization of Tran et al."""
    theirs = create_model(name, len(CLASSES), "bn")
    for layer in theirs.modules():
        if isinstance(layer, nn.BatchNorm3d):
            layer.eps = 1e-3
    clip = torch.randn(2, 3, 8, 48, 48)
    lively(theirs, clip)
    for layer in theirs.modules():
        if isinstance(layer, nn.BatchNorm3d):
            layer.running_var[::2] *= 1e-3  # channels for which eps counts
    found = source(foreign.mmaction(theirs), meta={"dataset_meta": {"classes": list(CLASSES)}})
    assert found.format == "mmaction2" and found.mean_std == TORCHVISION and found.exact
    ours = blank(name)
    report = take(ours, found, HERE)
    assert report.notes == (
        "its norms add 0.001 to variances, here 0.00001: the difference was added to them",
    )
    with torch.no_grad():
        assert disagreement(ours, clip, theirs(clip)) < 1e-5


@pytest.mark.parametrize(
    "there, here, said",
    [
        ("ir_csn_tiny", "ip_csn_tiny", "12 missing"),
        ("ip_csn_tiny", "ir_csn_tiny", "too many"),
        ("ir_csn_tiny", "i3d_tiny", "of other shape"),
    ],
)
def test_channel_separated_networks_of_another_kind_are_refused(there, here, said):
    with torch.device("meta"):
        state = foreign.mmaction(create_model(there, len(CLASSES), "bn"))
    with pytest.raises(SnvideoError, match=said) as caught:
        take(blank(here), source(state), HERE, head="new")
    assert "\n" not in str(caught.value)


def test_slowfast_without_lateral_norms_is_refused(theirs):
    state = written("slowfast_r50", theirs("slowfast_r50").net, lateral_norm=False)
    with pytest.raises(SnvideoError, match="lateral connections have no norm"):
        source(state)


@pytest.mark.parametrize(
    "part", ["cls_head.fc_cls.weight", "backbone.fast_path.layer4.0.conv3.conv.weight"]
)
def test_slowfast_in_parts_is_one_line(theirs, part):
    state = written("slowfast_r50", theirs("slowfast_r50").net)
    del state[part]
    with pytest.raises(SnvideoError, match=r"has no classifier|1 missing"):
        take(blank("slowfast_r50_8x8"), source(state), HERE)


def test_its_i3d_halves_time(theirs):
    """As all of its published ones."""
    found = source(written("i3d_r50", theirs("i3d_r50", **HALVED).net))
    take(blank("i3d_r50_32x2"), found, head="new")
    with pytest.raises(SnvideoError, match="stride 2 in time, this network has 1"):
        take(blank("i3d_r50_8x8"), found, head="new")


# The library itself ---------------------------------------------------------------------------

CONFIGS = {
    "i3d_r50": "i3d/i3d_imagenet-pretrained-r50_8xb8-32x2x1-100e_kinetics400-rgb.py",
    "slow_r50": "slowonly/slowonly_r50_8xb16-8x8x1-256e_kinetics400-rgb.py",
    "c2d_r50": "c2d/c2d_r50-in1k-pre_8xb32-8x8x1-100e_kinetics400-rgb.py",
    "slowfast_r50": "slowfast/slowfast_r50_8xb8-8x8x1-steplr-256e_kinetics400-rgb.py",
}
FRAMES = {"i3d_r50": 16, "slow_r50": 8, "c2d_r50": 8, "slowfast_r50": 32}


class Recognizer(nn.Module):
    """A network of mmaction2, from clip to logits; built as a config says."""

    def __init__(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        install = "pip install mmaction2 mmengine 'mmcv-lite<2.2' einops importlib-metadata"
        mmaction = pytest.importorskip("mmaction", reason=f"needs mmaction2: {install}")
        # The wheel was published without this folder, and imports it.
        missing = "mmaction.models.localizers"
        monkeypatch.setitem(sys.modules, missing, ModuleType(missing))
        from mmaction.registry import MODELS
        from mmengine.config import Config
        from mmengine.registry import init_default_scope

        for part in ("recognizers", "backbones", "heads"):
            importlib.import_module(f"mmaction.models.{part}")
        init_default_scope("mmaction")
        folder = Path(mmaction.__file__).parent / ".mim/configs/recognition"
        config = Config.fromfile(folder / CONFIGS[name])
        self.config = config.pretty_text
        config.model.backbone.pretrained = None
        config.model.pop("data_preprocessor")
        self.net = MODELS.build(config.model)

    def forward(self, clip: Tensor) -> Tensor:
        return self.net.cls_head(self.net.backbone(clip))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", OURS)
def test_the_real_one(name, monkeypatch, tmp_path):
    real = Recognizer(name, monkeypatch)
    state = real.net.state_dict()
    assert foreign.fingerprint(state) == FINGERPRINTS[name]
    clip = torch.randn(2, 3, FRAMES[name], 64, 64)
    lively(real, clip)
    names = [f"class {number}" for number in range(400)]
    file = tmp_path / "real.pth"
    meta = {"cfg": real.config, "dataset_meta": {"classes": names}}
    torch.save({"meta": meta, "state_dict": state}, file)
    ours = blank(OURS[name], classes=400)
    take(ours, open_weights(str(file)), names[::-1])
    with torch.no_grad():
        logits = real(clip)
    if name in POOLS:
        assert disagreement(ours, clip, logits) > 0.01
        ours.blocks[0].pool = POOLS[name]
    assert disagreement(ours, clip, logits) < 1e-5
