"""Backbones: their published size, their shapes, and the same treatment for every norm."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from snvideo.errors import SnvideoError
from snvideo.models import BACKBONES, build_model
from snvideo.norm import NORMS

# Frames, millions of parameters and GFLOPs (multiply-adds of one 256 x 256 view), 400 classes, as
# the pytorchvideo model zoo's architectures have them.
SIZES = {
    "c2d_r50_8x8": (8, 24.33, 25.46),
    "i3d_r50_8x8": (8, 28.04, 37.10),
    "i3d_r50_32x2": (32, 28.04, 43.27),
    "slow_r50_8x8": (8, 32.45, 54.52),
    "slowfast_r50_8x8": (32, 34.57, 65.71),
}


def on_meta(name: str, norm: str = "bn", classes: int = 400) -> nn.Module:
    with torch.device("meta"):
        return build_model(name, classes, norm)


@pytest.mark.parametrize("name", SIZES)
def test_parameters_and_flops(name):
    frames, millions, gflops = SIZES[name]
    model = on_meta(name).eval()
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.01)
    with FlopCounterMode(display=False) as counter:
        logits = model(torch.empty(1, 3, frames, 256, 256, device="meta"))
    assert logits.shape == (1, 400)
    assert counter.get_total_flops() / 2e9 == pytest.approx(gflops, rel=0.005)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", BACKBONES)
def test_every_norm_stands_everywhere(name, norm):
    """No layer keeps a norm that was not asked for, and shapes other than 224 pixels work."""
    model = on_meta(name, norm, classes=7)
    kinds = {
        type(module)
        for module in model.modules()
        if list(module.parameters(recurse=False)) and not isinstance(module, (nn.Conv3d, nn.Linear))
    }
    assert len(kinds) == 1
    frames = SIZES.get(name, (8,))[0]
    assert model.eval()(torch.empty(2, 3, frames, 112, 112, device="meta")).shape == (2, 7)


@pytest.mark.parametrize("norm", ["sn", "bn", "gn", "in", "ln"])
@pytest.mark.parametrize("name", ["i3d_tiny", "slowfast_r50_8x8"])
def test_residual_branches_start_at_zero_for_every_norm(name, norm):
    model = build_model(name, 5, norm)
    last = [m for m in model.modules() if getattr(m, "block_final_bn", False)]
    branches = [m for m in model.modules() if hasattr(m, "branch2")]
    assert len(last) == len(branches) > 0
    assert all(not module.weight.any() for module in last)
    others = [m.weight for n, m in model.named_modules() if "norm" in n and m not in last]
    assert others and all((weight == 1).all() for weight in others)


def test_the_norm_changes_nothing_else():
    """Same seed, same convolutions and classifier, whatever the norm."""
    states = []
    for norm in ("sn", "bn", "gn"):
        torch.manual_seed(3)
        states.append(build_model("i3d_tiny", 5, norm).state_dict())
    kernels = [name for name, value in states[1].items() if value.dim() > 1 or "proj" in name]
    assert len(kernels) > 15
    for name in kernels:
        assert torch.equal(states[0][name], states[1][name])
        assert torch.equal(states[2][name], states[1][name])


def test_strides_are_plain_integers():
    for name in BACKBONES:
        for module in on_meta(name).modules():
            if isinstance(module, nn.Conv3d):
                assert all(type(stride) is int for stride in module.stride)


def test_i3d_halves_time_where_its_name_says():
    shapes = {}

    def keep(module, inputs, output):
        shapes[module] = output.shape[2]

    for name, frames, expected in (
        ("i3d_r50_8x8", 8, 4),
        ("i3d_r50_32x2", 32, 4),
        ("slow_r50_8x8", 8, 8),
    ):
        model = on_meta(name).eval()
        last_stage = model.blocks[-2]
        last_stage.register_forward_hook(keep)
        model(torch.empty(1, 3, frames, 64, 64, device="meta"))
        assert shapes[last_stage] == expected


def test_slowfast_takes_one_clip_and_leaves_it():
    torch.manual_seed(0)
    model = build_model("slowfast_r50_8x8", 5, "bn").eval()
    clip = torch.randn(1, 3, 32, 64, 64)
    before = clip.clone()
    assert model(clip).shape == (1, 5)
    assert torch.equal(clip, before)
    with pytest.raises(ValueError, match="expected a multiple of 4 frames"):
        model(clip[:, :, :30])


def test_logits_come_without_softmax():
    model = build_model("i3d_tiny", 5, "gn", dropout=0.0).eval()
    nn.init.constant_(model.blocks[-1].proj.bias, 3.0)
    assert (model(torch.randn(1, 3, 8, 32, 32)).sum() - 15).abs() < 5


def test_unknown_backbone_is_one_line():
    with pytest.raises(SnvideoError, match="unknown model 'i3d': expected one of c2d_r50_8x8"):
        build_model("i3d", 5)
