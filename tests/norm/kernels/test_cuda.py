"""The choice of kernels for a GPU; `test_triton.py` has what they compute."""

import pytest
import torch

from snvideo.norm import SwitchNorm3d
from snvideo.norm.kernels import cuda


@pytest.fixture(autouse=True)
def asked_anew():
    cuda.CUDAKernels.available.cache_clear()
    yield
    cuda.CUDAKernels.available.cache_clear()


def test_kernels_that_do_not_run_are_left_out_with_one_warning(monkeypatch):
    def fail(x):
        raise RuntimeError("no C compiler\nand a long trace")

    monkeypatch.setattr(cuda.passes, "is_installed", lambda: True)
    monkeypatch.setattr(cuda.passes, "moments", fail)
    monkeypatch.setattr(torch, "ones", lambda *shape, device: torch.zeros(shape))
    with pytest.warns(UserWarning, match="norms are slower: no C compiler$"):
        assert not cuda.CUDAKernels.available()
    assert not cuda.CUDAKernels.available()  # asked once


def test_without_triton_there_is_nothing_to_try(monkeypatch):
    monkeypatch.setattr(cuda.passes, "is_installed", lambda: False)
    assert not cuda.CUDAKernels.available()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_a_gpu_gives_the_values_of_the_cpu(layout, dtype):
    torch.manual_seed(0)
    x = torch.randn(8, 64, 4, 14, 14).to(dtype).contiguous(memory_format=layout)
    results = []
    for device in ("cpu", "cuda"):
        norm = SwitchNorm3d(64, group_size=4).to(device)
        inputs = x.to(device).requires_grad_()
        y = norm(inputs)
        y.backward(y.detach().sin())
        gradients = (parameter.grad for parameter in norm.parameters())
        results.append([t.cpu() for t in (y, inputs.grad, *gradients, norm.running_var)])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=2e-2, atol=2e-2 * expected.abs().max())
