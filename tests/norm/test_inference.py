"""Norms with folded constants: the same function, in fewer operations."""

import pytest
import torch
from torch import nn

from snvideo.norm import SwitchNorm, SwitchNorm1d, SwitchNorm2d, SwitchNorm3d, average_statistics
from snvideo.norm.inference import InferenceNorm, inference_copy
from snvideo.norm.mixture import PARTS
from tests.norm.test_compilers import random

MIXTURES = {
    "paper": {"start": (0.5, -1.0, 2.0)},
    "one sample": {"use_batch": False},
    "four": {"parts": PARTS, "groups": 3, "start": (0.5, -1.0, 0.0, 1.0)},
    "group": {"parts": ("group",), "groups": 2},
    "batch": {"parts": ("batch",)},
    "zero ratios": {"ratios": "l1", "start": (0.0, 1.0, 0.0)},
    "plain": {"affine": False},
    "no bias": {"bias": False, "start": (0.0, 1.0, 3.0)},
}
LAYERS = {
    SwitchNorm1d: [(6,), (6, 5)],
    SwitchNorm2d: [(6, 3, 4)],
    SwitchNorm3d: [(6, 2, 3, 4), (6, 1, 1, 1)],
}


def trained(layer: nn.Module, *shape: int) -> nn.Module:
    """A layer in evaluation, in float64, whose tables are all of different numbers."""
    layer.double()
    with torch.no_grad():
        for seed, table in enumerate((layer.weight, layer.bias)):
            if table is not None:
                table.copy_(random(6, seed=seed + 1) + 1)
        layer(3 * random(4, *shape, seed=3).double() + 2)
    return layer.eval()


@pytest.mark.parametrize("mixture", MIXTURES)
@pytest.mark.parametrize("kind", LAYERS)
def test_constants_are_folded_without_another_result(kind, mixture):
    for shape in LAYERS[kind]:
        layer = trained(kind(6, **MIXTURES[mixture]), *shape)
        x = random(5, *shape, seed=4).double() + 100
        torch.testing.assert_close(InferenceNorm(layer)(x), layer(x), rtol=1e-10, atol=1e-10)
        half = layer.float(), x.bfloat16()
        y = InferenceNorm(half[0])(half[1])
        torch.testing.assert_close(y, half[0](half[1]), rtol=2e-2, atol=2e-2)
        assert y.dtype == torch.bfloat16


def test_a_large_mean_costs_no_digits():
    layer = trained(SwitchNorm3d(6, use_batch=False), 6, 2, 3, 4)
    x = random(5, 6, 2, 3, 4, seed=4).double() + 1e4
    found = InferenceNorm(layer.float())(x.float()).double()
    assert (found - layer.double()(x)).abs().max() < 2e-3


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(3, 6, 1),
        SwitchNorm3d(6),
        nn.Sequential(SwitchNorm3d(6, use_batch=False), nn.ReLU()),
        SwitchNorm3d(6, track_running_stats=False),
        SwitchNorm(6),
        nn.BatchNorm3d(6),
    )


def test_what_has_no_constants_stays_and_the_network_is_left_as_it_is():
    model = network()
    average_statistics(model, [random(2, 3, 2, 4, 4, seed=seed) for seed in range(2)])
    before = [type(layer) for layer in model.modules()]
    folded = inference_copy(model)
    kinds = [type(layer).__name__ for layer in folded.modules()]
    assert kinds.count("InferenceNorm") == 2 and {"SwitchNorm3d", "SwitchNorm"} < set(kinds)
    assert [type(layer) for layer in model.modules()] == before and model.training
    assert not folded.training
    x = random(3, 3, 2, 4, 4, seed=5)
    torch.testing.assert_close(folded(x), model.eval()(x), rtol=1e-5, atol=1e-5)


def test_a_shared_layer_is_folded_in_every_place():
    norm = SwitchNorm3d(3, use_batch=False)
    folded = inference_copy(nn.Sequential(norm, nn.Sequential(norm)))
    assert not [layer for layer in folded.modules() if isinstance(layer, SwitchNorm)]


def test_programs_have_fewer_than_half_of_the_operations():
    layer = SwitchNorm3d(6).eval()
    counts = []
    for norm in (layer, InferenceNorm(layer)):
        program = torch.export.export(norm, (random(2, 6, 2, 3, 3),))
        counts.append(sum(node.op == "call_function" for node in program.graph.nodes))
    assert 2 * counts[1] < counts[0]
