"""A network on several processes."""

import warnings

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from snvideo.engine.distributed import World, parallelize


class _OtherStrides(torch.autograd.Function):
    """A sum whose gradient is in channels_last, as that of convolutions may be: for a kernel of one
    position the same values in the same places."""

    @staticmethod
    def forward(ctx, weight: Tensor) -> Tensor:
        return weight.sum()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return gradient.expand(64).clone().as_strided((8, 8, 1, 1, 1), (8, 1, 8, 8, 8))


class _Pointwise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(8, 8, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x.sum() * _OtherStrides.apply(self.weight)


@pytest.fixture
def group(tmp_path):
    """A process group of this process alone."""
    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    always = torch.is_warn_always_enabled()
    torch.set_warn_always(True)  # else once in a process
    yield
    torch.set_warn_always(always)
    dist.destroy_process_group()


@pytest.mark.parametrize("filtered", [True, False])
def test_strides_of_kernels_of_one_position_are_no_warning(group, filtered):
    """And torch still words it as the filter has it."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        network = parallelize(_Pointwise(), World(0, 2, torch.device("cpu")), False, lambda: None)
        if not filtered:
            warnings.simplefilter("always")
        network(torch.ones(2)).backward()
    assert network.module.weight.grad.eq(2).all()
    messages = [str(warning.message) for warning in found]
    assert len(messages) == (not filtered)
    assert all(
        text.startswith("Grad strides do not match bucket view strides") for text in messages
    )
