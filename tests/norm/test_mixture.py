"""Mixtures over any set of statistics, against each statistic from its own values in float64."""

from itertools import combinations

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck

from snvideo.norm import (
    SwitchNorm2d,
    SwitchNorm3d,
    convert_norm,
    importance,
    start_by_depth,
    switch_norm,
)
from snvideo.norm.importance import importance_table
from snvideo.norm.mixture import PARTS, MixtureSpec, mixture_ratios, start_logits
from tests.norm.paths import PATHS, path_of

EVERY_SET = [parts for k in range(1, 5) for parts in combinations(PARTS, k)]
IDS = ["+".join(parts) for parts in EVERY_SET]
GROUPS = 3  # of six channels


def statistics(x, part, samples=None):
    """Mean and variance of one part, each (N, C), from the values that it is taken over."""
    flat = x.flatten(2)
    n, c, _ = flat.shape
    members = {
        "instance": lambda i, j: flat[i, j],
        "group": lambda i, j: flat[i].unflatten(0, (GROUPS, -1))[j // (c // GROUPS)],
        "layer": lambda i, j: flat[i],
        "batch": lambda i, j: flat.split(samples or n)[i // (samples or n)][:, j],
    }[part]
    values = [[members(i, j).flatten() for j in range(c)] for i in range(n)]
    means = torch.stack([torch.stack([v.mean() for v in row]) for row in values])
    variances = [torch.stack([((v - v.mean()) ** 2).mean() for v in row]) for row in values]
    return means, torch.stack(variances)


def expected(x, weight, bias, mean_logits, var_logits, spec, samples=None):
    """The mixture by its definition."""
    found = [statistics(x, part, samples) for part in spec.parts]
    w, u = (
        z.softmax(0) if spec.ratios == "softmax" else z.abs() / z.abs().sum()
        for z in (mean_logits, var_logits)
    )
    mean = sum(a * table for a, (table, _) in zip(w, found, strict=True))
    variance = sum(a * table for a, (_, table) in zip(u, found, strict=True))
    shape = (*mean.shape, *(1,) * (x.dim() - 2))
    normed = (x - mean.view(shape)) / (variance + 1e-5).sqrt().view(shape)
    affine = (-1, *(1,) * (x.dim() - 2))
    return normed * weight.view(affine) + bias.view(affine)


def random_inputs(spec, shape=(4, 6, 3, 2), seed=0):
    """x, weight, bias and logits in float64, all of which want gradients."""
    generator = torch.Generator().manual_seed(seed)
    sizes = shape, shape[1:2], shape[1:2], (len(spec.parts),), (len(spec.parts),)
    drawn = [torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes]
    drawn[0] = drawn[0] * torch.arange(1, shape[1] + 1)[:, None, None] + 3
    return [tensor.requires_grad_() for tensor in drawn]


def spec_of(parts, ratios="softmax"):
    return MixtureSpec(parts, GROUPS if "group" in parts else 1, ratios)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("samples", [None, 2], ids=["batch", "ghosts"])
@pytest.mark.parametrize("ratios", ["softmax", "l1"])
@pytest.mark.parametrize("parts", EVERY_SET, ids=IDS)
def test_every_set_of_parts_equals_its_definition(parts, ratios, samples, path):
    spec = spec_of(parts, ratios)
    inputs = random_inputs(spec)
    with path_of(path):
        y = switch_norm(inputs[0], None, None, *inputs[1:], True, mixture=spec, group_size=samples)
        dy = torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(1))
        found = torch.autograd.grad(y, inputs, dy)
    by_definition = expected(*inputs, spec, samples)
    torch.testing.assert_close(y, by_definition, rtol=1e-10, atol=1e-10)
    wanted = torch.autograd.grad(by_definition, inputs, dy)
    torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("parts", EVERY_SET, ids=IDS)
def test_gradcheck_of_every_set_of_parts(parts, layout):
    spec = spec_of(parts, "l1")
    x, *others = random_inputs(spec, shape=(2, 6, 2, 2))
    x = x.detach().to(memory_format=layout).requires_grad_()

    def function(*inputs):
        return switch_norm(inputs[0], None, None, *inputs[1:], True, mixture=spec)

    assert gradcheck(function, (x, *others))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("parts", [p for p in EVERY_SET if "batch" in p])
def test_evaluation_takes_stored_statistics_for_the_batch_part(parts, path):
    layer = SwitchNorm2d(6, parts=parts, groups=GROUPS).double().eval()
    layer.running_mean.uniform_(-1, 1)
    layer.running_var.uniform_(0.5, 2)
    x = torch.randn(3, 6, 4, 5, dtype=torch.float64)
    tables = [
        (layer.running_mean.expand(3, 6), layer.running_var.expand(3, 6))
        if part == "batch"
        else statistics(x, part)
        for part in layer.parts
    ]
    mean, variance = (sum(table[k] for table in tables) / len(tables) for k in (0, 1))
    wanted = (x - mean[..., None, None]) / (variance + 1e-5).sqrt()[..., None, None]
    with path_of(path):
        torch.testing.assert_close(layer(x), wanted, rtol=1e-10, atol=1e-10)


def test_named_norms_are_single_parts():
    x = torch.randn(4, 64, 5, 6, dtype=torch.float64)
    for parts, rival in (
        (["instance"], nn.InstanceNorm2d(64)),
        (["group"], nn.GroupNorm(32, 64)),
        (["layer"], nn.GroupNorm(1, 64)),
        (["batch"], nn.BatchNorm2d(64)),
    ):
        torch.testing.assert_close(SwitchNorm2d(64, parts=parts).double()(x), rival.double()(x))


def test_paper_is_the_default_and_its_short_form():
    assert SwitchNorm3d(4).parts == ("instance", "layer", "batch")
    assert SwitchNorm3d(4, use_batch=False).parts == ("instance", "layer")
    assert SwitchNorm3d(4, parts=["batch", "instance"]).parts == ("instance", "batch")
    without = SwitchNorm3d(4, parts=["group", "layer"])
    assert without.running_mean is None and not without.use_batch


@pytest.mark.parametrize(
    "options",
    [
        {"parts": ["instance", "bath"]},
        {"parts": []},
        {"parts": ["layer", "layer"]},
        {"parts": ["group"], "groups": 0},
        {"ratios": "sparsemax"},
        {"start": "bath"},
        {"start": "batch", "use_batch": False},
        {"start": "layer", "parts": ["instance", "batch"]},
        {"start": [1.0, 2.0]},
        {"start": [0.0, 0.0, 0.0], "ratios": "l1"},
        {"start": [0.0, float("nan"), 0.0]},
        {"use_batch": False, "parts": ["layer", "batch"]},
        {"process_group": "wrold"},
    ],
)
def test_settings_that_there_are_not_are_refused(options):
    with pytest.raises(ValueError, match=r"got|needs|gives"):
        SwitchNorm3d(4, **options)


def test_starts():
    paper = MixtureSpec()
    assert start_logits("equal", paper).tolist() == [0, 0, 0]
    assert start_logits("batch", paper).tolist() == [0, 0, 5]
    assert start_logits("layer", paper).tolist() == [0, 5, 0]
    assert start_logits((1, 2, 3), paper).tolist() == [1, 2, 3]
    assert start_logits("depth", paper, 0.0).tolist() == [3, 0, 1.5]
    assert start_logits("depth", paper, 1.0).tolist() == [0, 3, 1.5]
    everything = MixtureSpec(PARTS)
    assert start_logits("depth", everything, 1.0).tolist() == [0, 3, 3, 1.5]
    by_size = paper._replace(ratios="l1")
    assert start_logits("batch", by_size).tolist() == [0, 0, 1]
    for start in ("equal", "depth"):
        both = start_logits(start, paper, 0.2), start_logits(start, by_size, 0.2)
        ratios = [mixture_ratios(z, r) for z, r in zip(both, ("softmax", "l1"), strict=True)]
        torch.testing.assert_close(*ratios)


def test_start_by_depth_goes_by_position_and_returns_how_many():
    layers = [SwitchNorm3d(4, start="depth") for _ in range(3)]
    model = nn.Sequential(*layers, nn.BatchNorm3d(4))
    assert torch.equal(layers[0].mean_logits, torch.zeros(3) + layers[1].mean_logits)
    assert start_by_depth(model) == 3
    for layer, wanted in zip(layers, ([3, 0, 1.5], [1.5] * 3, [0, 3, 1.5]), strict=True):
        assert layer.mean_logits.tolist() == layer.var_logits.tolist() == wanted


def test_conversion_starts_by_depth():
    model = nn.Sequential(*(nn.BatchNorm2d(4) for _ in range(3)))
    convert_norm(model, "sn", start="depth")
    assert [layer.mean_logits.tolist() for layer in model] == [[3, 0, 1.5], [1.5] * 3, [0, 3, 1.5]]
    model[0].mean_logits.data.fill_(7)
    assert not convert_norm(model, "sn", start="depth")
    assert model[0].mean_logits.tolist() == [7, 7, 7]


def test_l1_begins_at_batch_normalization_and_moves():
    torch.manual_seed(0)
    x = torch.randn(8, 6, 5, 5) * torch.tensor([1.0, 30, 1, 1, 1, 0.03])[:, None, None]
    norm = SwitchNorm2d(6, start="batch", ratios="l1")
    torch.testing.assert_close(norm(x), nn.BatchNorm2d(6)(x))
    paper = SwitchNorm2d(6, start="batch")
    target = SwitchNorm2d(6, parts=["layer"])(x).detach()
    moved = []
    for layer in (norm, paper):
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.05, momentum=0.9)
        for _ in range(100):
            optimizer.zero_grad()
            (layer(x) - target).square().mean().backward()
            optimizer.step()
        moved.append(importance(layer)[0].mean[1] + importance(layer)[0].variance[1])
    assert moved[0] > 1.0 > 0.1 > moved[1]  # of 2


def test_table_and_importance_of_mixed_sets():
    model = nn.Sequential(
        SwitchNorm2d(4, parts=["group", "batch"]), SwitchNorm2d(4, use_batch=False)
    )
    assert [entry.parts for entry in importance(model)] == [
        ("group", "batch"),
        ("instance", "layer"),
    ]
    head, first, second, mean = importance_table(model).splitlines()
    assert head.split()[2:8] == ["mean:", "instance", "group", "layer", "batch", "variance:"]
    assert first.split()[2:6] == ["-", "50.0", "-", "50.0"]
    assert second.split()[2:6] == ["50.0", "-", "50.0", "-"]
    assert mean.split()[1:5] == ["25.0"] * 4
    with pytest.raises(ValueError, match="layer '0' is on the meta device"):
        importance(nn.Sequential(SwitchNorm2d(4, device="meta")))
