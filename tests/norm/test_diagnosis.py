"""Diagnosis of whole networks: the tables that it takes, and what it leaves as found."""

import copy
import math

import pytest
import torch
from timm.layers import LayerNorm2d
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from snvideo import create_model
from snvideo.norm import NORMS, convert_norm, create_norm
from snvideo.norm.advice import FINE, MIXED, advise, network_noise, stages_of
from snvideo.norm.diagnosis import SIZES, NormDiagnosis, diagnose

CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def network(norm="bn", dims=2, **options) -> nn.Sequential:
    layer, conv = create_norm(norm, dims, **options), CONVS[dims]
    torch.manual_seed(0)
    return nn.Sequential(conv(3, 8, 3), layer(8), nn.ReLU(), conv(8, 6, 3), layer(6))


def batches(number=6, clips=4, dims=2, seed=1) -> list[torch.Tensor]:
    """Clips of different brightness."""
    generator = torch.Generator().manual_seed(seed)
    shape = (clips, 3, *(8,) * dims)
    bright = [torch.randn(clips, *(1,) * (dims + 1), generator=generator) for _ in range(number)]
    return [torch.randn(shape, generator=generator) + one for one in bright]


def noise_of(groups: list[torch.Tensor]) -> float:
    """Noise by its definition, from the groups (b, C, ...) that a layer has seen."""
    flat = [group.double().transpose(0, 1).flatten(1) for group in groups]
    clips = torch.cat([group.double().flatten(2) for group in groups])
    means = torch.stack([one.mean(1) for one in flat])
    variances = torch.stack([one.var(1, correction=0) for one in flat])
    sigma2 = clips.var(2, correction=0).mean(0) + clips.mean(2).var(0)
    delta = means.var(0) / sigma2
    epsilon = (variances.var(0) + (variances.mean(0) - sigma2) ** 2) / sigma2**2
    return float((delta + epsilon / 4).mean().sqrt())


def inputs_of(model: nn.Module, passes: list[torch.Tensor]) -> dict[str, list[torch.Tensor]]:
    """What the norms are given in training mode."""
    model, seen = copy.deepcopy(model).train(), {}
    for name in ("1", "4"):
        keep = lambda _, args, name=name: seen.setdefault(name, []).append(args[0].detach())  # noqa: E731
        model.get_submodule(name).register_forward_pre_hook(keep)
    for x in passes:
        model(x)
    return seen


@pytest.mark.parametrize("norm", ["bn", "sn", "gn"])
def test_noise_by_brute_force(norm):
    model, passes = network(norm), batches()
    seen = inputs_of(model, passes)
    found = diagnose(model, passes).layers
    assert [layer.layer for layer in found] == ["1", "4"]
    for layer in found:
        assert (layer.clips, layer.group) == (24, 4)
        assert layer.noise == pytest.approx(noise_of(seen[layer.layer]), rel=1e-4)
        parts = layer.mean_error**2 + layer.variance_error**2 / 4
        assert layer.noise == pytest.approx(math.sqrt(parts))
        assert layer.distances["batch"] == layer.noise
        assert layer.distances["instance"] == layer.noise_by_size[1]


def test_groups_are_those_of_the_layers_or_as_asked():
    passes = batches(number=2, clips=12)
    own = diagnose(network("bn", group_size=2), passes).layers
    assert [layer.group for layer in own] == [2, 2]
    asked = diagnose(network("bn", group_size=2), passes, clips_per_group=3).layers
    assert [layer.group for layer in asked] == [3, 3]
    assert sorted(asked[0].noise_by_size) == sorted({*SIZES, 3})
    assert diagnose(network("bn"), passes).layers[0].group == 12
    small = network("bn", group_size=2)
    seen = [half for x in inputs_of(small, passes)["4"] for half in x.split(2)]
    assert own[1].noise == pytest.approx(noise_of(seen), rel=1e-4)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_every_norm_takes_part(dims):
    """The first norm is given the same by all; the figures do not depend on what it does."""
    passes = batches(dims=dims)
    found = {norm: diagnose(network(norm, dims), passes).layers for norm in NORMS}
    first = {norm: layers[0] for norm, layers in found.items()}
    assert all(len(layers) == 2 for layers in found.values())
    for layer in first.values():
        assert layer.noise == pytest.approx(first["bn"].noise, rel=1e-5)
        assert layer.noise_by_size == pytest.approx(first["bn"].noise_by_size, rel=1e-5)
        assert layer.positions == 6**dims


