"""Blocks that are computed again for backward: the same training step, in less memory."""

import copy

import pytest
import torch
from torch import nn

from snvideo.engine.distributed import World
from snvideo.engine.trainer import Trainer
from snvideo.errors import SnvideoError
from snvideo.models import create_model
from snvideo.models.activation_checkpointing import enable_activation_checkpointing
from snvideo.models.cost import activation_bytes
from snvideo.norm import one_update, tracking_layers
from tests.engine.runs import run_config
from tests.models.test_registry import on_meta

TINY = ("i3d_tiny", (4, 3, 4, 32, 32), 4)
TWO_PATHWAYS = ("slowfast_tiny", (2, 3, 4, 32, 32), 8)
DEPTHWISE = ("x3d_xs", (2, 3, 4, 32, 32), 26)
NON_LOCAL = ("i3d_nln_tiny", (2, 3, 4, 32, 32), 4)
OF_TORCHVISION = ("mc3_18", (2, 3, 4, 32, 32), 8)


def network(name: str, norm: str) -> nn.Module:
    """One whose residual branches do something."""
    torch.manual_seed(0)
    model = create_model(name, 5, norm, dropout=0.0)
    for module in model.modules():
        if getattr(module, "block_final_bn", False):
            nn.init.ones_(module.weight)
    return model.train()


@pytest.mark.parametrize(
    "norm, name, shape, blocks",
    [
        ("sn", *TINY),
        ("bn", *TINY),
        ("gn", *TINY),
        ("sn", *TWO_PATHWAYS),
        ("sn", *DEPTHWISE),
        ("bn", *NON_LOCAL),
        ("sn", *OF_TORCHVISION),
        ("bn", *OF_TORCHVISION),
    ],
)
def test_gradients_and_statistics_are_the_same_bits(norm, name, shape, blocks):
    plain = network(name, norm)
    again = copy.deepcopy(plain)
    assert enable_activation_checkpointing(again) == blocks
    clips = torch.randn(shape)
    for model in (plain, again):
        with one_update(tracking_layers(model)) as statistics:
            model(clips).square().sum().backward()
            statistics.collect()
    for one, other in zip(plain.named_parameters(), again.named_parameters(), strict=True):
        assert one[0] == other[0] and torch.equal(one[1].grad, other[1].grad)
    for one, other in zip(plain.state_dict().items(), again.state_dict().items(), strict=True):
        assert one[0] == other[0] and torch.equal(one[1], other[1])


@pytest.mark.parametrize("norm", ["sn", "bn"])
def test_a_trainer_comes_to_the_same_weights_and_statistics(toy, tmp_path, norm):
    states = []
    for recompute in (False, True):
        overrides = (
            f"model.norm.name={norm}",
            f"speed.activation_checkpointing={recompute}",
            "model.dropout=0.5",
        )
        config = run_config(toy, tmp_path / "run", *overrides, "batch.gpus=2")
        trainer = Trainer(config, World(0, 1, torch.device("cpu")))
        batches = trainer.batches()
        for _ in range(2):
            trainer.step(batches)
        states.append(trainer.model.state_dict())
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_blocks_are_computed_twice_in_training_alone():
    model = network("i3d_tiny", "bn")
    assert enable_activation_checkpointing(model) == enable_activation_checkpointing(model) == 4
    calls = []
    model.blocks[1].res_blocks[0].branch2.register_forward_hook(lambda *_: calls.append(1))
    clips = torch.randn(TINY[1])
    model(clips).sum().backward()
    assert len(calls) == 2
    with torch.no_grad():
        model(clips)
    assert len(calls) == 3
    model.eval()(clips).sum().backward()
    assert len(calls) == 4


def test_running_statistics_move_twice_where_nobody_sees_to_it():
    plain, again = network("i3d_tiny", "bn"), network("i3d_tiny", "bn")
    enable_activation_checkpointing(again)
    clips = torch.randn(TINY[1])
    for model in (plain, again):
        model(clips).sum().backward()
    one, two = (m.blocks[1].res_blocks[0].branch2.norm_a for m in (plain, again))
    assert (one.num_batches_tracked, two.num_batches_tracked) == (1, 2)
    assert torch.allclose(two.running_mean, 1.9 * one.running_mean, rtol=1e-4)


@pytest.mark.parametrize(
    "name, frames, blocks, less", [("i3d_r50_8x8", 64, 16, 2.2), ("r2plus1d_18", 16, 8, 2.2)]
)
def test_memory_of_long_clips(name, frames, blocks, less):
    clips = (4, 3, frames, 224, 224)
    model = on_meta(name, "sn")
    before = activation_bytes(model, clips)
    assert enable_activation_checkpointing(model) == blocks
    assert before > less * activation_bytes(model, clips)


def test_a_network_without_known_blocks_is_said():
    with pytest.raises(
        SnvideoError, match=r"speed\.activation_checkpointing: Sequential has no residual blocks"
    ):
        enable_activation_checkpointing(nn.Sequential(nn.Conv3d(3, 4, 1), nn.ReLU()))
