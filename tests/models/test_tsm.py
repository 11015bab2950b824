"""Temporal shift: which channels come from which frame."""

import pytest
import torch

from snvideo.models import create_model
from snvideo.models.tsm import ShiftedBottleneck, temporal_shift
from tests.models.test_registry import on_meta


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("frames", [1, 2, 5])
def test_an_eighth_comes_from_each_side(frames, memory):
    x = torch.randn(2, 19, frames, 3, 4).contiguous(memory_format=memory)
    found = temporal_shift(x)
    assert found.shape == x.shape
    for t in range(frames):
        after = x[:, 0:2, t + 1] if t + 1 < frames else torch.zeros(2, 2, 3, 4)
        before = x[:, 2:4, t - 1] if t else torch.zeros(2, 2, 3, 4)
        assert torch.equal(found[:, 0:2, t], after)
        assert torch.equal(found[:, 2:4, t], before)
        assert torch.equal(found[:, 4:, t], x[:, 4:, t])


def test_every_branch_is_shifted_and_no_shortcut():
    model = on_meta("tsm_r50_8x8")
    assert sum(isinstance(module, ShiftedBottleneck) for module in model.modules()) == 16
    torch.manual_seed(0)
    block = create_model("tsm_tiny", 5, "gn", zero_init_last=False).eval().blocks[2].res_blocks[0]
    x = torch.randn(1, 64, 4, 6, 6)
    with torch.no_grad():
        branch = super(ShiftedBottleneck, block.branch2).forward(temporal_shift(x))
        expected = torch.relu(block.branch1_norm(block.branch1_conv(x)) + branch)
        assert torch.equal(block(x), expected)


def test_the_order_of_frames_counts():
    """As it does not for a network on frames alone."""
    torch.manual_seed(0)
    model = create_model("tsm_tiny", 5, "gn", zero_init_last=False).eval()
    clip = torch.randn(1, 3, 8, 32, 32)
    with torch.no_grad():
        assert not torch.allclose(model(clip), model(clip.flip(2)), atol=1e-3)
