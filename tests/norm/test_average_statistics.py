"""Averaged statistics of frozen, averaged and foreign networks, against float64 formulas."""

import copy

import pytest
import torch
from fvcore.nn.precise_bn import update_bn_stats
from timm.layers import BatchNormAct2d
from timm.layers.split_batchnorm import SplitBatchNorm2d
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from snvideo.norm import (
    average_statistics,
    batch_statistics,
    convert_norm,
    create_norm,
    tracking_layers,
)
from tests.norm.test_statistics import groups, layer_inputs, moments, network

NORMS = ["sn", "bn", "syncsn", "syncbn"]


def expected_of(model, kind="average"):
    """Means and variances of every layer by their definition."""
    found = []
    for seen in layer_inputs(copy.deepcopy(model), groups()).values():
        if kind == "population":
            found.append(moments(torch.cat(seen)))
        else:
            means, variances = zip(*map(moments, seen), strict=True)
            found.append((torch.stack(means).mean(0), torch.stack(variances).mean(0)))
    return found


def assert_statistics(model, expected):
    for layer, (mean, variance) in zip(tracking_layers(model), expected, strict=True):
        torch.testing.assert_close(layer.running_mean, mean)
        torch.testing.assert_close(layer.running_var, variance)


def freeze(model):
    return model.requires_grad_(False)


def teacher(model):
    return copy.deepcopy(model).requires_grad_(False).eval()


def averaged(model):
    return AveragedModel(model)


def averaged_with_buffers(model):
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    average.update_parameters(model)
    return average


@pytest.mark.parametrize("kind", ["average", "population"])
@pytest.mark.parametrize("make", [freeze, teacher, averaged, averaged_with_buffers])
@pytest.mark.parametrize("norm", NORMS)
def test_networks_that_are_not_trained_take_part(norm, make, kind):
    model = make(network(norm))
    trained = [parameter.requires_grad for parameter in model.parameters()]
    modes = [module.training for module in model.modules()]
    expected = expected_of(model, kind)
    assert average_statistics(model, groups(), kind) == 5
    assert_statistics(model, expected)
    assert [parameter.requires_grad for parameter in model.parameters()] == trained
    assert [module.training for module in model.modules()] == modes


def test_a_partly_frozen_network_can_keep_what_is_frozen():
    model = network("sn")
    model[1].requires_grad_(False)
    assert tracking_layers(model, frozen=False) == [model[5]]
    before = copy.deepcopy(model[1].state_dict())
    average_statistics(model, groups(), layers=[model[5]])
    assert all(torch.equal(model[1].state_dict()[name], x) for name, x in before.items())
    expected = expected_of(model)
    average_statistics(model, groups())
    assert_statistics(model, expected)


@pytest.mark.parametrize("options", [{}, {"group_size": 2}, {"process_group": "world"}])
def test_it_stands_in_for_update_bn(options):
    """Which knows nn.BatchNorm alone: a network of SN passes through it as it is."""
    norm = create_norm("sn", 3, **options)
    model = nn.Sequential(nn.Conv3d(3, 8, 3), norm(8), nn.ReLU(), norm(8)).double()
    averaged_model = AveragedModel(model)
    before = copy.deepcopy(averaged_model.state_dict())
    update_bn(groups(clips=4), averaged_model)
    update_bn_stats(averaged_model, groups(clips=4), num_iters=5)
    assert all(torch.equal(averaged_model.state_dict()[name], x) for name, x in before.items())
    assert average_statistics(averaged_model, groups(clips=4)) == 5
    bn = copy.deepcopy(model)
    convert_norm(bn, "bn")
    update_bn(groups(clips=4), bn)  # the first layer's inputs are those of both networks
    first = averaged_model.module[1]
    if "group_size" not in options:
        torch.testing.assert_close(first.running_mean, bn[1].running_mean)
        count = 4 * 2 * 4 * 4
        torch.testing.assert_close(first.running_var, bn[1].running_var * (count - 1) / count)


@pytest.mark.parametrize("kind", ["average", "population"])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_instance_norm_has_the_statistics_of_samples(dims, kind):
    norm = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)[dims - 1]
    layer = norm(3, track_running_stats=True).double()
    generator = torch.Generator().manual_seed(0)
    shape = 4, 3, *(6, 5, 4)[:dims]
    xs = [torch.randn(shape, generator=generator, dtype=torch.float64) * i + i for i in (1, 2)]
    xs = [x + 10 * torch.arange(4.0, dtype=torch.float64).view(4, *(1,) * (dims + 1)) for x in xs]
    expected = torch.cat(xs).flatten(2)
    unbatched = [sample for x in xs for sample in x]
    for batches in (xs, unbatched):
        layer.reset_running_stats()
        assert average_statistics(nn.Sequential(layer), batches, kind) == len(batches)
        torch.testing.assert_close(layer.running_mean, expected.mean(2).mean(0))
        torch.testing.assert_close(layer.running_var, expected.var(2, correction=0).mean(0))


