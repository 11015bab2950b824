"""What is counted on tensors without memory is what real networks have, do and keep."""

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from snvideo.models import create_model
from snvideo.models.activation_checkpointing import enable_activation_checkpointing
from snvideo.models.cost import Cost, activation_bytes, cost, count_parameters, multiply_adds
from snvideo.norm import NORMS
from snvideo.norm.kernels.cpu import CPUKernels
from tests.models.test_registry import SIZES, on_meta

CLIPS = (4, 3, 8, 48, 48)
TABLES = 0.07
"""Part of the memory, with clips as small as these, that tables of norms take."""
GROUPS = [(norm, {}) for norm in NORMS] + [(norm, {"group_size": 2}) for norm in ("sn", "bn")]
needs_kernels = pytest.mark.skipif(
    not CPUKernels().available(), reason="without the kernels SN keeps more than is counted"
)


def really_kept(model: nn.Module, clips: Tensor, dtype: torch.dtype = torch.float32) -> int:
    """Bytes that a pass on the CPU leaves for backward."""
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    kept = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    half = dtype != torch.float32
    with (
        saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", dtype=torch.bfloat16, enabled=half),
    ):
        logits = model.train()(clips)
    assert logits.requires_grad
    return sum(storage.nbytes() for memory, storage in kept.items() if memory not in own)


@needs_kernels
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("norm, options", GROUPS)
def test_kept_bytes_are_those_of_a_real_pass(norm, options, recompute):
    model = create_model("i3d_tiny", 5, norm, **options)
    if recompute:
        enable_activation_checkpointing(model)
    counted = activation_bytes(model, CLIPS)
    near = 0.3 if norm == "brn" else TABLES  # whose own operations are counted, not its kernels
    assert counted == pytest.approx(really_kept(model, torch.randn(CLIPS)), rel=near)
    last = model.to(memory_format=torch.channels_last_3d)
    clips = torch.randn(CLIPS).to(memory_format=torch.channels_last_3d)
    assert counted == pytest.approx(really_kept(last, clips), rel=near)


@needs_kernels
@pytest.mark.parametrize("norm", ["sn", "bn", "gn"])
def test_kept_bytes_under_autocast(norm):
    model = create_model("i3d_tiny", 5, norm)
    counted = activation_bytes(model, CLIPS, torch.bfloat16)
    real = really_kept(model, torch.randn(CLIPS), torch.bfloat16)
    assert counted == pytest.approx(real, rel=TABLES)


@needs_kernels
def test_kept_bytes_of_two_pathways_and_of_frozen_parts():
    model = create_model("slowfast_tiny", 5, "sn")
    real = really_kept(model, torch.randn(CLIPS))
    assert activation_bytes(model, CLIPS) == pytest.approx(real, rel=TABLES)
    tiny = create_model("i3d_tiny", 5, "sn")
    all_trained = activation_bytes(tiny, CLIPS)
    tiny.blocks[0].requires_grad_(False)
    tiny.blocks[1].requires_grad_(False)
    frozen = activation_bytes(tiny, CLIPS)
    assert frozen == pytest.approx(really_kept(tiny, torch.randn(CLIPS)), rel=2 * TABLES)
    assert frozen < 0.6 * all_trained


def test_multiply_adds_and_parameters_of_a_known_network():
    frames, millions, gflops = SIZES["i3d_r50_8x8"]
    model = on_meta("i3d_r50_8x8", "sn")
    found = multiply_adds(model, frames, 256)
    assert found / 1e9 == pytest.approx(gflops, rel=0.005)
    enable_activation_checkpointing(model)
    assert multiply_adds(model, frames, 256) == found
    # SN has six logits a layer more.
    assert count_parameters(model) / 1e6 == pytest.approx(millions, abs=0.01)
    model.blocks[-1].requires_grad_(False)
    head = 2048 * 400 + 400
    assert count_parameters(model, trainable=True) == count_parameters(model) - head


def test_a_network_is_left_alone():
    model = create_model("i3d_tiny", 5, "bn").eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = cost(model, CLIPS)
    assert not any(module.training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(type(p) is nn.Parameter and p.device.type == "cpu" for p in model.parameters())
    assert found == Cost(
        count_parameters(model),
        count_parameters(model),
        multiply_adds(model, 8, 48),
        activation_bytes(model, CLIPS),
    )
    assert model(torch.randn(CLIPS)).shape == (4, 5)
