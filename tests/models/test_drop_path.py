"""Drop path: whole residual branches, left out for some clips."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from snvideo.errors import SnvideoError
from snvideo.models import create_model, registry
from snvideo.models.activation_checkpointing import enable_activation_checkpointing
from snvideo.models.depth import RESIDUAL_BLOCKS
from snvideo.models.drop_path import DropPath
from snvideo.norm import average_statistics
from tests.models.test_depth import BLOCKS

TINY = (("i3d_tiny", 4), ("slowfast_tiny", 16), ("x3d_xs", 4), ("r3d_18", 4), ("r2plus1d_tiny", 4))
"""Networks of every kind, and frames that they take."""


def paths(model: nn.Module) -> list[DropPath]:
    return [module for module in model.modules() if isinstance(module, DropPath)]


@pytest.mark.parametrize("name", [*(n for n, _ in TINY), "slow_r50_8x8", "x3d_m", "mc3_18"])
def test_rates_rise_linearly_in_every_network(name):
    """From 0, which has no layer, to the rate, with equal steps; no parameter is another."""
    with torch.device("meta"):
        plain, model = (create_model(name, 5, "bn", drop_path=rate) for rate in (0.0, 0.3))
    assert not paths(plain)
    blocks = next(count for part, count in BLOCKS.items() if part in name.split("_"))
    pathways = 2 if "slowfast" in name else 1
    rates = sorted(layer.p for layer in paths(model))
    assert rates == pytest.approx(np.repeat(np.linspace(0, 0.3, blocks)[1:], pathways))
    shapes = [{key: value.shape for key, value in m.state_dict().items()} for m in (plain, model)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize(("name", "frames"), TINY)
def test_a_dropped_clip_has_the_shortcut_alone(name, frames):
    """Others have their branch scaled by 1 / (1 - p); in evaluation, all as it is."""
    torch.manual_seed(0)
    model = create_model(name, 5, "gn", dropout=0.0, drop_path=0.5)
    plain = create_model(name, 5, "gn", dropout=0.0)
    for module in model.modules():
        if getattr(module, "block_final_bn", False):
            nn.init.ones_(module.weight)  # branches do something
    plain.load_state_dict(model.state_dict())
    clips = torch.randn(3, 3, frames, 24, 24)
    with torch.inference_mode():
        assert torch.equal(model.eval()(clips), plain.eval()(clips))
        model.train()
        for layer in paths(model):
            layer.mask = torch.tensor([[1.0], [0.0], [1.0]])
        found = model(clips)
        for layer in paths(model):
            layer.mask = torch.ones(3, 1)
        whole = model(clips)
        for block in plain.modules():  # without the branches that have a rate
            if isinstance(block, RESIDUAL_BLOCKS):
                last = [m for m in block.modules() if getattr(m, "block_final_bn", False)][-1]
                blocks = [m for m in plain.modules() if isinstance(m, RESIDUAL_BLOCKS)]
                twin = [m for m in model.modules() if isinstance(m, RESIDUAL_BLOCKS)]
                if paths(twin[blocks.index(block)]):
                    nn.init.zeros_(last.weight)
        shortcuts = plain(clips)
    torch.testing.assert_close(found[[0, 2]], whole[[0, 2]])
    torch.testing.assert_close(found[1], shortcuts[1])
    assert not torch.allclose(found[1], whole[1])


def test_masks():
    layer = DropPath(0.3).train()
    mask = layer.sample_masks(np.random.default_rng(0), 4000)
    assert mask.shape == (4000, 1)
    assert mask.unique().tolist() == pytest.approx([0.0, 1 / 0.7])
    assert (mask == 0).float().mean() == pytest.approx(0.3, abs=0.02)


def test_without_masks_it_draws_by_itself_clip_by_clip():
    layer, x = DropPath(0.5), torch.ones(400, 2, 3, 1, 1)
    found = layer(x).flatten(1)
    assert torch.equal(found, found[:, :1].expand_as(found))
    assert found.unique().tolist() == [0.0, 2.0]
    assert (found[:, 0] == 0).float().mean() == pytest.approx(0.5, abs=0.1)
    assert layer.eval()(x) is x


@pytest.mark.parametrize("given", [True, False])
def test_blocks_that_are_computed_again_drop_the_same(given):
    torch.manual_seed(0)
    model = create_model("i3d_tiny", 5, "gn", dropout=0.0, drop_path=0.5).train()
    again = copy.deepcopy(model)
    enable_activation_checkpointing(again)
    clips = torch.randn(4, 3, 4, 32, 32)
    for one in (model, again):
        torch.manual_seed(1)
        for number, layer in enumerate(paths(one) if given else ()):
            layer.mask = layer.sample_masks(np.random.default_rng(number), 4)
        one(clips).square().sum().backward()
    for one, other in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)


def test_a_network_without_residual_branches_is_refused(monkeypatch):
    class Plain(nn.Sequential):
        """A convolution and a classifier."""

    def build(classes, norm, dropout):
        return Plain(nn.Conv3d(3, 4, 1), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 5))

    monkeypatch.setitem(registry.BACKBONES, "plain", registry.Backbone(build, 4, 4, 32))
    create_model("plain", 5)
    with pytest.raises(SnvideoError, match=r"^model.drop_path: Plain has no residual") as error:
        create_model("plain", 5, drop_path=0.1)
    assert "\n" not in str(error.value)


def test_statistics_are_averaged_without_it():
    """As those of other evaluations: of the network that is tested."""
    torch.manual_seed(0)
    model = create_model("i3d_tiny", 5, "bn", drop_path=0.9).train()
    plain = create_model("i3d_tiny", 5, "bn")
    plain.load_state_dict(model.state_dict())
    clips = torch.randn(4, 3, 4, 32, 32)
    for one in (model, plain):
        average_statistics(one, [clips])
    for one, other in zip(model.buffers(), plain.buffers(), strict=True):
        assert torch.equal(one, other)
    assert all(layer.training for layer in paths(model))


def test_it_is_no_part_of_an_exported_program():
    model = create_model("i3d_tiny", 5, "bn", drop_path=0.5).eval()
    clips = torch.randn(2, 3, 4, 32, 32)
    program = torch.export.export(model, (clips,))
    assert torch.equal(program.module()(clips), model(clips))
    assert "dropout" not in str(program.graph)
