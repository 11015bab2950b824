"""Ghost groups in one pass against separate passes, each over one group."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from snvideo.norm import average_statistics, create_norm, switch_norm, tracking_layers
from tests.norm.paths import PATHS, path_of

SHAPES = [
    pytest.param((6, 4), 3, id="no-positions"),
    pytest.param((4, 3, 7), 2, id="1d"),
    pytest.param((6, 5, 3, 4), 2, id="2d"),
    pytest.param((6, 5, 3, 4), 3, id="2d-groups-of-3"),
    pytest.param((4, 5, 2, 3, 2), 2, id="3d"),
    pytest.param((3, 5, 2, 3, 2), 1, id="3d-groups-of-1"),
    pytest.param((4, 6, 1, 1, 1), 2, id="3d-one-position"),
    pytest.param((4, 1, 2, 3, 2), 2, id="3d-one-channel"),
    pytest.param((4, 37, 4, 15, 15), 2, id="3d-on-several-threads"),
]


def random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def unlike(*shape: int, layout: str = "contiguous", seed: int = 0) -> Tensor:
    """Samples each with a mean and spread of its own, so that groups differ."""
    table = (*shape[:2], *(1,) * (len(shape) - 2))
    x = random(*shape, seed=seed) * random(*table, seed=seed + 1).exp()
    x = x + random(*table, seed=seed + 2)
    return x.movedim(1, -1).contiguous().movedim(-1, 1) if layout == "channels_last" else x


def prepared(norm: nn.Module) -> nn.Module:
    """The layer in float64, with nothing at its default."""
    norm = norm.double()
    with torch.no_grad():
        for number, parameter in enumerate(norm.parameters()):
            parameter.copy_(random(*parameter.shape, seed=100 + number))
        if norm.running_mean is not None:
            norm.running_mean.copy_(random(*norm.running_mean.shape, seed=50))
            norm.running_var.copy_(random(*norm.running_mean.shape, seed=51).exp())
    return norm


def layer(name: str, shape: tuple[int, ...], **options: Any) -> nn.Module:
    return prepared(create_norm(name, max(1, len(shape) - 2), **options)(shape[1], momentum=0.3))


def gradients(norm: Callable[[Tensor], Tensor], x: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
    """y and dx; gradients of parameters add up in them."""
    x = x.detach().requires_grad_()
    y = norm(x)
    y.backward(dy)
    return y.detach(), x.grad


def assert_near(found: Tensor, expected: Tensor) -> None:
    scale = max(1.0, expected.abs().max().item())
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10 * scale)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("norm", ["sn", "bn"])
@pytest.mark.parametrize(("shape", "size"), SHAPES)
def test_one_pass_over_groups_is_a_pass_over_each(norm, shape, size, layout, path):
    if norm == "bn" and size * torch.Size(shape[2:]).numel() == 1:
        pytest.skip("refused: a group has one value of a channel")
    x, dy = unlike(*shape, layout=layout), random(*shape, seed=9)
    one, each = layer(norm, shape, group_size=size), layer(norm, shape)
    before = copy.deepcopy(each.state_dict())
    kept = []
    with path_of(path):
        y, dx = gradients(one, x, dy)
        passes = []
        for samples, part in zip(x.split(size), dy.split(size), strict=True):
            passes.append(gradients(each, samples, part))
            kept.append(copy.deepcopy(each.state_dict()))
            each.load_state_dict(before)
    for found, parts in zip((y, dx), zip(*passes, strict=True), strict=True):
        assert_near(found, torch.cat(parts))
    for (name, parameter), wanted in zip(one.named_parameters(), each.parameters(), strict=True):
        assert parameter.grad.abs().max() > 1e-3 or "logits" in name
        assert_near(parameter.grad, wanted.grad)
    for name in ("running_mean", "running_var"):
        # each pass enters its statistics with the momentum, so the mean enters them all
        assert_near(getattr(one, name), torch.stack([state[name] for state in kept]).mean(0))
        assert not torch.equal(getattr(one, name), before[name])
    assert one.num_batches_tracked == before["num_batches_tracked"] + 1


@pytest.mark.parametrize("norm", ["sn", "bn"])
def test_running_statistics_are_the_mean_over_groups_with_the_momentum(norm):
    shape = (6, 4, 2, 3, 2)
    module = layer(norm, shape, group_size=2)
    before = [module.running_mean.clone(), module.running_var.clone()]
    x = unlike(*shape)
    module(x)
    values = x.unflatten(0, (3, 2)).transpose(1, 2).flatten(2)
    # BatchNorm stores the unbiased variance, SwitchNorm the biased one that it divides by
    moments = values.mean(2), values.var(2, correction=int(norm == "bn"))
    for found, old, of_group in zip(
        (module.running_mean, module.running_var), before, moments, strict=True
    ):
        assert_near(found, 0.7 * old + 0.3 * of_group.mean(0))


@pytest.mark.parametrize("norm", ["sn", "bn"])
def test_momentum_none_averages_the_passes(norm):
    shape = (4, 3, 5)
    module = create_norm(norm, 1, group_size=2)(shape[1], momentum=None).double()
    batches = [unlike(*shape, seed=seed) for seed in range(3)]
    for batch in batches:
        module(batch)
    assert_near(module.running_mean, torch.cat(batches).mean((0, 2)))
    assert module.num_batches_tracked == 3


@pytest.mark.parametrize("path", PATHS)
def test_batch_norm_over_groups_is_that_of_torch_over_each(path):
    shape, size = (6, 5, 2, 3, 2), 2
    one = layer("bn", shape, group_size=size)
    each = prepared(nn.BatchNorm3d(shape[1], momentum=0.3))
    before = copy.deepcopy(each.state_dict())
    x, dy = unlike(*shape), random(*shape, seed=9)
    with path_of(path):
        y, dx = gradients(one, x, dy)
    kept, passes = [], []
    for samples, part in zip(x.split(size), dy.split(size), strict=True):
        passes.append(gradients(each, samples, part))
        kept.append(copy.deepcopy(each.state_dict()))
        each.load_state_dict(before)
    for found, parts in zip((y, dx), zip(*passes, strict=True), strict=True):
        assert_near(found, torch.cat(parts))
    assert_near(one.weight.grad, each.weight.grad)
    assert_near(one.bias.grad, each.bias.grad)
    for name in ("running_mean", "running_var"):
        assert_near(getattr(one, name), torch.stack([state[name] for state in kept]).mean(0))


@pytest.mark.parametrize("norm", ["sn", "bn"])
def test_a_group_of_all_samples_is_the_batch(norm):
    shape = (4, 5, 2, 3, 2)
    x, dy = unlike(*shape), random(*shape, seed=9)
    results = []
    for options in ({"group_size": 4}, {}):
        module = layer(norm, shape, **options)
        found = gradients(module, x, dy)
        results.append([*found, *(p.grad for p in module.parameters()), *module.buffers()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("tracking", [True, False])
@pytest.mark.parametrize("norm", ["sn", "bn"])
def test_evaluation_ignores_groups(norm, tracking):
    """Also of a batch that makes no whole groups, and with statistics of the batch at hand."""
    shape = (5, 4, 2, 3, 2)
    x, dy = unlike(*shape), random(*shape, seed=9)
    results = []
    for options in ({"group_size": 2}, {}):
        module = layer(norm, shape, track_running_stats=tracking, **options).eval()
        found = gradients(module, x, dy)
        results.append([*found, *(p.grad for p in module.parameters()), *module.buffers()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_without_the_batch_part_there_is_nothing_to_group():
    shape = (5, 4, 2, 3, 2)
    module = layer("sn", shape, use_batch=False, group_size=2)
    expected = layer("sn", shape, use_batch=False)(unlike(*shape))
    assert torch.equal(module(unlike(*shape)), expected)


@pytest.mark.parametrize("norm", ["sn", "bn"])
@pytest.mark.parametrize("size", [2, 5, 0])
def test_samples_that_make_no_whole_groups_are_refused(norm, size):
    module = layer(norm, (3, 4, 2, 3, 2), group_size=size)
    before = copy.deepcopy(module.state_dict())
    message = f"^expected a batch of whole groups of {size} \\(got 3\\)$"
    with pytest.raises(ValueError, match=message):
        module(unlike(3, 4, 2, 3, 2))
    for name in ("running_mean", "running_var"):
        assert torch.equal(module.state_dict()[name], before[name])


def test_batch_norm_refuses_groups_of_one_value_of_a_channel():
    with pytest.raises(ValueError) as theirs:
        nn.BatchNorm3d(4)(torch.zeros(1, 4, 1, 1, 1))
    with pytest.raises(ValueError) as ours:
        create_norm("bn", group_size=1)(4)(torch.zeros(3, 4, 1, 1, 1))
    common = "Expected more than 1 value per channel when training, got "
    assert str(theirs.value).startswith(common) and str(ours.value).startswith(common)
    assert "groups of 1 of input size (3, 4, 1, 1, 1)" in str(ours.value)


def network(norm: str, **options: Any) -> nn.Module:
    """Two norms, so that the second one's inputs depend on the first."""
    torch.manual_seed(0)
    create = create_norm(norm, **options)
    return nn.Sequential(
        *(nn.Conv3d(3, 8, 2), create(num_features=8), nn.ReLU()),
        *(nn.Conv3d(8, 4, 1), create(num_features=4)),
    ).double()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", ["average", "population"])
