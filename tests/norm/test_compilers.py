"""Norms among the machinery of torch: compilers, copies, precisions, memory, threads."""

import copy
import pickle
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from snvideo.norm import (
    SwitchNorm1d,
    SwitchNorm2d,
    SwitchNorm3d,
    create_norm,
)
from snvideo.norm.kernels.cpu import CPUKernels

needs_a_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
needs_kernels = pytest.mark.skipif(not CPUKernels().available(), reason="no kernels were compiled")

GhostBatchNorm3d = partial(create_norm("bn"), group_size=2)
Make = Callable[[int], nn.Module]
LAYERS = [
    pytest.param(SwitchNorm3d, id="sn"),
    pytest.param(partial(SwitchNorm3d, group_size=2), id="groups"),
    pytest.param(partial(SwitchNorm3d, process_group="world"), id="processes"),
    pytest.param(partial(SwitchNorm3d, use_batch=False), id="no-batch-part"),
    pytest.param(partial(SwitchNorm3d, start="batch"), id="start"),
    pytest.param(partial(SwitchNorm3d, affine=False, momentum=None), id="not-affine"),
    pytest.param(partial(SwitchNorm3d, track_running_stats=False), id="not-tracking"),
    pytest.param(GhostBatchNorm3d, id="bn-groups"),
    pytest.param(partial(create_norm("syncbn")), id="bn-processes"),
]


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def randomized(module: nn.Module) -> nn.Module:
    """The module with no parameter or statistic of a norm at its default."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for norm in module.modules():
            if isinstance(norm, nn.modules.batchnorm._NormBase):
                for parameter in norm.parameters():
                    parameter.normal_(generator=generator)
                if norm.running_mean is not None:
                    norm.running_mean.normal_(generator=generator)
                    norm.running_var.uniform_(0.5, 2, generator=generator)
    return module


def network() -> nn.Module:
    torch.manual_seed(0)
    return randomized(
        nn.Sequential(
            *(nn.Conv3d(3, 8, 2), SwitchNorm3d(8), nn.ReLU()),
            *(nn.Conv3d(8, 8, 1), SwitchNorm3d(8, momentum=None), nn.ReLU()),
            *(nn.Conv3d(8, 8, 1), SwitchNorm3d(8, use_batch=False), nn.ReLU()),
            *(nn.Conv3d(8, 8, 1), SwitchNorm3d(8, group_size=2), nn.ReLU()),
            *(nn.Conv3d(8, 4, 1), GhostBatchNorm3d(4)),
        )
    )


def step(module: nn.Module, x: Tensor, dy: Tensor) -> dict[str, Tensor]:
    """y, dx, the gradients of the parameters and the statistics after a pass forth and back."""
    x = x.detach().requires_grad_()
    module.zero_grad()
    y = module(x)
    y.backward(dy.expand_as(y))
    found = {"y": y.detach(), "dx": x.grad}
    found |= {f"d{name}": p.grad.clone() for name, p in module.named_parameters()}
    return found | {name: buffer.clone() for name, buffer in module.named_buffers()}


def assert_near(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    """Equal up to a tolerance relative to the largest value, and to one at least."""
    for (name, a), b in zip(found.items(), expected.values(), strict=True):
        scale = max(1.0, b.abs().max().item()) if b.is_floating_point() else 0.0
        torch.testing.assert_close(
            a, b, rtol=0, atol=tolerance * scale, msg=lambda m, n=name: f"{n}: {m}"
        )


# Compilers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "shape", "dtype", "tolerance", "backend"),
    [
        pytest.param(
            *(lambda: randomized(SwitchNorm3d(6)), (4, 6, 3, 5, 5)),
            *(torch.float32, 1e-5, "inductor"),
            id="layer",
            marks=[needs_a_compiler, pytest.mark.process],  # g++ runs for many seconds
        ),
        pytest.param(
            *(lambda: randomized(SwitchNorm3d(6)), (4, 6, 3, 5, 5)),
            *(torch.float32, 1e-5, "aot_eager"),
            id="graph of a layer",
        ),
        # The graph is what counts here: to generate its code would take 20 s. In float64, as layer
        # by layer a little rounding may carry a value over a ReLU's zero.
        pytest.param(network, (4, 3, 4, 6, 6), torch.float64, 1e-10, "aot_eager", id="network"),
    ],
)
def test_compiled_equals_eager(make, shape, dtype, tolerance, backend):
    """In one graph, and compiled once for all training batches of a shape."""
    torch._dynamo.reset()
    eager = make().to(dtype)
    compiled = torch.compile(copy.deepcopy(eager), fullgraph=True, backend=backend)
    dy = random(4, 1, 3, 5, 5, seed=9, dtype=dtype)
    for turn in range(3):
        x = random(*shape, seed=turn, dtype=dtype)
        with torch.compiler.set_stance("fail_on_recompile" if turn else "default"):
            found = step(compiled, x, dy)
        assert_near(found, step(eager, x, dy), tolerance)
    with torch.no_grad():
        found, expected = compiled.eval()(x), eager.eval()(x)
    assert_near({"y": found}, {"y": expected}, tolerance)


# Layers as objects -------------------------------------------------------------------------------


def used(make: Make) -> nn.Module:
    norm = randomized(make(6))
    norm(random(4, 6, 2, 3, 3))
    return norm


@pytest.mark.parametrize("make", LAYERS)
def test_copied_and_pickled_layers_go_on_as_the_original(make):
    norm = used(make)
    x, dy = random(4, 6, 2, 3, 3, seed=1), random(4, 6, 2, 3, 3, seed=2)
    others = [copy.deepcopy(norm), pickle.loads(pickle.dumps(norm))]
    expected = step(norm, x, dy)
    for other in others:
        assert repr(other) == repr(norm)
        assert_near(step(other, x, dy), expected, 0)
        assert_near({"y": other.eval()(x)}, {"y": copy.deepcopy(norm).eval()(x)}, 0)


@pytest.mark.parametrize("make", LAYERS)
def test_a_state_dict_holds_all_that_is_learned(make, tmp_path: Path):
    norm, other = used(make), make(6)
    torch.save(norm.state_dict(), tmp_path / "state.pt")
    assert other.load_state_dict(torch.load(tmp_path / "state.pt"), strict=True)
    x, dy = random(4, 6, 2, 3, 3, seed=1), random(4, 6, 2, 3, 3, seed=2)
    for training in (True, False):
        expected = step(norm.train(training), x, dy)
        assert_near(step(other.train(training), x, dy), expected, 0)


@pytest.mark.parametrize("make", LAYERS)
def test_a_layer_without_memory_becomes_a_fresh_one(make):
    empty = make(6, device="meta")
    assert all(tensor.is_meta for tensor in empty.state_dict().values())
    filled = empty.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in filled.state_dict().values():
            tensor.fill_(7)  # whatever the memory held before
    filled.reset_parameters()
    fresh = make(6).state_dict()
    assert filled.state_dict().keys() == fresh.keys()
    for name, value in filled.state_dict().items():
        assert torch.equal(value, fresh[name]), name
        assert value.dtype == fresh[name].dtype


@pytest.mark.parametrize("make", LAYERS)
def test_shapes_are_found_without_memory(make):
    x = random(4, 6, 2, 3, 3).to(torch.bfloat16)
    norm = make(6, device="meta")
    for training in (True, False):
        y = norm.train(training)(x.to("meta"))
        assert y.is_meta and y.shape == x.shape and y.dtype == x.dtype
    with FakeTensorMode() as mode:
        norm = make(6)
        y = norm(mode.from_tensor(x).requires_grad_())
        y.sum().backward()
    assert y.shape == x.shape and y.dtype == x.dtype
    assert all(parameter.grad.shape == parameter.shape for parameter in norm.parameters())


# Precisions --------------------------------------------------------------------------------------


@contextmanager
def kernels(monkeypatch: pytest.MonkeyPatch, wanted: bool) -> Iterator[None]:
    with monkeypatch.context() as patch:
        if not wanted:
            patch.setattr(CPUKernels, "available", lambda kernels: False)
        yield


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("make", [SwitchNorm3d, GhostBatchNorm3d])
def test_autocast_gives_the_dtypes_of_batch_norm(make, compiled, monkeypatch):
    """float32 stays; what a convolution made bfloat16 stays bfloat16, but not its statistics."""
    conv, x = nn.Conv3d(6, 6, 1), random(4, 6, 2, 5, 5)
    dtypes = {}
    for layer in (nn.BatchNorm3d, make):
        for training in (True, False):
            norm = layer(6).train(training)
            inputs = x.clone().requires_grad_()
            with kernels(monkeypatch, compiled), torch.autocast("cpu", torch.bfloat16):
                direct, after = norm(inputs), norm(conv(inputs))
                (direct.sum() + after.float().sum()).backward()
            found = (
                direct,
                after,
                norm.running_mean,
                norm.running_var,
                inputs.grad,
                norm.weight.grad,
            )
            dtypes[layer, training] = [tensor.dtype for tensor in found]
            expected = copy.deepcopy(norm).train(training)(x)
            torch.testing.assert_close(direct, expected, rtol=0, atol=1e-5)
    half, single = torch.bfloat16, torch.float32
    assert all(found == [single, half, *(single,) * 4] for found in dtypes.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("make", LAYERS)
@needs_kernels
def test_the_kernels_only_save_time(make, training, dtype, monkeypatch):
    """Without them, where nothing could be compiled, everything is the same."""
    norm = randomized(make(6)).to(dtype).train(training)
    x, dy = (random(4, 6, 2, 5, 5, seed=seed, dtype=dtype) for seed in (1, 2))
    plain = copy.deepcopy(norm)
    with kernels(monkeypatch, False):
        expected = step(plain, x, dy)
    assert_near(step(norm, x, dy), expected, 1e-11 if dtype == torch.float64 else 2e-5)


# Memory ------------------------------------------------------------------------------------------


def every_second(x: Tensor) -> Tensor:
    """The same values at every second place of a larger memory."""
    wide = x.new_full((*x.shape[:-1], 2 * x.shape[-1]), float("nan"))
    wide[..., ::2] = x
    return wide[..., ::2]


def in_rows(x: Tensor) -> Tensor:
    """Channels last, as a transposed sequence of tokens is."""
    return x.transpose(1, 2).contiguous().transpose(1, 2)


def samples_inside(x: Tensor) -> Tensor:
    return x.transpose(0, 1).contiguous().transpose(0, 1)


def spread(x: Tensor) -> Tensor:
    """Every position holds the same value, once in memory."""
    return x.flatten(2)[..., :1].reshape(*x.shape[:2], *(1,) * (x.dim() - 2)).expand(x.shape)


MEMORIES = [
    pytest.param(SwitchNorm1d, (4, 6, 10), in_rows, True, id="1d-transposed"),
    pytest.param(SwitchNorm1d, (4, 6, 10), every_second, False, id="1d-sliced"),
    pytest.param(SwitchNorm1d, (4, 6), torch.Tensor.contiguous, True, id="no-positions"),
    pytest.param(SwitchNorm1d, (4, 6), every_second, False, id="no-positions-sliced"),
    pytest.param(SwitchNorm1d, (4, 6), samples_inside, False, id="no-positions-transposed"),
    pytest.param(SwitchNorm2d, (4, 6, 5, 7), torch.Tensor.contiguous, True, id="2d"),
    pytest.param(
        *(SwitchNorm2d, (4, 6, 5, 7)),
        *(partial(torch.Tensor.contiguous, memory_format=torch.channels_last), True),
        id="2d-channels_last",
    ),
    pytest.param(SwitchNorm3d, (4, 6, 2, 5, 3), torch.Tensor.contiguous, True, id="3d"),
    pytest.param(
        *(SwitchNorm3d, (4, 6, 2, 5, 3)),
        *(partial(torch.Tensor.contiguous, memory_format=torch.channels_last_3d), True),
        id="3d-channels_last",
    ),
    pytest.param(SwitchNorm3d, (4, 6, 2, 5, 3), every_second, False, id="3d-sliced"),
    pytest.param(SwitchNorm3d, (4, 6, 2, 5, 3), samples_inside, False, id="3d-samples-inside"),
    pytest.param(SwitchNorm3d, (4, 6, 2, 5, 3), spread, False, id="3d-expanded"),
]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize(("make", "shape", "place", "dense"), MEMORIES)
def test_values_do_not_depend_on_their_place_in_memory(
    make, shape, place, dense, compiled, training, monkeypatch
):
    norm = randomized(make(6)).double().train(training)
    dy = random(*shape, seed=2, dtype=torch.float64)
    placed = place(random(*shape, seed=1, dtype=torch.float64))
    before = placed.clone()
    with kernels(monkeypatch, compiled):
        # a copy of the values in the plainest memory
        expected = step(copy.deepcopy(norm), placed.contiguous().clone(), dy)
        for probe in (dy, place(dy)):
            found = step(copy.deepcopy(norm), placed, probe)
            wanted = expected
            if not torch.equal(probe, dy):  # expanded: other values
                wanted = step(copy.deepcopy(norm), placed.contiguous().clone(), probe.contiguous())
            assert_near(found, wanted, 1e-12)
            if dense:
                assert found["y"].stride() == found["dx"].stride() == placed.stride()
    assert torch.equal(placed, before)


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize(
    ("make", "theirs", "shape", "layout"),
    [
        (SwitchNorm2d, nn.BatchNorm2d, (4, 6, 5, 7), torch.contiguous_format),
        (SwitchNorm2d, nn.BatchNorm2d, (4, 6, 5, 7), torch.channels_last),
        (SwitchNorm3d, nn.BatchNorm3d, (4, 6, 2, 5, 3), torch.contiguous_format),
        (SwitchNorm3d, nn.BatchNorm3d, (4, 6, 2, 5, 3), torch.channels_last_3d),
    ],
)
def test_memory_formats_are_those_of_batch_norm(make, theirs, shape, layout, compiled, monkeypatch):
    x = random(*shape).contiguous(memory_format=layout)
    strides = []
    for norm in (theirs(6), make(6)):
        with kernels(monkeypatch, compiled):
            found = step(norm, x, random(*shape, seed=1))
        strides.append((found["y"].stride(), found["dx"].stride()))
    assert strides[0] == strides[1]


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize(
    "make", [SwitchNorm3d, partial(SwitchNorm3d, use_batch=False), GhostBatchNorm3d]
)
def test_only_the_input_and_tables_are_kept_for_the_backward_pass(make, layout, dtype):
    n, c = 4, 16
    x = random(n, c, 4, 14, 14, dtype=dtype).contiguous(memory_format=layout).requires_grad_()
    norm = randomized(make(c))
    kept = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        y = norm(x)
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in kept}
    assert storages.pop(x.untyped_storage().data_ptr()) == x.untyped_storage().nbytes()
    for parameter in norm.parameters():
        storages.pop(parameter.untyped_storage().data_ptr(), None)
    assert sum(storages.values()) <= 200 * n * c + 64 * c
    y.sum().backward()


# Threads -----------------------------------------------------------------------------------------


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("samples", [1, 4])
def test_results_do_not_depend_on_the_number_of_threads(samples, layout, dtype):
    shape = (samples, 37, 8, 16, 15)
    norm = randomized(SwitchNorm3d(37))
    x, dy = (
        random(*shape, seed=seed, dtype=dtype).contiguous(memory_format=layout) for seed in (1, 2)
    )
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(step(copy.deepcopy(norm), x, dy))
    finally:
        torch.set_num_threads(before)
    for name, one in results[0].items():
        assert torch.equal(one, results[1][name]), name
