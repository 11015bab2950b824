"""The compiled library: as it is found, and against float64 and the plain operations."""

import copy
import shutil

import pytest
import torch
from torch import nn

from snvideo.norm import BatchNorm1d, SwitchNorm, SwitchNorm1d, SwitchNorm3d
from snvideo.norm.kernels import cpu
from snvideo.norm.mixture import PARTS
from tests.norm.paths import path_of

needs_library = pytest.mark.skipif(
    not cpu.CPUKernels().available(), reason="there is no compiled library"
)
HALVES = [torch.bfloat16, torch.float16]


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """The folder in which the library is looked for."""
    monkeypatch.setattr(cpu, "__file__", str(tmp_path / "cpu.py"))
    cpu._library.cache_clear()
    yield tmp_path
    cpu._library.cache_clear()


@needs_library
def test_a_library_of_another_version_is_not_called(elsewhere, monkeypatch):
    library = next(cpu.Path(__file__).parents[3].glob("snvideo/norm/kernels/_cpu.*"))
    shutil.copy(library, elsewhere)
    assert cpu.CPUKernels().available()
    cpu._library.cache_clear()
    monkeypatch.setattr(cpu, "_INTERFACE_VERSION", 99)
    with pytest.warns(UserWarning, match="of another version: install snvideo again"):
        assert SwitchNorm3d(4)(torch.randn(2, 4, 3, 3, 3)).shape == (2, 4, 3, 3, 3)


def test_a_missing_library_is_said_once(elsewhere, recwarn):
    for _ in range(2):
        SwitchNorm3d(4)(torch.randn(2, 4, 3, 3, 3))
    assert [str(w.message).partition(":")[0] for w in recwarn] == [
        "snvideo's kernels were not compiled"
    ]


def test_a_file_that_is_no_library_is_said(elsewhere):
    (elsewhere / "_cpu.so").write_bytes(b"not a library")
    with pytest.warns(UserWarning, match="_cpu.so is of another version"):
        assert not cpu.CPUKernels().available()


@needs_library
@pytest.mark.parametrize("options", [{}, {"use_batch": False}, {"parts": ["group", "batch"]}])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("samples", [1, 5])
def test_evaluation_without_gradients_is_that_with_them(samples, layout, options):
    norm = SwitchNorm3d(6, groups=3, **options).double()
    x = torch.randn(samples, 6, 3, 40, 40, dtype=torch.float64).to(memory_format=layout)
    norm(x)
    expected = norm.eval()(x).detach()
    with torch.no_grad():
        found = norm(x)
    assert found.is_contiguous(memory_format=layout)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def randomized(layer: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.rand(parameter.shape, generator=generator) + 0.5)
    return layer


def outcome(layer: nn.Module, x: torch.Tensor, dy: torch.Tensor) -> dict[str, torch.Tensor]:
    """Output, gradients and running statistics of a pass."""
    x = x.detach().requires_grad_()
    y = layer(x)
    y.backward(dy)
    gradients = {name: parameter.grad for name, parameter in layer.named_parameters()}
    return {"y": y.detach(), "x": x.grad, **gradients, **dict(layer.named_buffers())}


@needs_library
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("own", [True, False], ids=["all-narrow", "as-under-autocast"])
@pytest.mark.parametrize("shape", [(3, 6, 2, 3, 3), (2, 34, 1, 7, 11), (7, 34), (70, 6, 1, 1)])
@pytest.mark.parametrize("dtype", HALVES)
def test_half_precision_rounds_what_it_stores_alone(dtype, shape, own, training, last):
    layer = randomized(SwitchNorm(shape[1], parts=PARTS, groups=2)).train(training)
    layer = layer.to(dtype) if own else layer
    generator = torch.Generator().manual_seed(1)
    x, dy = (torch.randn(shape, generator=generator).to(dtype) for _ in range(2))
    if last:
        x = x.movedim(1, -1).contiguous().movedim(-1, 1)
    found = outcome(copy.deepcopy(layer), x, dy)
    with path_of("plain"):
        expected = outcome(copy.deepcopy(layer).double(), x.double(), dy.double())
    assert found["y"].dtype is found["x"].dtype is dtype
    assert found["y"].stride() == x.stride()
    for name, value in found.items():
        precision = torch.finfo(value.dtype).eps if value.is_floating_point() else 0
        # half an ulp of what is stored, and sums in float32; running statistics are rounded twice
        rtol, atol = 0.51 * precision + 2e-6, 2e-5
        if name.startswith("running"):
            rtol, atol = 2e-6, precision
        torch.testing.assert_close(
            *(value.double(), expected[name].double()),
            rtol=rtol,
            atol=atol,
            msg=lambda text, name=name: f"{name}: {text}",
        )


