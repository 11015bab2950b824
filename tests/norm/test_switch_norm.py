"""SwitchNorm against an independent float64 reference, forward, backward and at the extremes."""

import copy

import pytest
import torch
from torch import Tensor, nn

from snvideo.norm import SwitchNorm1d, SwitchNorm2d, SwitchNorm3d, switch_norm

EPS = 1e-5


def reference(x, weight, bias, mean_logits, var_logits, running=None):
    """Switchable Normalization by its definition: every statistic from the values it is taken over.

    Shares nothing with the implementation: no law of total variance, one loop per sample.
    """
    n, c = x.shape[:2]
    flat = x.reshape(n, c, -1)
    w, v = torch.softmax(mean_logits, 0), torch.softmax(var_logits, 0)
    rows = []
    for sample in range(n):
        means = [flat[sample].mean(1), flat[sample].mean().expand(c)]
        variances = [
            ((flat[sample] - means[0][:, None]) ** 2).mean(1),
            ((flat[sample] - means[1][0]) ** 2).mean().expand(c),
        ]
        if len(w) == 3:
            if running is None:
                over_batch = flat.transpose(0, 1).reshape(c, -1)
                means.append(over_batch.mean(1))
                variances.append(((over_batch - means[2][:, None]) ** 2).mean(1))
            else:
                means.append(running[0])
                variances.append(running[1])
        mean = sum(a * b for a, b in zip(w, means, strict=True))
        variance = sum(a * b for a, b in zip(v, variances, strict=True))
        normed = (flat[sample] - mean[:, None]) / (variance[:, None] + EPS).sqrt()
        rows.append(normed * weight[:, None] + bias[:, None])
    return torch.stack(rows).reshape(x.shape)


def random_layer(layer, channels, seed=0, **options) -> nn.Module:
    """A layer with nothing at its default, in float64."""
    generator = torch.Generator().manual_seed(seed)
    norm = layer(channels, **options).double()
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        if norm.running_mean is not None:
            norm.running_mean.normal_(generator=generator)
            norm.running_var.uniform_(0.5, 2, generator=generator)
    return norm


SHAPES = [
    pytest.param(SwitchNorm1d, (5, 6), id="1d-no-positions"),
    pytest.param(SwitchNorm1d, (3, 6, 7), id="1d"),
    pytest.param(SwitchNorm2d, (3, 6, 4, 5), id="2d"),
    pytest.param(SwitchNorm3d, (2, 6, 3, 4, 2), id="3d"),
    pytest.param(SwitchNorm3d, (3, 6, 1, 1, 1), id="3d-one-position"),
    pytest.param(SwitchNorm3d, (1, 6, 2, 3, 2), id="3d-one-clip"),
    pytest.param(SwitchNorm3d, (1, 6, 1, 1, 1), id="3d-one-value"),
    pytest.param(SwitchNorm3d, (3, 1, 2, 3, 2), id="3d-one-channel"),
]


def parts(norm: nn.Module) -> tuple[Tensor, ...]:
    return norm.weight, norm.bias, norm.mean_logits, norm.var_logits


