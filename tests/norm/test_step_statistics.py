"""One update a step: layers used often, wrapped, computed again, averaging, of others, switched."""

import copy

import pytest
import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.utils.checkpoint import checkpoint

from snvideo.norm import (
    BatchNorm2d,
    SwitchNorm2d,
    average_statistics,
    create_norm,
    one_update,
    tracking_layers,
)


def inputs(count, *shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = shape or (4, 3, 5, 5)
    return [
        torch.randn(shape, generator=generator, dtype=torch.float64) * (1 + i) + i
        for i in range(count)
    ]


def moments(x, correction):
    values = x.transpose(0, 1).flatten(1)
    return torch.stack([values.mean(1), values.var(1, correction=correction)])


def norms():
    return {
        "sn": SwitchNorm2d(3),
        "bn": nn.BatchNorm2d(3),
        "ghost sn": SwitchNorm2d(3, group_size=2),
        "ghost bn": BatchNorm2d(3, group_size=2),
    }


def expected_of(name, xs):
    """Mean over the uses of what each would store."""
    correction = int("bn" in name)
    groups = [part for x in xs for part in (x.split(2) if "ghost" in name else (x,))]
    return torch.stack([moments(group, correction) for group in groups]).mean(0)


def state(layer):
    return torch.stack([layer.running_mean, layer.running_var])


@pytest.mark.parametrize("name", norms())
def test_all_uses_of_a_pass_count_alike(name):
    layer = norms()[name].double()
    xs = inputs(6)
    with one_update([layer]) as found:
        for pair in (xs[:3], xs[3:]):
            for x in pair:
                layer(x)
            found.collect()
    start = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    torch.testing.assert_close(state(layer), 0.9 * start + 0.1 * expected_of(name, xs))
    assert layer.num_batches_tracked == 1 and layer.momentum == 0.1


@pytest.mark.parametrize("name", norms())
def test_momentum_none_averages_all_updates(name):
    layer = norms()[name].double()
    layer.momentum = None
    xs = inputs(6)
    for pair in (xs[:2], xs[2:4], xs[4:]):
        with one_update([layer]) as found:
            for x in pair:
                layer(x)
                found.collect()
    torch.testing.assert_close(state(layer), expected_of(name, xs))
    assert layer.num_batches_tracked == 3 and layer.momentum is None


@pytest.mark.parametrize("wrap", [lambda m: torch.compile(m, backend="eager"), checkpoint_wrapper])
@pytest.mark.parametrize("name", norms())
def test_a_norm_behind_a_wrapper_is_one(wrap, name):
    layer = norms()[name].double()
    model = nn.Sequential(wrap(layer))
    assert tracking_layers(model) == [layer]
    xs = inputs(2)
    for pair in ([xs[0]], [xs[1]]):  # the second time, compiled code is there
        layer.reset_running_stats()
        with one_update(tracking_layers(model)) as found:
            model(pair[0].requires_grad_()).sum().backward()
            found.collect()
        start = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
        torch.testing.assert_close(state(layer), 0.9 * start + 0.1 * expected_of(name, pair))
        assert layer.num_batches_tracked == 1
    assert average_statistics(model, xs) == 2
    biased = expected_of(name.replace("bn", "sn"), xs)
    torch.testing.assert_close(state(layer), biased.detach())


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("name", norms())
def test_what_checkpointing_computes_again_counts_once(name, reentrant):
    layer = norms()[name].double()
    inside, outside = inputs(2)
    inside.requires_grad_()
    with one_update([layer]) as found:
        y = checkpoint(layer, inside, use_reentrant=reentrant)
        (y.square().sum() + layer(outside).square().sum()).backward()
        found.collect()
    start = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    expected = expected_of(name, [inside.detach(), outside])
    torch.testing.assert_close(state(layer), 0.9 * start + 0.1 * expected)
    assert layer.num_batches_tracked == 1


def test_a_compiled_network_is_not_compiled_again_each_step():
    from torch._dynamo.testing import CompileCounter

    counter = CompileCounter()
    layer = nn.BatchNorm2d(3).double()
    model = torch.compile(nn.Sequential(layer, nn.ReLU()), backend=counter, fullgraph=True)
    xs = inputs(4)
    for x in xs:
        with one_update([layer]) as found:
            model(x).sum()
            found.collect()
    assert counter.frame_count == 1 and layer.num_batches_tracked == 4
    mean = torch.zeros(3, dtype=torch.float64)
    for x in xs:
        mean = 0.9 * mean + 0.1 * moments(x, 1)[0]
    torch.testing.assert_close(layer.running_mean, mean)


@pytest.mark.parametrize("name", norms())
def test_a_layer_that_some_passes_leave_out_enters_those_it_was_in(name):
    used, other = norms()[name].double(), nn.BatchNorm2d(3).double()
    xs = inputs(3)
    with one_update([used, other]) as found:
        for x, takes_part in zip(xs, (False, True, True), strict=True):
            other(x)
            if takes_part:
                used(x)
            found.collect()
    start = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    torch.testing.assert_close(state(used), 0.9 * start + 0.1 * expected_of(name, xs[1:]))


@pytest.mark.parametrize("name", norms())
@pytest.mark.parametrize("switch", ["eval", "track"])
def test_layers_that_are_switched_off_keep_their_statistics(name, switch):
    layer, other = norms()[name].double(), nn.BatchNorm2d(3).double()
    nn.init.normal_(layer.running_mean)
    before = copy.deepcopy(layer.state_dict())
    with one_update([layer, other]) as found:
        if switch == "eval":
            layer.eval()
        else:
            layer.track_running_stats = False
        for x in inputs(3):
            other(layer(x))
            found.collect()
    after = layer.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert other.num_batches_tracked == 1


class Counterless(nn.Module):
    """A norm with running statistics and no counter."""

    def __init__(self, shape=(3,)):
        super().__init__()
        self.momentum = 0.1
        self.register_buffer("running_mean", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("running_var", torch.ones(shape, dtype=torch.float64))

    def forward(self, x):
        mean, var = moments(x.detach(), 0)
        if self.training:
            self.running_mean.lerp_(mean.view_as(self.running_mean), self.momentum)
            self.running_var.lerp_(var.view_as(self.running_var), self.momentum)
        return x - mean.view(1, -1, 1, 1)


@pytest.mark.parametrize("shape", [(3,), (1, 3, 1)])
def test_norms_of_others_without_a_counter(shape):
    layer = Counterless(shape)
    xs = inputs(4)
    with one_update(tracking_layers(layer)) as found:
        for x in xs:
            layer(x)
        found.collect()
    mean, var = expected_of("sn", xs)
    torch.testing.assert_close(layer.running_mean.flatten(), 0.1 * mean)
    assert average_statistics(nn.Sequential(layer), xs) == 4
    torch.testing.assert_close(layer.running_mean.flatten(), mean)
    torch.testing.assert_close(layer.running_var.flatten(), var)


def test_instance_norm_in_one_update_is_what_it_does_by_itself():
    ours = nn.InstanceNorm2d(3, track_running_stats=True).double()
    plain = copy.deepcopy(ours)
    (x,) = inputs(1)
    with one_update([ours]) as found:
        ours(x)
        found.collect()
    plain(x)
    for one, other in zip(ours.state_dict().items(), plain.state_dict().items(), strict=True):
        assert one[0] == other[0]
        torch.testing.assert_close(one[1], other[1])


@pytest.mark.parametrize("name", ["bn", "sn", "syncbn", "syncsn", "ghost bn", "ghost sn"])
def test_statistics_that_are_switched_off_later_stay(name):
    kind = name.removeprefix("ghost ")
    options = {"group_size": 2} if "ghost" in name else {}
    layer = create_norm(kind, 2, **options)(3).double()
    plain = copy.deepcopy(layer)
    first, second, third = inputs(3)
    layer(first), plain(first)
    layer.track_running_stats = False
    before = copy.deepcopy(layer.state_dict())
    torch.testing.assert_close(layer(second), plain(second))
    assert all(torch.equal(layer.state_dict()[key], value) for key, value in before.items())
    assert tracking_layers(layer) == []
    with pytest.warns(UserWarning, match="no layer that keeps running statistics"):
        assert average_statistics(nn.Sequential(layer), [first]) == 0
    evaluated = layer.eval()(third)
    reference = copy.deepcopy(layer)
    reference.track_running_stats = True
    torch.testing.assert_close(evaluated, reference.eval()(third))
    layer.train().track_running_stats = True
    layer(third)
    assert not torch.equal(layer.running_mean, before["running_mean"])


def test_every_pass_of_a_step_finds_the_same_statistics():
    """Batch Renormalization normalizes with them while training."""
    layer = create_norm("brn", 2, schedule=(0, 0, 0))(3).double()
    nn.init.normal_(layer.running_mean)
    alone = copy.deepcopy(layer)
    first, second = inputs(2)
    with one_update([layer]) as found:
        layer(first)
        found.collect()
        y = layer(second)
        found.collect()
    torch.testing.assert_close(y, alone(second))


def test_batch_renormalization_is_averaged_as_batch_normalization():
    xs = inputs(3)
    for options in ({}, {"group_size": 2}):
        layers = [create_norm(name, 2, **options)(3).double() for name in ("brn", "bn")]
        for layer in layers:
            average_statistics(nn.Sequential(layer), xs, "population")
        torch.testing.assert_close(state(layers[0]), state(layers[1]))


@pytest.mark.parametrize("name", ["sn", "ghost sn"])
def test_empty_and_named_inputs(name):
    layer = norms()[name].double()
    (x,) = inputs(1)
    with one_update([layer]) as found:
        layer(x[:0])
        layer(input=x)
        found.collect()
    start = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    torch.testing.assert_close(state(layer), 0.9 * start + 0.1 * expected_of(name, [x]))


@pytest.mark.parametrize("name", norms())
@pytest.mark.parametrize("momentum", [0.1, None])
def test_a_layer_that_no_pass_has_used_stays(name, momentum):
    used, unused = norms()[name].double(), norms()[name].double()
    unused.momentum = momentum
    nn.init.normal_(unused.running_mean)
    before = copy.deepcopy(unused.state_dict())
    with one_update([used, unused]) as found:
        for x in inputs(3):
            used(x)
            found.collect()
    after = unused.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert used.num_batches_tracked == 1


def test_a_pass_that_is_not_collected_is_an_error():
    """It would leave the statistics as they were without a word."""
    layer, x = SwitchNorm2d(4), torch.randn(4, 4, 3, 3)
    before = layer.running_mean.clone()
    with pytest.raises(RuntimeError, match="call collect"), one_update([layer]):
        layer(x)
    with pytest.raises(RuntimeError, match="call collect"), one_update([layer]) as found:
        layer(x)
        found.collect()
        layer(x)
    assert torch.equal(layer.running_mean, before)
    with one_update([layer]) as found:  # in evaluation nothing moves
        layer.eval()(x)
