"""Weights that a library downloads: what it would return is put in its place."""

import re
from urllib.error import URLError

import pytest
import timm
import torch
import torchvision
from pytorchvideo.models.hub.resnet import checkpoint_paths
from torchvision.models import ResNet50_Weights, resnet50
from torchvision.models.video import R3D_18_Weights, r3d_18

from snvideo.errors import SnvideoError
from snvideo.models.pretrained import open_weights
from snvideo.models.pretrained.formats.source import IMAGENET, KINETICS
from tests.models.pretrained.nets import blank, lively, take


@pytest.fixture
def asked(monkeypatch):
    """What was asked of the network, which is not there."""
    urls = []

    def refuse(url, *args, **options):
        urls.append((url, options))
        raise URLError("Name or service not known\nand so on")

    for place in ("torchvision.models._api", "snvideo.models.pretrained.hub"):
        monkeypatch.setattr(f"{place}.load_state_dict_from_url", refuse)
    return urls


def give(monkeypatch, place, state):
    asked = []

    def load(url, *args, **options):
        asked.append((url, options))
        return state

    monkeypatch.setattr(f"{place}.load_state_dict_from_url", load)
    return asked


def on_meta(create, *args, **options):
    with torch.device("meta"):
        net = create(*args, **options)
    return net.to_empty(device="cpu")


@pytest.mark.parametrize(
    "name, weights",
    [
        ("resnet50", ResNet50_Weights.DEFAULT),
        ("resnet50:DEFAULT", ResNet50_Weights.DEFAULT),
        ("resnet50:IMAGENET1K_V1", ResNet50_Weights.IMAGENET1K_V1),
    ],
)
def test_networks_for_images_of_torchvision(monkeypatch, name, weights):
    net = lively(on_meta(resnet50), torch.randn(2, 3, 64, 64))
    asked = give(monkeypatch, "torchvision.models._api", net.state_dict())
    found = open_weights(f"torchvision:{name}")
    ((url, options),) = asked
    assert url == weights.url and options["check_hash"] and options["weights_only"]
    assert found.origin == f"torchvision:{name}"
    assert found.mean_std == IMAGENET and found.images and found.norm == "bn"
    assert len(found.classes) == 1000 and found.classes[0] == "tench"
    take(blank("c2d_r50_8x8"), found)


def test_networks_for_videos_of_torchvision(monkeypatch):
    net = lively(on_meta(r3d_18), torch.randn(2, 3, 4, 32, 32))
    asked = give(monkeypatch, "torchvision.models._api", net.state_dict())
    found = open_weights("torchvision:r3d_18")
    assert asked[0][0] == R3D_18_Weights.DEFAULT.url
    mean, std = (0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)
    assert found.mean_std == (mean, std) and not found.images
    assert len(found.classes) == 400 and found.classes[-1] == "zumba"
    ours = blank("r3d_18", classes=2)
    take(ours, found, ("zumba", "Abseiling"))
    assert torch.equal(ours.fc.weight, net.fc.weight[[399, 0]])


def test_networks_of_timm(monkeypatch):
    net = lively(on_meta(timm.create_model, "resnet50_gn"), torch.randn(2, 3, 64, 64))
    net.pretrained_cfg = {**net.pretrained_cfg, "mean": (0.5, 0.4, 0.3), "std": [0.1, 0.2, 0.3]}
    asked = []
    monkeypatch.setattr(timm, "create_model", lambda *a, **k: asked.append((a, k)) or net)
    found = open_weights("timm:resnet50_gn.a1h_in1k")
    assert asked == [(("resnet50_gn.a1h_in1k",), {"pretrained": True})]
    assert found.mean_std == ((0.5, 0.4, 0.3), (0.1, 0.2, 0.3))
    assert found.images and found.norm == "gn"
    take(blank("c2d_r50_8x8", "gn"), found)


def test_networks_of_pytorchvideo(monkeypatch, theirs):
    state = {"model_state": theirs("i3d_r50").net.state_dict()}
    asked = give(monkeypatch, "snvideo.models.pretrained.hub", state)
    found = open_weights("pytorchvideo:i3d_r50")
    ((url, options),) = asked
    assert url == checkpoint_paths["i3d_r50"] and options["weights_only"]
    assert found.format == "pytorchvideo" and found.mean_std == KINETICS
    take(blank("i3d_r50_8x8"), found, head="new")


@pytest.mark.parametrize("source", ["torchvision:resnet50", "pytorchvideo:slowfast_r50"])
def test_without_a_network_it_is_one_line(asked, source):
    with pytest.raises(SnvideoError) as caught:
        open_weights(source)
    assert len(asked) == 1
    assert str(caught.value) == (
        f"cannot download {source}: <urlopen error Name or service not known; download it "
        "elsewhere and name the file"
    )


def test_without_a_network_timm_is_one_line(monkeypatch):
    def refuse(*args, **options):
        raise OSError("We couldn't connect to the hub\nto load the files")

    monkeypatch.setattr(timm, "create_model", refuse)
    with pytest.raises(SnvideoError, match=r"^cannot download timm:resnet50: We couldn't connect"):
        open_weights("timm:resnet50")


@pytest.mark.parametrize(
    "source, said",
    [
        ("torchvision:resnet5", "torchvision has no weights 'resnet5'"),
        ("torchvision:resnet50:V9", "torchvision has no weights 'resnet50:V9'"),
        ("torchvision:", "torchvision has no weights ''"),
        ("timm:resnet5", "timm has no network 'resnet5'"),
        ("timm:", "timm has no network ''"),
        ("pytorchvideo:i3d_r5", "pytorchvideo's hub has no 'i3d_r5': it has c2d_r50, "),
        ("hub:i3d_r50", "cannot read weights hub:i3d_r50: No such file"),
    ],
)
def test_unknown_names_are_one_line(asked, source, said):
    with pytest.raises(SnvideoError, match=rf"^{re.escape(said)}[^\n]*$"):
        open_weights(source)
    assert not asked


def test_a_file_comes_before_a_library_of_its_name(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "timm:x").write_text("not weights")
    with pytest.raises(SnvideoError, match="timm:x is a text file"):
        open_weights("timm:x")


def test_networks_that_no_format_knows_are_one_line(monkeypatch):
    state = torchvision.models.squeezenet1_0().state_dict()
    give(monkeypatch, "torchvision.models._api", state)
    said = r"^torchvision:squeezenet1_0: no known format has tensors such as features\.0[^\n]*$"
    with pytest.raises(SnvideoError, match=said):
        open_weights("torchvision:squeezenet1_0")


def test_quantized_networks_are_one_line(monkeypatch):
    state = {"layer1.0.conv1.weight": torch.zeros(4, 4, 1, 1), "fc._packed_params": ("qint8",)}
    give(monkeypatch, "torchvision.models._api", state)
    with pytest.raises(SnvideoError, match=r"'fc\._packed_params' is not a tensor"):
        open_weights("torchvision:resnet50")