@pytest.mark.parametrize("use_batch", [True, False])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("layer", "shape"), SHAPES)
def test_forward_and_backward_equal_the_reference(layer, shape, training, use_batch):
    torch.manual_seed(1)
    norm = random_layer(layer, shape[1], use_batch=use_batch).train(training)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    running = None
    if use_batch and not training:
        running = norm.running_mean.clone(), norm.running_var.clone()
    inputs = (x, *parts(norm))
    expected = reference(*inputs, running)
    found = norm(x)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)

    probe = torch.randn_like(found)
    wanted = torch.autograd.grad((expected * probe).sum(), inputs)
    got = torch.autograd.grad((found * probe).sum(), inputs)
    for name, a, b in zip(("x", "weight", "bias", "mean", "var"), got, wanted, strict=True):
        scale = max(1.0, b.abs().max().item())
        torch.testing.assert_close(
            a, b, rtol=0, atol=1e-10 * scale, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("training", [True, False])
def test_gradcheck(training):
    norm = random_layer(SwitchNorm3d, 3).train(training)
    x = torch.randn(2, 3, 2, 2, 2, dtype=torch.float64, requires_grad=True)

    def function(x, weight, bias, mean_logits, var_logits):
        running = norm.running_mean.clone(), norm.running_var.clone()
        return switch_norm(x, *running, weight, bias, mean_logits, var_logits, training)

    inputs = (x, *(p.detach().clone().requires_grad_() for p in parts(norm)))
    assert torch.autograd.gradcheck(function, inputs)


@pytest.mark.parametrize("training", [True, False])
def test_second_derivatives(training):
    norm = random_layer(SwitchNorm3d, 2).train(training)
    x = torch.randn(2, 2, 2, 2, 1, dtype=torch.float64, requires_grad=True)

    def function(x, weight, bias, mean_logits, var_logits):
        running = norm.running_mean.clone(), norm.running_var.clone()
        return switch_norm(x, *running, weight, bias, mean_logits, var_logits, training)

    inputs = (x, *(p.detach().clone().requires_grad_() for p in parts(norm)))
    assert torch.autograd.gradgradcheck(function, inputs)


def test_large_mean_keeps_its_digits():
    """Mean 1e4, spread 1 in float32: within 2e-3 of the truth, and no worse than BatchNorm3d."""
    torch.manual_seed(0)
    x = (torch.randn(4, 8, 4, 7, 7, dtype=torch.float64) + 1e4).float()
    norm = SwitchNorm3d(8)
    found = norm(x).double()
    exact = copy.deepcopy(norm).double()(x.double())
    error = (found - exact).abs().max().item()
    batch_norm = nn.BatchNorm3d(8)
    exact_batch = copy.deepcopy(batch_norm).double()(x.double())
    layouts = (torch.contiguous_format, torch.channels_last_3d)
    rival = min(
        (batch_norm(x.contiguous(memory_format=layout)).double() - exact_batch).abs().max().item()
        for layout in layouts
    )
    assert error < 2e-3
    assert error <= 1.01 * rival


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_first_positions_unlike_the_rest_cost_no_digits(layout):
    """A black border: whatever x is held against at first, the result is that of float64."""
    torch.manual_seed(0)
    x = (torch.randn(2, 8, 4, 16, 16, dtype=torch.float64) + 1e3).float()
    x[:, :, :2] = 0
    norm = SwitchNorm3d(8)
    found = norm(x.contiguous(memory_format=layout)).double()
    exact = copy.deepcopy(norm).double()(x.double())
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-6)


def test_values_that_are_not_finite_show():
    x = torch.randn(2, 8, 4, 16, 16)
    for layout in (torch.contiguous_format, torch.channels_last_3d):
        for bad in (float("nan"), float("inf")):
            broken = x.contiguous(memory_format=layout)
            broken[1, 3, 2, 5, 5] = bad
            assert SwitchNorm3d(8)(broken).isnan().all(dim=(2, 3, 4))[1].all()


def test_large_mean_gradients_are_finite_and_right():
    torch.manual_seed(0)
    values = torch.randn(2, 4, 2, 5, 5, dtype=torch.float64) + 1e4
    probe = torch.randn(values.shape, dtype=torch.float64)
    gradients = []
    for dtype in (torch.float32, torch.float64):
        norm = SwitchNorm3d(4).to(dtype)
        x = values.float().to(dtype).requires_grad_()
        (norm(x) * probe.to(dtype)).sum().backward()
        gradients.append(x.grad.double())
    torch.testing.assert_close(*gradients, rtol=0, atol=5e-3)


def test_running_statistics_are_the_biased_batch_moments_with_momentum():
    torch.manual_seed(0)
    norm = SwitchNorm3d(5, momentum=0.3).double()
    first, second = (torch.randn(3, 5, 2, 4, 4, dtype=torch.float64) * 2 + 1 for _ in range(2))
    norm(first), norm(second)
    mean, var = torch.zeros(5, dtype=torch.float64), torch.ones(5, dtype=torch.float64)
    for x in (first, second):
        values = x.transpose(0, 1).reshape(5, -1)
        mean = 0.7 * mean + 0.3 * values.mean(1)
        var = 0.7 * var + 0.3 * values.var(1, correction=0)
    torch.testing.assert_close(norm.running_mean, mean)
    torch.testing.assert_close(norm.running_var, var)
    assert norm.num_batches_tracked == 2


def test_momentum_none_averages_all_passes_alike():
    torch.manual_seed(0)
    norm = SwitchNorm1d(3, momentum=None).double()
    batches = [torch.randn(4, 3, 6, dtype=torch.float64) for _ in range(3)]
    for x in batches:
        norm(x)
    means = torch.stack([x.mean((0, 2)) for x in batches])
    torch.testing.assert_close(norm.running_mean, means.mean(0))