def test_norms_of_one_clip_hide_the_noise_behind_them():
    """Why advice goes by batch norms of large groups, as the docstring says."""
    passes = batches(number=8, clips=16)
    alone = network("bn", group_size=1)
    large = convert_norm_of(alone)
    hidden, shown = (diagnose(m, passes, 1).layers[1].noise for m in (alone, large))
    assert hidden < 0.7 * shown


def convert_norm_of(model: nn.Module) -> nn.Module:
    model = copy.deepcopy(model)
    convert_norm(model, "bn", group_size=None)
    return model


def test_all_is_left_as_found():
    model = nn.Sequential(*network("bn"), nn.Dropout(), *network("frozen_bn")[1:2])
    model = nn.Sequential(model[:-1], nn.Conv2d(6, 8, 1), model[-1])
    model.eval()
    model[0][3].train()
    model[0][0].weight.grad = torch.ones_like(model[0][0].weight)
    state = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    generator = torch.get_rng_state()
    found = diagnose(model, batches())
    assert len(found.layers) == 3
    assert torch.equal(torch.get_rng_state(), generator)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert torch.equal(model[0][0].weight.grad, torch.ones_like(model[0][0].weight))
    assert all(one.grad is None for one in list(model.parameters())[1:])
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert diagnose(model, batches()) == found  # masks of dropout, too


def test_a_failing_pass_leaves_all_as_found():
    model = network("bn").eval()
    state = copy.deepcopy(model.state_dict())
    with pytest.raises(RuntimeError):
        diagnose(model, [*batches(1), torch.zeros(4, 5, 8, 8)])
    assert not model[1].training and not model[1]._forward_pre_hooks
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())


def test_frozen_parts_stay_frozen():
    """A network in training mode is taken as it is."""
    model = network("bn").train()
    model[1].eval()
    model[1].running_mean -= 0.5
    moved = diagnose(model, batches()).layers[1]
    assert moved.noise != diagnose(network("bn").train(), batches()).layers[1].noise
    assert not model[1].training


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    layer = nn.Sequential(nn.BatchNorm2d(3))
    passes = [1000 + 50 * x for x in batches()]
    rounded = [x.to(dtype).float() for x in passes]
    half = [x.to(dtype) for x in passes]
    found = diagnose(layer.to(dtype), half).layers[0]
    assert found.noise == pytest.approx(diagnose(layer.float(), rounded).layers[0].noise, rel=1e-4)