@pytest.mark.parametrize("norm", ["sn", "bn"])
def test_averaged_statistics_are_those_of_the_groups_one_by_one(norm, kind, path):
    batches = [unlike(4, 3, 3, 4, 3, seed=10 * seed) for seed in range(3)]
    grouped, plain = network(norm, group_size=2), network(norm)
    with path_of(path):
        assert average_statistics(grouped, batches, kind) == 3
        groups = [group for batch in batches for group in batch.split(2)]
        assert average_statistics(plain, groups, kind) == 6
    for found, expected in zip(tracking_layers(grouped), tracking_layers(plain), strict=True):
        assert_near(found.running_mean, expected.running_mean)
        assert_near(found.running_var, expected.running_var)
        assert (expected.running_var - 1).abs().max() > 0.1


@pytest.mark.parametrize("path", PATHS)
def test_gradcheck_and_gradgradcheck_over_groups(path):
    def function(*inputs: Tensor) -> Tensor:
        x, *parameters = inputs
        return switch_norm(x, None, None, *parameters, training=True, group_size=2)

    x = random(4, 2, 2, 1, 2)
    parameters = [random(*shape, seed=seed) for seed, shape in enumerate([(2,), (2,), (3,), (3,)])]
    inputs = [tensor.requires_grad_() for tensor in (x, *parameters)]
    with path_of(path):
        assert torch.autograd.gradcheck(function, inputs)
        assert torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.parametrize("path", PATHS)
def test_gradcheck_and_gradgradcheck_of_batch_norm_over_groups(path):
    module = create_norm("bn", 2, group_size=2)(2, track_running_stats=False).double()

    def function(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return torch.func.functional_call(module, {"weight": weight, "bias": bias}, x)

    inputs = [random(*shape).requires_grad_() for shape in [(4, 2, 2, 2), (2,), (2,)]]
    with path_of(path):
        assert torch.autograd.gradcheck(function, inputs)
        assert torch.autograd.gradgradcheck(function, inputs)