@needs_library
@pytest.mark.parametrize("dtype", HALVES)
def test_every_number_is_read_and_rounded_as_by_torch(dtype):
    x = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype).view(-1, 128)
    x = torch.where(x.isfinite(), x, 0)
    layer = SwitchNorm1d(128, eps=0.0, parts=("batch",)).eval()  # running statistics: 0 and 1
    nn.init.zeros_(layer.bias)
    layer.weight.data = torch.logspace(-45, 38, 128) * torch.linspace(1, 2, 128)
    layer.weight.data[:64:2] *= -1
    for weight in (layer.weight.data, torch.ones(128), torch.linspace(0.3, 3, 128)):
        layer.weight.data = weight
        with torch.no_grad():
            y = layer(x)
        torch.testing.assert_close(y, (x.float() * weight).to(dtype), rtol=0, atol=0)


EVERY_SET = [PARTS[i : i + n] for n in range(1, 5) for i in range(5 - n)] + [("instance", "batch")]


@needs_library
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("ratios", ["softmax", "l1"])
@pytest.mark.parametrize("parts", EVERY_SET, ids="+".join)
def test_inputs_of_one_position(parts, ratios, training):
    for shape, size in (((6, 12), None), ((6, 12, 1, 1), 2), ((1, 12), None)):
        options = {"parts": parts, "ratios": ratios, "groups": 3, "group_size": size}
        layer = randomized(SwitchNorm(12, **options)).double().train(training)
        x, dy = (torch.randn(shape, dtype=torch.float64) for _ in range(2))
        found = outcome(copy.deepcopy(layer), x, dy)
        with path_of("plain"):
            expected = outcome(copy.deepcopy(layer), x, dy)
        for name, value in found.items():
            torch.testing.assert_close(value, expected[name], rtol=1e-10, atol=1e-11)


@needs_library
@pytest.mark.parametrize("offset", [0.0, 1e4])
@pytest.mark.parametrize("shape", [(1100, 40), (300, 2000)])
def test_large_inputs_of_one_position_in_single_precision(shape, offset):
    """Blocks of samples, parts of the work and threads; and means that are large."""
    layer = randomized(SwitchNorm1d(shape[1], parts=PARTS, groups=4))
    torch.manual_seed(0)
    x, dy = torch.randn(shape) + offset, torch.randn(shape)
    found, threads = [], torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(outcome(copy.deepcopy(layer), x, dy))
    finally:
        torch.set_num_threads(threads)
    with path_of("plain"):
        plain = outcome(copy.deepcopy(layer), x, dy)
        expected = outcome(copy.deepcopy(layer).double(), x.double(), dy.double())
    for name, value in found[0].items():
        assert torch.equal(value, found[1][name]), name
        ours, theirs = ((t.double() - expected[name]).abs().max() for t in (value, plain[name]))
        scale = expected[name].double().abs().max()
        assert ours <= max(1.5 * theirs, (2e-3 if offset else 1e-4) * scale), name
    error = ((found[0]["y"] - expected["y"]) / layer.weight).abs().max()
    assert error < (2e-3 if offset else 1e-5)


@needs_library
@pytest.mark.parametrize("momentum", [0.1, 0.7, 1.0, None])
@pytest.mark.parametrize("make", [SwitchNorm1d, BatchNorm1d])
@pytest.mark.parametrize("shape", [(6, 9), (6, 9, 5)])
def test_running_statistics_are_those_of_plain_operations(shape, make, momentum):
    layer = make(9, momentum=momentum, group_size=2)
    buffers = []
    for path in ("kernels", "plain"):
        torch.manual_seed(0)
        with path_of(path):
            once = copy.deepcopy(layer)
            for _ in range(3):
                once(torch.randn(shape))
        buffers.append(dict(once.named_buffers()))
    torch.testing.assert_close(*buffers, rtol=1e-6, atol=1e-6)
    if make is SwitchNorm1d:  # in their own dtype
        once = copy.deepcopy(layer)
        once.running_mean, once.running_var = once.running_mean.double(), once.running_var.double()
        once(torch.ones(shape))
        assert once.running_mean.dtype is torch.float64
        torch.testing.assert_close(once.running_mean, torch.full((9,), momentum or 1.0).double())


@needs_library
def test_a_graph_notices_that_its_running_statistics_moved():
    layer = SwitchNorm1d(4)
    y = (layer.running_var * torch.ones(4, requires_grad=True)).sum()
    layer(torch.randn(3, 4))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()