class Twice(nn.Module):
    """A norm used twice, and one that is never used."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.spare = nn.BatchNorm2d(3), nn.GroupNorm(1, 4)

    def forward(self, x):
        return self.norm(x.abs()) + self.norm(x * x.mean((2, 3), keepdim=True))


def test_each_use_of_a_norm_has_its_own_figures():
    found = diagnose(Twice(), batches())
    assert [(layer.layer, layer.use) for layer in found.layers] == [("norm", 1), ("norm", 2)]
    first, second = found.layers
    alone = diagnose(nn.Sequential(nn.BatchNorm2d(3)), [x.abs() for x in batches()]).layers[0]
    assert first.noise == pytest.approx(alone.noise) and second.noise != first.noise
    assert found.left_out == {"spare": "no pass used it"}


def test_constant_channels_are_counted_and_left_out():
    passes = [x[:, :1] for x in batches()]
    alone = diagnose(nn.Sequential(nn.BatchNorm2d(1)), passes).layers[0]
    padded = [torch.cat([x, torch.full_like(x, 0.1), torch.zeros_like(x)], 1) for x in passes]
    found = diagnose(nn.Sequential(nn.BatchNorm2d(3)), padded).layers[0]
    assert (found.channels, found.constant) == (3, 2)
    assert found.noise == pytest.approx(alone.noise)
    assert found.effective_samples == pytest.approx(alone.effective_samples)
    constant = diagnose(nn.Sequential(nn.BatchNorm2d(3)), [torch.ones(4, 3, 5, 5)] * 2)
    assert constant.layers == []
    assert constant.left_out == {"0": "all of its 3 channels are constant"}


def test_one_position_and_one_channel():
    passes = [x[:, :1, 0, 0] for x in batches(number=40)]
    found = diagnose(nn.Sequential(nn.BatchNorm1d(1)), passes).layers[0]
    assert (found.positions, found.channels) == (1, 1)
    assert found.effective_samples == pytest.approx(1)


@pytest.mark.parametrize(
    ("model", "passes", "group", "message"),
    [
        (nn.Sequential(nn.Conv2d(3, 3, 1)), batches(), None, "no norm"),
        (network(), [], None, "no batches"),
        (network(), batches(1), None, "at least two groups of 4 clips"),
        (network(), batches(), 3, "whole groups of 3 clips (got 4)"),
        (network(), batches(), 0, "1 or more (got 0)"),
        (network(), [*batches(2), *batches(1, 3)], None, "one size (got 3 clips after 4)"),
        (network(), [*batches(2), *batches(1, 3)], 2, "whole groups of 2 clips (got 3)"),
        (
            network(),
            [x / 0 for x in batches()],
            None,
            "norm '1' was given values that are not finite",
        ),
        (network(), [3], None, "expected batches with a tensor"),
    ],
)
def test_errors_name_the_fault(model, passes, group, message):
    with pytest.raises(ValueError) as raised:
        diagnose(model, passes, group)
    assert message in str(raised.value)


class Folded(nn.Module):
    """A network that takes the frames of a clip as samples, and shows its norm one sample less."""

    def __init__(self, lost: int = 0) -> None:
        super().__init__()
        self.norm, self.lost = nn.BatchNorm2d(3), lost

    def forward(self, x):
        return self.norm(x.transpose(1, 2).flatten(0, 1)[self.lost :])


def test_samples_of_a_clip_count_as_the_clip():
    passes = batches(dims=3)
    found = diagnose(Folded(), passes).layers[0]
    whole = diagnose(nn.Sequential(nn.BatchNorm3d(3)), passes).layers[0]
    assert (found.clips, found.group, found.positions) == (24, 4, 512)
    assert found.noise == pytest.approx(whole.noise)
    lost = diagnose(Folded(lost=1), passes).left_out
    assert lost == {"norm": "it saw 31 samples in a pass of 4 clips"}
    shorter = diagnose(Folded(), [*passes, passes[0][:, :, :6]]).left_out
    assert shorter == {"norm": "it saw 8 samples of a clip, and 6 in another pass"}


def test_layer_norm_over_last_channels():
    passes = batches()
    last = [x.movedim(1, -1) for x in passes]
    found = diagnose(nn.Sequential(nn.LayerNorm(3)), last).layers[0]
    assert found.noise == pytest.approx(
        diagnose(nn.Sequential(nn.BatchNorm2d(3)), passes).layers[0].noise
    )
    assert found.positions == 64


def test_unknown_norms_are_named():
    model = nn.Sequential(nn.BatchNorm2d(3), LayerNorm2d(3), FrozenBatchNorm2d(3))
    left_out = diagnose(model, batches()).left_out
    assert left_out["1"] == "no known layout: LayerNorm2d"
    assert list(left_out) == ["1", "2"]


def test_two_pathways():
    model = create_model("slowfast_tiny", 4, "bn", 0.0)
    passes = [torch.randn(4, 3, 32, 32, 32)[:, :, :, ::2, ::2] for _ in range(2)]
    found = diagnose(model, passes, 2)
    assert not found.left_out
    assert {layer.layer for layer in found.layers} == {
        name for name, m in model.named_modules() if isinstance(m, nn.BatchNorm3d)
    }


def test_batches_with_labels_or_of_several_inputs():
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(3)

        def forward(self, inputs):
            return self.norm(inputs["clip"])

    passes = batches()
    plain = diagnose(nn.Sequential(nn.BatchNorm2d(3)), passes).layers[0].noise
    labelled = [(x, torch.zeros(4)) for x in passes]
    assert diagnose(nn.Sequential(nn.BatchNorm2d(3)), labelled).layers[0].noise == plain
    assert diagnose(Named(), [{"clip": x} for x in passes]).layers[0].noise == plain


# Advice -----------------------------------------------------------------------------------------


def layer(name: str, one: float, group: int = 2, power: float = 0.5) -> NormDiagnosis:
    """A norm whose noise with one clip is given."""
    noise = {size: one / size**power for size in SIZES}
    distances = {"instance": one, "group": 1.0, "layer": 1.0, "batch": noise[group]}
    size = {"channels": 8, "constant": 0, "positions": 64, "clips": 64, "group": group}
    return NormDiagnosis(
        *(name, 1, "BatchNorm3d"), **size, mean_error=0, variance_error=0, noise=noise[group],
        noise_by_size=noise, distances=distances, channel_groups=8, effective_samples=4,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("one", "group", "most", "pretrained", "choice", "clips"),
    [
        (0.2, 8, None, False, "batch", 1),
        (0.6, 8, None, False, "batch", 8),
        (0.6, 2, None, False, "groups", 8),
        (0.6, 2, 8, True, "groups", 8),
        (0.6, 2, 4, False, "sn", None),
        (0.6, 2, 4, True, "freeze", None),
        (0.9, 2, 4, False, "gn", None),
        (0.4, 1, 1, False, "gn", None),  # SN has no batch part
        (5.0, 32, None, False, "gn", None),
    ],
)
def test_advice(one, group, most, pretrained, choice, clips):
    (found,) = advise([layer("a", one, group)], pretrained=pretrained, most_clips=most)
    assert (found.choice, found.clips) == (choice, clips)
    assert f"noise {one / group**0.5:.2f} with {group} clip" in str(found)
    assert ("or else use SN" in str(found)) == (choice == "groups" and not pretrained)
    assert ("or else freeze" in str(found)) == (choice == "groups" and pretrained)
    assert FINE < MIXED


def test_advice_is_by_stage():
    layers = [layer("res2.a", 0.1), layer("res2.b", 0.7), layer("res5.a", 0.3)]
    found = {one.stage: one for one in advise(layers)}
    assert list(found) == ["res2", "res5"]
    assert found["res2"].noise_by_size[1] == pytest.approx(0.5)  # root mean square
    assert found["res2"].layers == 2 and found["res5"].layers == 1
    with pytest.raises(ValueError, match="one size of groups"):
        advise([layer("a", 0.1, 2), layer("b", 0.1, 4)])


@pytest.mark.parametrize(
    ("names", "stages"),
    [
        (["bn1", "layer1.0.bn1", "layer1.1.bn1"], ["bn1", "layer1", "layer1"]),
        (["blocks.0.norm", "blocks.1.x.norm"], ["blocks.0", "blocks.1"]),
        (["module.a.norm", "module.b.norm"], ["module.a", "module.b"]),
        (["body.norm"], ["body"]),
        (["norm"], ["norm"]),
        ([""], [""]),
    ],
)
def test_stages_of_names(names, stages):
    assert list(stages_of(names).values()) == stages


def test_network_noise_is_the_median():
    layers = [layer("a", 0.2), layer("b", 0.4), layer("c", 5.0)]
    assert network_noise(layers, 1) == 0.4
    assert network_noise(layers) == pytest.approx(0.4 / 2**0.5)
    with pytest.raises(ValueError, match="not 3"):
        network_noise(layers, 3)
    with pytest.raises(ValueError, match="no norm"):
        network_noise([])
