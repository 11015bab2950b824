"""Non-local blocks: where they stand, what they compute, and that they begin as the identity."""

import pytest
import torch
from pytorchvideo.layers import nonlocal_net
from torch import nn

from snvideo.models import create_model
from snvideo.models.activation_checkpointing import enable_activation_checkpointing
from snvideo.models.non_local import NonLocal, non_local
from tests.models.test_registry import on_meta


def blocks(model: nn.Module) -> dict[str, NonLocal]:
    return {name: m for name, m in model.named_modules() if isinstance(m, NonLocal)}


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last_3d])
def test_values_and_gradients_are_those_of_pytorchvideo(memory):
    torch.manual_seed(0)
    block = non_local(16, nn.BatchNorm3d).double().eval()
    for tensor in block.parameters():
        nn.init.normal_(tensor)  # some positions count much more than others
    x = torch.randn(2, 16, 3, 7, 5, dtype=torch.double)
    inputs = [x.clone().requires_grad_(), x.clone().requires_grad_()]
    found = block(inputs[0].contiguous(memory_format=memory))
    expected = nonlocal_net.NonLocal.forward(block, inputs[1])
    assert (expected - x).abs().max() > 0.5
    torch.testing.assert_close(found, expected)
    for logits in (found, expected):
        logits.square().sum().backward()
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad)


def test_every_other_block_of_res3_and_res4_has_one():
    """Block 2 of the network is the pool: res3 is block 3."""
    places = [(3, 1), (3, 3), (4, 1), (4, 3), (4, 5)]
    found = blocks(on_meta("i3d_nln_r50_8x8"))
    assert list(found) == [f"blocks.{s}.res_blocks.{n}.non_local" for s, n in places]
    channels = [(b.conv_theta.in_channels, b.conv_theta.out_channels) for b in found.values()]
    assert channels == [(512, 256)] * 2 + [(1024, 512)] * 3


@pytest.mark.parametrize("norm", ["sn", "bn", "gn"])
def test_a_network_begins_as_one_without(norm):
    torch.manual_seed(0)
    plain, model = (create_model(f"i3d_{n}tiny", 5, norm) for n in ("", "nln_"))
    state = model.state_dict()
    plain.load_state_dict({name: state[name] for name in plain.state_dict()})
    clip = torch.randn(2, 3, 8, 32, 32)
    with torch.no_grad():
        assert torch.equal(model.eval()(clip), plain.eval()(clip))
        for block in blocks(model).values():
            nn.init.ones_(block.norm.weight)
        assert not torch.equal(model(clip), plain(clip))


def test_weights_are_drawn_as_by_the_authors():
    model = create_model("i3d_nln_tiny", 5, "bn", zero_init_last=False)
    for block in blocks(model).values():
        assert (block.norm.weight == 1).all()
        for conv in (block.conv_theta, block.conv_phi, block.conv_g, block.conv_out):
            assert float(conv.weight.std()) == pytest.approx(0.01, rel=0.1)
            assert not conv.bias.any()


def test_blocks_are_computed_again_with_what_stands_behind_them():
    model = create_model("i3d_nln_tiny", 5, "gn").train()
    assert enable_activation_checkpointing(model) == 4
    calls = []
    for block in blocks(model).values():
        block.conv_theta.register_forward_hook(lambda *_: calls.append(1))
    model(torch.randn(2, 3, 8, 32, 32)).sum().backward()
    assert len(calls) == 4