@pytest.mark.parametrize("momentum", [None, 0.0, 0.1])
def test_momentum_plays_no_part(momentum):
    model = network("bn")
    for layer in tracking_layers(model):
        layer.momentum = momentum
    expected = expected_of(model)
    average_statistics(model, groups())
    assert_statistics(model, expected)
    assert all(layer.momentum == momentum for layer in tracking_layers(model))


def test_subclasses_tell_what_they_took_themselves():
    x = torch.randn(8, 3, 5, 5, dtype=torch.float64)
    x[4:] += 10  # the other split
    act, split = BatchNormAct2d(3).double(), SplitBatchNorm2d(3).double()
    average_statistics(nn.Sequential(act), [x])
    average_statistics(nn.Sequential(split), [x])
    mean, variance = moments(x)
    torch.testing.assert_close(act.running_mean, mean)
    torch.testing.assert_close(act.running_var, variance)
    for layer, part in ((split, x[:4]), (split.aux_bn[0], x[4:])):
        mean, variance = moments(part)
        torch.testing.assert_close(layer.running_mean, mean)
        torch.testing.assert_close(layer.running_var, variance, rtol=0.01, atol=0)
        assert layer.momentum == 0.1


@pytest.mark.parametrize("norm", NORMS)
def test_a_layer_that_is_used_twice_has_the_mean_of_both(norm):
    layer = create_norm(norm)(3).double()

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = layer

        def forward(self, x):
            return self.norm(x), self.norm(3 * x)

    x = groups(1)[0]
    average_statistics(Twice(), [x])
    torch.testing.assert_close(layer.running_mean, moments(x)[0] * 2)
    torch.testing.assert_close(layer.running_var, moments(x)[1] * 5)


@pytest.mark.parametrize(
    ("model", "batches", "message"),
    [
        (nn.Sequential(nn.GroupNorm(1, 3)), groups(1), "no layer that keeps running statistics"),
        (network("sn"), [], "no batches"),
        (network("frozen_bn"), groups(1), "no norm has been in a pass that moves"),
        (nn.Sequential(create_norm("sn", 3, use_batch=False)(3)), groups(1), "no layer that"),
    ],
)
def test_nothing_to_average_is_said(model, batches, message):
    with pytest.warns(UserWarning, match=f"average_statistics changed nothing: .*{message}"):
        average_statistics(model, batches)


def test_an_unknown_kind_is_one_line():
    with pytest.raises(ValueError, match="kind is 'average' or 'population'"):
        average_statistics(network("sn"), groups(), "mean")


class ByKeyword(nn.Module):
    """Norms whose input is named."""

    def __init__(self):
        super().__init__()
        self.sn, self.bn = create_norm("sn")(3).double(), create_norm("bn")(3).double()

    def forward(self, x):
        return self.bn(input=self.sn(input=x))


def test_named_inputs_and_empty_batches():
    model, plain = ByKeyword(), ByKeyword()
    plain.forward = lambda x: plain.bn(plain.sn(x))
    xs = groups(2)
    assert average_statistics(model, [xs[0], xs[0][:0], xs[1]]) == 3
    average_statistics(plain, xs)
    for name in ("sn", "bn"):
        one, other = getattr(model, name), getattr(plain, name)
        torch.testing.assert_close(one.running_mean, other.running_mean)
        torch.testing.assert_close(one.running_var, other.running_var)


def test_statistics_of_no_values_do_not_end_the_interpreter():
    assert batch_statistics(torch.zeros(0, 3, 2, 2)).count == 0


@pytest.mark.parametrize("kind", [list, tuple])
def test_batches_of_a_data_loader_have_labels(kind):
    torch.manual_seed(0)
    inputs = [torch.randn(4, 3, 5, 5) for _ in range(3)]
    one, two = (nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)) for _ in range(2))
    two.load_state_dict(one.state_dict())
    average_statistics(one, inputs)
    labels = torch.zeros(4, dtype=torch.long)
    assert average_statistics(two, [kind((x, labels)) for x in inputs]) == 3
    assert torch.equal(one[1].running_var, two[1].running_var)


def test_two_inputs_stay_two():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(3)

        def forward(self, pathways):
            slow, fast = pathways
            return self.norm(slow + fast)

    model = Both()
    x = torch.randn(4, 3, 5, 5)
    average_statistics(model, [[x, x]])
    torch.testing.assert_close(model.norm.running_mean, 2 * x.mean((0, 2, 3)))
