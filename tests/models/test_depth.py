"""Depth of the layers of every backbone."""

import pytest
import torch

from snvideo.models import create_model, list_models
from snvideo.models.depth import RESIDUAL_BLOCKS, layer_depths, layers_to_head

BLOCKS = {"r26": 8, "tiny": 4, "r50": 16, "r101": 33, "r152": 50, "18": 8, "l": 55, "x3d": 26}
"""Residual blocks on the way through a network: 3 + 4 + 6 + 3 of a ResNet-50."""


@pytest.mark.parametrize("name", list_models())
def test_layers_of_a_backbone(name):
    """The stem is first, the classifier last, and every residual block is a layer of its own."""
    with torch.device("meta"):
        model = create_model(name, 5, "bn")
    blocks = next(count for part, count in BLOCKS.items() if part in name.split("_"))
    to_head = layers_to_head(model)
    parameters = dict(model.named_parameters())
    assert to_head.keys() == set(parameters.values())
    assert sorted(set(to_head.values())) == list(range(blocks + 2))
    order = list(to_head[parameter] for parameter in parameters.values())
    assert (order[0], order[-1]) == (blocks + 1, 0)
    if "slowfast" not in name:
        assert order == sorted(order, reverse=True)  # as they are registered, and run


def test_a_block_is_before_those_that_see_its_output():
    """As a forward pass shows, in a network with two pathways and their fusions, too."""
    model = create_model("slowfast_tiny", 5, "bn")
    seen = []
    for layer, depth in layer_depths(model).items():
        if isinstance(layer, RESIDUAL_BLOCKS) or any(True for _ in layer.parameters()):
            layer.register_forward_hook(lambda *_, depth=depth: seen.append(depth))
    model(torch.randn(1, 3, 16, 32, 32))
    assert seen == sorted(seen)
    assert seen == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 5]  # slow, fast, fusion


def test_both_pathways_are_equally_deep():
    with torch.device("meta"):
        model = create_model("slowfast_r50_8x8", 5, "bn")
    named = dict(model.named_parameters())
    to_head = layers_to_head(model)
    for path in (0, 1):
        last = f"blocks.4.multipathway_blocks.{path}.res_blocks.2.branch2.conv_a.weight"
        first = f"blocks.1.multipathway_blocks.{path}.res_blocks.0.branch2.conv_a.weight"
        assert (to_head[named[last]], to_head[named[first]]) == (1, 16)
    fusions = {
        to_head[p] for name, p in named.items() if name.startswith("blocks.2.multipathway_fusion")
    }
    assert fusions == {17 - (3 + 4)}
