"""Batch Renormalization, Weight Standardization and the groups of GN against their papers."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from snvideo.norm import (
    BatchRenorm2d,
    BatchRenorm3d,
    convert_norm,
    create_norm,
    fold_weight_standardization,
    one_update,
    standardize_weights,
    tracking_layers,
)
from tests.norm.paths import PATHS, path_of

FULL = (0, 0, 0)
"""A schedule whose bounds are reached before the first step."""


def renorm(schedule=FULL, **options):
    """A layer with nothing at its default, in float64."""
    layer = BatchRenorm2d(3, schedule=schedule, **options).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([0.5, 2, -1]))
        layer.bias.copy_(torch.tensor([1.0, 0, 3]))
        layer.running_mean.copy_(torch.tensor([0.3, -2, 0.1]))
        layer.running_var.copy_(torch.tensor([0.5, 4, 30]))
    return layer


def by_the_paper(layer, x, r_max, d_max):
    """Algorithm 1 of arXiv 1702.03275, with r and d as constants."""
    mean = x.mean((0, 2, 3), keepdim=True)
    deviation = (x.var((0, 2, 3), correction=0, keepdim=True) + layer.eps).sqrt()
    stored = (layer.running_var + layer.eps).sqrt().view(1, -1, 1, 1)
    r = (deviation / stored).clamp(1 / r_max, r_max).detach()
    d = ((mean - layer.running_mean.view(1, -1, 1, 1)) / stored).clamp(-d_max, d_max).detach()
    normed = (x - mean) / deviation * r + d
    return normed * layer.weight.view(1, -1, 1, 1) + layer.bias.view(1, -1, 1, 1)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("samples", [None, 2])
def test_renorm_is_that_of_the_paper(samples, path):
    layer = renorm(group_size=samples)
    x = torch.randn(4, 3, 5, 4, dtype=torch.float64, requires_grad=True)
    groups = x.split(samples or 4)
    wanted = torch.cat([by_the_paper(layer, group, 3.0, 5.0) for group in groups])
    stored = layer.running_mean.clone()
    with path_of(path):
        found = layer(x)
        dy = torch.randn_like(found)
        parameters = [x, *layer.parameters()]
        gradients = torch.autograd.grad(found, parameters, dy)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(gradients, torch.autograd.grad(wanted, parameters, dy))
    torch.testing.assert_close(layer.running_mean, 0.9 * stored + 0.1 * x.mean((0, 2, 3)))


def test_renorm_begins_as_batch_norm_and_relaxes_step_by_step():
    layer = renorm((2, 4, 6), group_size=None)
    theirs = nn.BatchNorm2d(3).double()
    theirs.load_state_dict(layer.state_dict())
    bounds = []
    for step in range(8):
        x = torch.randn(4, 3, 5, 4, dtype=torch.float64)
        bounds.append(tuple(bound.item() for bound in layer.limits()))
        found, plain = layer(x), theirs(x)
        assert torch.allclose(found, plain) == (step < 3)
    assert bounds == [(1, 0), (1, 0), (1, 0), (1.5, 2.5), (2, 5), (2.5, 5), (3, 5), (3, 5)]
    torch.testing.assert_close(layer.running_var, theirs.running_var)
    torch.testing.assert_close(layer.eval()(x), theirs.eval()(x))


def test_renorm_of_several_passes_reads_the_statistics_of_the_last_step():
    layer = renorm()
    batches = torch.randn(3, 4, 3, 5, 4, dtype=torch.float64)
    wanted = [by_the_paper(layer, x, 3.0, 5.0) for x in batches]
    stored = layer.running_mean.clone()
    with one_update(tracking_layers(layer)) as statistics:
        for x, expected in zip(batches, wanted, strict=True):
            torch.testing.assert_close(layer(x), expected)
            statistics.collect()
    mean = batches.mean((0, 1, 3, 4))
    torch.testing.assert_close(layer.running_mean, 0.9 * stored + 0.1 * mean)
    assert layer.num_batches_tracked == 1


@pytest.mark.parametrize("options", [{"r_max": 0.5}, {"d_max": -1}, {"schedule": (5, 4, 6)}])
def test_renorm_refuses_bounds_that_there_are_not(options):
    with pytest.raises(ValueError, match="expected r_max >= 1"):
        BatchRenorm3d(4, **options)


def test_renorm_refuses_to_be_without_running_statistics():
    with pytest.raises(ValueError, match="needs running statistics"):
        BatchRenorm3d(4, track_running_stats=False)
    with pytest.raises(ValueError, match="needs running statistics"):
        model = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False))
        convert_norm(model, "brn")
        model(torch.randn(2, 3, 4, 4))


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv3d(3, 8, 3), nn.BatchNorm3d(8), nn.Conv3d(8, 8, 1, groups=8), nn.Conv3d(8, 4, 2)
    )


def test_standardized_weights_are_those_of_the_paper_and_train():
    model = network().double()
    original = model[0].weight.detach().clone()
    assert standardize_weights(model) == 2 and standardize_weights(model) == 0
    rows = original.flatten(1)
    centered = rows - rows.mean(1, keepdim=True)
    wanted = centered / (rows.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(model[0].weight.flatten(1), wanted)
    x = torch.randn(2, 3, 6, 6, 6, dtype=torch.float64)
    model(x).sum().backward()
    learned = model[0].parametrizations.weight.original
    assert learned.grad.abs().max() > 0
    # a constant added to a row, or a factor, changes nothing, so no gradient goes that way
    assert learned.grad.flatten(1).sum(1).abs().max() < 1e-10


def test_folding_keeps_the_function_and_the_names():
    model = network().eval()
    names = set(model.state_dict())
    standardize_weights(model)
    x = torch.randn(2, 3, 6, 6, 6)
    before = model(x)
    assert fold_weight_standardization(model) == 2 and fold_weight_standardization(model) == 0
    torch.testing.assert_close(model(x), before)
    assert set(model.state_dict()) == names
    standardize_weights(model)  # what is standardized already stays, up to eps
    assert (model(x) - before).abs().max() < 0.02 * before.abs().max()


def test_groups_of_group_normalization():
    assert create_norm("gn")(64).num_groups == 32
    assert create_norm("gn", groups=8)(64).num_groups == 8
    assert create_norm("gn", groups=8)(20).num_groups == 4
    assert create_norm("gn", channels_per_group=16)(64).num_groups == 4
    assert create_norm("gn", channels_per_group=16)(8).num_groups == 1
    assert create_norm("ln")(64).num_groups == 1
    assert isinstance(create_norm("brn", schedule=(1, 2, 3))(num_features=8), BatchRenorm3d)


@pytest.mark.parametrize("reentrant", [True, False])
def test_renorm_is_refused_under_activation_checkpointing(reentrant):
    """It would compute its output again from running statistics that it has moved."""
    layer = renorm()
    x = torch.randn(4, 3, 5, 4, dtype=torch.float64, requires_grad=True)
    y = checkpoint(layer, x, use_reentrant=reentrant)
    with pytest.raises(RuntimeError, match="without activation checkpointing"):
        y.sum().backward()
    layer.track_running_stats = False  # none are moved
    expected = torch.autograd.grad(layer(x).square().sum(), x)
    y = checkpoint(layer, x, use_reentrant=reentrant)
    y.square().sum().backward()
    torch.testing.assert_close(x.grad, expected[0])


def test_batch_renormalization_in_half_precision_is_off_by_rounding_alone():
    torch.manual_seed(0)
    x = torch.randn(64, 8, 16, 16) * torch.rand(8, 1, 1) * 2 + torch.randn(8, 1, 1)
    expected = BatchRenorm2d(8, schedule=FULL)(x.bfloat16().float())
    found = BatchRenorm2d(8, schedule=FULL)(x.bfloat16())
    assert found.dtype == torch.bfloat16
    gain = (found.float() * expected).sum((0, 2, 3)) / expected.square().sum((0, 2, 3))
    assert (gain - 1).abs().max() < 1e-3
    assert (found.float() - expected).mean((0, 2, 3)).abs().max() < 1e-3


@pytest.mark.parametrize(("shape", "group"), [((1, 4, 1, 1), None), ((6, 4, 1, 1), 1)])
def test_batch_renormalization_of_one_value_is_an_error_as_of_batch_norm(shape, group):
    layer = BatchRenorm2d(4, group_size=group)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        layer(torch.randn(shape))
    assert layer.num_batches_tracked == 0
