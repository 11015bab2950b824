"""Networks that files of weights are of."""

import pytest
import torch
from torchvision import models

from snvideo.errors import SnvideoError
from snvideo.models import create_model
from snvideo.models.pretrained import fitting, formats
from snvideo.models.pretrained.fitting import fitting_backbones
from snvideo.models.pretrained.reader import Contents


@pytest.fixture(autouse=True)
def few(monkeypatch):
    """Not all of the networks, which take seconds."""
    names = ("c2d_r50_8x8", "i3d_r50_8x8", "i3d_r50_32x2", "slow_r50_4x16", "slow_r50_8x8")
    names += ("x3d_xs", "x3d_s", "i3d_tiny")
    monkeypatch.setattr(fitting, "BACKBONES", {name: fitting.BACKBONES[name] for name in names})


def fit(build, *arguments, origin: str, envelope: str = "") -> list[str]:
    with torch.device("meta"):  # names and shapes are all that counts
        contents = Contents(build(*arguments).state_dict(), {}, None, envelope)
    return fitting_backbones(formats.identify(contents, origin))


def test_images_start_i3d_first():
    assert fit(models.resnet50, origin="r.pth")[:2] == ["i3d_r50_8x8", "i3d_r50_32x2"]
    with pytest.raises(SnvideoError, match="fits none of the networks here"):
        fit(models.resnet34, origin="r.pth")


@pytest.mark.parametrize(
    ("name", "origin", "fitting"),
    [
        ("x3d_s", "pytorchvideo:x3d_s", ["x3d_s", "x3d_xs"]),
        ("x3d_s", "/zoo/x3d_xs.pyth", ["x3d_xs", "x3d_s"]),
        ("slow_r50_8x8", "pytorchvideo:slow_r50", ["slow_r50_8x8", "slow_r50_4x16"]),
        ("slow_r50_8x8", "SLOW_4x16_R50.pyth", ["slow_r50_4x16", "slow_r50_8x8"]),
        # Its stem does not halve time, which the tensors do not tell.
        ("i3d_r50_8x8", "i.pyth", ["i3d_r50_8x8"]),
    ],
)
def test_the_name_decides_between_networks_of_the_same_tensors(name, origin, fitting):
    assert fit(create_model, name, 10, origin=origin, envelope="model_state") == fitting
