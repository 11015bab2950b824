"""Statistics for evaluation, and one update a step, against the layers' concatenated inputs."""

import copy

import pytest
import torch
from torch import nn

from snvideo.norm import (
    SwitchNorm3d,
    average_statistics,
    kept_statistics,
    one_update,
    tracking_layers,
)
from snvideo.norm.factory import create_norm


def network(norm: str) -> nn.Module:
    """Two norms, so that the second one's inputs depend on the first; dropout to be kept off."""
    torch.manual_seed(0)
    create = create_norm(norm)
    return nn.Sequential(
        nn.Conv3d(3, 8, 3), create(num_features=8), nn.ReLU(), nn.Dropout(0.5), nn.Conv3d(8, 4, 1),
        create(num_features=4),
    ).double()  # fmt: skip


def groups(count=5, clips=2):
    generator = torch.Generator().manual_seed(3)
    shape = (clips, 3, 4, 6, 6)
    return [
        torch.randn(shape, generator=generator, dtype=torch.float64) * (1 + i) + i
        for i in range(count)
    ]


def layer_inputs(model, batches):
    """What every norm receives while statistics are averaged: norms in training mode alone."""
    seen = {layer: [] for layer in tracking_layers(model)}
    hooks = [
        layer.register_forward_pre_hook(lambda layer, inputs: seen[layer].append(inputs[0].clone()))
        for layer in seen
    ]
    model.eval()
    for layer in seen:
        layer.train()
    with torch.no_grad():
        for batch in batches:
            model(batch)
    for hook in hooks:
        hook.remove()
    return seen


def moments(x):
    values = x.transpose(0, 1).flatten(1)
    return values.mean(1), values.var(1, correction=0)


@pytest.mark.parametrize("norm", ["sn", "bn"])
def test_population_is_that_of_the_concatenated_inputs(norm):
    model = network(norm)
    inputs = layer_inputs(copy.deepcopy(model), groups())
    assert average_statistics(model, groups(), "population") == 5
    for layer, seen in zip(tracking_layers(model), inputs.values(), strict=True):
        mean, variance = moments(torch.cat(seen))
        torch.testing.assert_close(layer.running_mean, mean, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(layer.running_var, variance, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("norm", ["sn", "bn"])
def test_average_is_the_mean_over_the_groups(norm):
    model = network(norm)
    inputs = layer_inputs(copy.deepcopy(model), groups())
    average_statistics(model, groups(), "average")
    for layer, seen in zip(tracking_layers(model), inputs.values(), strict=True):
        means, variances = zip(*map(moments, seen), strict=True)
        torch.testing.assert_close(layer.running_mean, torch.stack(means).mean(0))
        torch.testing.assert_close(layer.running_var, torch.stack(variances).mean(0))


def test_everything_else_is_left_as_found():
    model = network("sn")
    model[0].eval()  # a mixed mode must come back as it was
    modes = [module.training for module in model.modules()]
    before = copy.deepcopy(model.state_dict())
    random = torch.get_rng_state()
    average_statistics(model, groups())
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random)
    assert all(layer.momentum == 0.1 for layer in tracking_layers(model))
    assert not any(module._forward_hooks for module in model.modules())
    for name, value in model.state_dict().items():
        if not name.endswith(("running_mean", "running_var")):
            assert torch.equal(value, before[name]), name
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_failing_batch_changes_nothing():
    model = network("bn")
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(RuntimeError):
        average_statistics(model, [groups()[0], torch.zeros(1, 7, 4, 6, 6, dtype=torch.float64)])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training


@pytest.mark.filterwarnings("ignore:average_statistics changed nothing")
def test_no_batches_and_no_statistics_leave_the_model_alone():
    model = network("sn")
    before = copy.deepcopy(model.state_dict())
    assert average_statistics(model, []) == 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert average_statistics(network("gn"), groups()) == 0


@pytest.mark.filterwarnings("ignore:average_statistics changed nothing")
def test_frozen_batch_norm_keeps_its_statistics():
    model = network("frozen_bn")
    before = copy.deepcopy(model.state_dict())
    average_statistics(model, groups())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("norm", ["sn", "bn"])
def test_several_passes_are_one_update(norm):
    """Four accumulated passes move the running statistics once, by the mean over the passes."""
    model = network(norm)
    layers = tracking_layers(model)
    with torch.no_grad():
        for layer in layers:
            layer.running_mean.fill_(2.0)
    batches = groups(4)
    each = []
    for batch in batches:
        alone = copy.deepcopy(model)
        for layer in tracking_layers(alone):
            layer.momentum = 1.0
        torch.manual_seed(7)
        alone(batch)
        each.append([(layer.running_mean, layer.running_var) for layer in tracking_layers(alone)])
    with one_update(layers) as found:
        for batch in batches:
            torch.manual_seed(7)
            model(batch)
            found.collect()
    for number, layer in enumerate(layers):
        mean = torch.stack([of_pass[number][0] for of_pass in each]).mean(0)
        variance = torch.stack([of_pass[number][1] for of_pass in each]).mean(0)
        torch.testing.assert_close(layer.running_mean, 0.9 * 2.0 + 0.1 * mean)
        torch.testing.assert_close(layer.running_var, 0.9 * 1.0 + 0.1 * variance)
        assert layer.num_batches_tracked == 1
        assert layer.momentum == 0.1


def test_one_pass_is_what_the_layer_does_by_itself():
    ours, plain = network("bn").eval(), network("bn").eval()  # eval: no dropout
    for model in (ours, plain):
        for layer in tracking_layers(model):
            layer.train()
    with one_update(tracking_layers(ours)) as found:
        ours(groups()[0])
        found.collect()
    plain(groups()[0])
    for a, b in zip(tracking_layers(ours), tracking_layers(plain), strict=True):
        torch.testing.assert_close(a.running_mean, b.running_mean)
        torch.testing.assert_close(a.running_var, b.running_var)
        assert a.num_batches_tracked == b.num_batches_tracked == 1


def test_an_interrupted_step_leaves_the_statistics():
    norm = SwitchNorm3d(3)
    with pytest.raises(KeyboardInterrupt), one_update([norm]) as found:
        norm(torch.randn(2, 3, 2, 2, 2))
        found.collect()
        raise KeyboardInterrupt
    assert torch.equal(norm.running_mean, torch.zeros(3))
    assert norm.momentum == 0.1


def test_kept_statistics_come_back():
    model = network("sn")
    before = copy.deepcopy(model.state_dict())
    with kept_statistics(tracking_layers(model)):
        average_statistics(model, groups())
        assert not torch.equal(model[1].running_mean, before["1.running_mean"])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
