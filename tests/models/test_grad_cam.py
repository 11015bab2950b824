"""Grad-CAM: the formula, every backbone, and nothing left behind in the network."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from snvideo.models.grad_cam import grad_cam
from snvideo.models.registry import BACKBONES, create_model

TINY = [name for name in BACKBONES if name.endswith("_tiny")]


class Head(nn.Module):
    """Average over positions, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.mean((2, 3, 4)))


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Conv3d(3, 4, 3, stride=2, padding=1), Head()])

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


def test_the_map_is_that_of_a_class_activation_map_where_the_head_is_linear():
    """There the weights are those of the classifier, by the number of positions."""
    torch.manual_seed(0)
    model, clip = Small().double().eval(), torch.randn(1, 3, 4, 6, 8, dtype=torch.float64)
    for label in range(3):
        with torch.no_grad():
            activation = model.blocks[0](clip)
            weights = model.blocks[1].linear.weight[label] / activation[0, 0].numel()
            weighted = torch.einsum("k,kthw->thw", weights, activation[0])[None, None]
            size = clip.shape[2:]
            expected = interpolate(weighted, size, mode="trilinear", align_corners=False)
        found = grad_cam(model, clip, label)
        assert expected.max() > 0 > expected.min()
        torch.testing.assert_close(found, expected[0, 0].relu().float(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", TINY)
def test_every_backbone_has_a_map_and_is_left_as_it_was(name):
    torch.manual_seed(1)
    model = create_model(name, 3, "sn").eval().requires_grad_(False)
    frames = BACKBONES[name].frames
    clip = torch.randn(1, 3, frames, 48, 48)
    with torch.inference_mode():  # as predictions are made
        maps = [grad_cam(model, clip, label) for label in range(3)]
    assert {one.shape for one in maps} == {(frames, 48, 48)}
    assert all(one.isfinite().all() and one.min() >= 0 for one in maps)
    assert max(one.max() for one in maps) > 0
    assert not any(module._forward_hooks for module in model.modules())