def test_one_clip_without_batch_part_equals_logits_that_ignore_it():
    """For one sample, batch and instance statistics are the same numbers."""
    x = torch.randn(1, 4, 3, 5, 5, dtype=torch.float64)
    with_batch = SwitchNorm3d(4).double()
    without = SwitchNorm3d(4, use_batch=False).double()
    with torch.no_grad():
        # instance and batch share e^0 + e^0 = 2, layer has e^0 = 1
        without.mean_logits[0] = without.var_logits[0] = torch.tensor(2.0).log()
    torch.testing.assert_close(with_batch(x), without(x))
    assert without.running_mean is None


def test_batch_start_gives_the_batch_part_99_percent():
    norm = SwitchNorm3d(4, start="batch")
    assert norm.mean_logits.softmax(0)[2] > 0.98
    torch.manual_seed(0)
    x = torch.randn(8, 4, 2, 6, 6)
    torch.testing.assert_close(norm.eval()(x), nn.BatchNorm3d(4).eval()(x), rtol=0, atol=0.02)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_its_dtype_and_float32_statistics(dtype):
    torch.manual_seed(0)
    x = torch.randn(2, 8, 4, 6, 6).to(dtype)
    norm = SwitchNorm3d(8)
    found = norm(x)
    assert found.dtype == dtype
    exact = copy.deepcopy(norm).double()(x.double())
    assert (found.double() - exact).abs().max() <= torch.finfo(dtype).eps * exact.abs().max()
    assert norm.running_mean.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gradients(dtype):
    torch.manual_seed(0)
    values = torch.randn(2, 8, 4, 6, 6).to(dtype)
    probe = torch.randn(2, 8, 4, 6, 6).to(dtype)
    gradients = []
    for kind in (dtype, torch.float64):
        norm = SwitchNorm3d(8).to(torch.float64 if kind is torch.float64 else torch.float32)
        x = values.to(kind, copy=True).requires_grad_()
        norm(x).backward(probe.to(kind))
        assert x.grad.dtype == kind
        gradients.append([g.double() for g in (x.grad, norm.weight.grad, norm.mean_logits.grad)])
    for found, exact in zip(*gradients, strict=True):
        tolerance = 4 * torch.finfo(dtype).eps * exact.abs().max()
        assert (found - exact).abs().max() <= tolerance


@pytest.mark.parametrize(
    ("layer", "shape"), [(SwitchNorm2d, (2, 8, 6, 7)), (SwitchNorm3d, (2, 8, 3, 6, 7))]
)
def test_channels_last_gives_the_same_values(layer, shape):
    torch.manual_seed(0)
    layout = torch.channels_last if len(shape) == 4 else torch.channels_last_3d
    x = torch.randn(shape, dtype=torch.float64)
    norm = random_layer(layer, 8)
    found = copy.deepcopy(norm)(x.contiguous(memory_format=layout))
    torch.testing.assert_close(found, norm(x), rtol=0, atol=1e-12)
    assert found.is_contiguous(memory_format=layout)


@pytest.mark.parametrize(
    ("layer", "x", "message"),
    [
        (SwitchNorm3d, torch.randn(2, 4, 8, 8), r"expected 5D input (got 4D input)"),
        (SwitchNorm2d, torch.randn(2, 4, 8), "expected 4D input (got 3D input)"),
        (SwitchNorm1d, torch.randn(4), "expected 2D or 3D input (got 1D input)"),
        (SwitchNorm3d, torch.randn(2, 5, 2, 2, 2), "expected 4 channels (got 5)"),
        (
            SwitchNorm3d,
            torch.zeros(2, 4, 2, 2, 2, dtype=torch.int64),
            "expected floating point input",
        ),
    ],
)
def test_bad_input_is_one_clear_line(layer, x, message):
    with pytest.raises(ValueError, match=r"^expected") as error:
        layer(4)(x)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_state_dict_round_trip():
    norm = random_layer(SwitchNorm3d, 4)
    other = SwitchNorm3d(4).double()
    other.load_state_dict(norm.state_dict())
    x = torch.randn(2, 4, 2, 3, 3, dtype=torch.float64)
    torch.testing.assert_close(norm.eval()(x), other.eval()(x), rtol=0, atol=0)
    assert set(norm.state_dict()) == {
        *("weight", "bias", "running_mean", "running_var", "num_batches_tracked"),
        *("mean_logits", "var_logits"),
    }
