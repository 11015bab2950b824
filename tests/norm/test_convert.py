"""Exchange of norms: what is shared, given, frozen, missing, foreign, lazy or hooked."""

import copy
from functools import partial

import pytest
import torch
from timm.layers import BatchNormAct2d, GroupNormAct
from timm.layers.split_batchnorm import SplitBatchNorm2d
from torch import nn
from torch.nn.utils import weight_norm

from snvideo.norm import (
    BatchNorm2d,
    SwitchNorm,
    SwitchNorm1d,
    SwitchNorm2d,
    SwitchNorm3d,
    convert_norm,
)


class Shared(nn.Module):
    """One norm in two places, by two names in one of them."""

    def __init__(self):
        super().__init__()
        self.first = nn.BatchNorm2d(3)
        self.again = self.first
        self.inner = nn.ModuleDict({"norm": self.first})


def test_a_shared_norm_becomes_one_shared_norm():
    model = Shared()
    assert convert_norm(model, "sn") == [("first", "BatchNorm2d", "SwitchNorm2d")]
    assert isinstance(model.first, SwitchNorm2d)
    assert model.first is model.again is model.inner["norm"]
    assert convert_norm(model, "sn") == []


def test_a_shared_parent_and_tied_parameters_stay_so():
    block = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(3))
    block[1].weight = block[0].weight
    model = nn.Sequential(block, nn.ReLU(), block)
    optimized = list(model.parameters())
    assert len(convert_norm(model, "sn")) == 2
    assert model[0] is model[2] and model[0][0].weight is model[0][1].weight
    assert model[0][0].bias is not model[0][1].bias
    kept = [any(parameter is new for new in model.parameters()) for parameter in optimized]
    assert all(kept)  # an optimizer goes on with them


@pytest.mark.parametrize(
    "given",
    [{"eps": 0.5}, {"momentum": 0.5}, {"momentum": None}, {"affine": False}, {"bias": False}],
)
@pytest.mark.parametrize("norm", ["sn", "bn", "partial"])
def test_what_is_given_comes_before_what_was(norm, given):
    if norm == "bn" and "bias" in given and not hasattr(nn.BatchNorm2d(3), "bias"):
        pytest.skip("of later versions of torch")
    model = nn.Sequential(nn.BatchNorm2d(3, eps=0.1, momentum=0.2))
    if norm == "partial":
        convert_norm(model, partial(partial(BatchNorm2d, **given), group_size=2))
    else:
        convert_norm(model, norm, **given)
    layer = model[0]
    expected = {"eps": 0.1, "momentum": 0.2, "affine": True} | given
    assert (layer.eps, layer.momentum) == (expected["eps"], expected["momentum"])
    assert layer.affine == expected["affine"] == (layer.weight is not None)
    assert (layer.bias is not None) == (expected["affine"] and expected.get("bias", True))


@pytest.mark.parametrize("new", ["sn", "bn", "in", "gn", "ln", "frozen_bn", "syncsn"])
@pytest.mark.parametrize(
    "old",
    [
        nn.BatchNorm2d(4, affine=False),
        nn.BatchNorm2d(4, track_running_stats=False),
        nn.GroupNorm(2, 4, affine=False),
        nn.InstanceNorm2d(4),
        SwitchNorm2d(4, affine=False),
    ],
    ids=str,
)
def test_what_an_old_norm_lacks_a_new_one_lacks(old, new):
    model = nn.Sequential(nn.Conv2d(3, 4, 1), copy.deepcopy(old))
    convert_norm(model, new)
    layer = model[1]
    assert (layer.weight is None) == (layer.bias is None) == (old.weight is None)
    assert layer.affine == (old.weight is not None)
    if new in ("sn", "bn", "syncsn") and isinstance(old, nn.BatchNorm2d):
        assert layer.track_running_stats == old.track_running_stats
        assert (layer.running_mean is None) == (old.running_mean is None)
    elif new in ("sn", "bn", "syncsn"):
        assert layer.running_mean is not None
    assert model(torch.randn(2, 3, 4, 4)).shape == (2, 4, 4, 4)
    assert convert_norm(model, new) == []


def test_a_norm_without_bias_stays_without():
    old = nn.BatchNorm2d(4)
    old.bias = None
    for new in ("sn", "bn", "gn", "in"):
        model = nn.Sequential(nn.Conv2d(3, 4, 1), copy.deepcopy(old))
        convert_norm(model, new, eps=0.3)
        assert model[1].weight is not None and model[1].bias is None
        model(torch.randn(2, 3, 4, 4))


def test_affine_parameters_can_be_given_anew():
    model = nn.Sequential(nn.BatchNorm2d(4, affine=False))
    convert_norm(model, "sn", affine=True)
    assert torch.equal(model[0].weight, torch.ones(4)) and torch.equal(
        model[0].bias, torch.zeros(4)
    )


def test_instance_norm_keeps_its_statistics():
    old = nn.InstanceNorm2d(4, affine=True, track_running_stats=True)
    nn.init.normal_(old.running_mean)
    model = nn.Sequential(old)
    convert_norm(model, "in", eps=0.1)
    assert model[0].track_running_stats and model[0].running_mean is old.running_mean


def test_statistics_that_are_switched_off_stay_so():
    old = nn.BatchNorm2d(4)
    old.track_running_stats = False
    model = nn.Sequential(old)
    convert_norm(model, "sn")
    assert not model[0].track_running_stats and model[0].running_mean is old.running_mean


@pytest.mark.parametrize("new", ["sn", "bn", "gn"])
@pytest.mark.parametrize("trained", [(True, True), (True, False), (False, True), (False, False)])
def test_frozen_parameters_stay_frozen(new, trained):
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    model[1].weight.requires_grad, model[1].bias.requires_grad = trained
    convert_norm(model, new, eps=0.1)
    layer = model[1]
    assert (layer.weight.requires_grad, layer.bias.requires_grad) == trained
    if new == "sn":
        assert layer.mean_logits.requires_grad == layer.var_logits.requires_grad == any(trained)


def test_a_norm_without_parameters_is_as_frozen_as_its_network():
    for trained in (True, False):
        model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, affine=False))
        model.requires_grad_(trained)
        convert_norm(model, "sn")
        assert model[1].mean_logits.requires_grad == trained


def test_frozen_logits_stay_frozen_and_frozen_norms_are_frozen():
    model = nn.Sequential(SwitchNorm2d(4))
    model[0].var_logits.requires_grad = False
    convert_norm(model, "sn", group_size=2)
    assert model[0].mean_logits.requires_grad and not model[0].var_logits.requires_grad
    weight = model[0].weight
    convert_norm(model, "frozen_bn")
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert weight.requires_grad and torch.equal(model[0].weight, weight)
    assert not model.train()[0].training


def test_mode_device_and_dtype_are_kept_a_tensor_each():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.BatchNorm2d(4).eval())
    model[1].weight.data = model[1].weight.data.double()
    model[2].bfloat16()
    convert_norm(model, "sn")
    assert model[1].training and not model[2].training
    assert model[1].weight.dtype == torch.float64 and model[1].bias.dtype == torch.float32
    assert {t.dtype for t in model[2].parameters()} == {torch.bfloat16}
    assert model[2].running_mean.dtype == torch.bfloat16
    convert_norm(model, "sn", dtype=torch.float64, group_size=2)
    floats = [t for t in (*model[2].parameters(), *model[2].buffers()) if t.is_floating_point()]
    assert {t.dtype for t in floats} == {torch.float64}


def test_meta_networks():
    with torch.device("meta"):
        model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), BatchNormAct2d(4))
        bare = nn.Sequential(nn.BatchNorm2d(4, affine=False, track_running_stats=False))
        bare.extra = nn.Linear(2, 2)
    for net in (model, bare):
        assert convert_norm(net, "sn")
        assert all(t.is_meta for t in (*net.parameters(), *net.buffers()))
    real = nn.Sequential(nn.BatchNorm2d(4))
    with torch.device("meta"):
        convert_norm(real, "sn")
    assert not any(t.is_meta for t in (*real.parameters(), *real.buffers()))


@pytest.mark.parametrize("norm", [nn.LazyBatchNorm2d(), nn.LazyBatchNorm2d(affine=False)])
def test_lazy_networks(norm):
    model = nn.Sequential(nn.LazyConv2d(4, 1), norm)
    with pytest.raises(
        ValueError, match=r"norm '1' \(LazyBatchNorm2d\) does not know its channels"
    ):
        convert_norm(model, "sn")
    convert_norm(model, "sn", example=torch.randn(2, 3, 4, 4))
    assert isinstance(model[1], SwitchNorm2d) and model[1].num_features == 4


class GroupNorm32(nn.GroupNorm):
    """As of diffusion models: a number in the name that is none of dimensions."""

    def forward(self, x):
        return super().forward(x.float()).type(x.dtype)


class BatchNorm2dSync(nn.modules.batchnorm._BatchNorm):
    def _check_input_dim(self, x):
        pass


class Norm1D(nn.modules.batchnorm._BatchNorm):
    def _check_input_dim(self, x):
        pass


@pytest.mark.parametrize(
    ("old", "dims", "expected"),
    [
        (GroupNorm32(2, 4), 2, SwitchNorm2d),
        (GroupNorm32(2, 4), 3, SwitchNorm3d),
        (BatchNorm2dSync(4), 3, SwitchNorm2d),
        (Norm1D(4), 3, SwitchNorm1d),
        (nn.SyncBatchNorm(4), 1, SwitchNorm1d),
        (SwitchNorm(4, affine=False), 1, SwitchNorm1d),
        (nn.BatchNorm1d(4), 3, SwitchNorm1d),
    ],
)
def test_dimensions_by_name_or_as_given(old, dims, expected):
    model = nn.Sequential(old)
    convert_norm(model, "sn", dims)
    assert type(model[0]) is expected


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("old", [nn.GroupNorm(2, 4), nn.SyncBatchNorm(4), GroupNorm32(1, 4)])
def test_dimensions_by_convolutions_or_by_a_run(old, dims):
    convolutions = nn.Conv1d, nn.Conv2d, nn.Conv3d
    expected = (SwitchNorm1d, SwitchNorm2d, SwitchNorm3d)[dims - 1]
    transposed = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[dims - 1]
    for layer in (convolutions[dims - 1], transposed):
        model = nn.Sequential(layer(3, 4, 1), copy.deepcopy(old))
        convert_norm(model, "sn")
        assert type(model[1]) is expected
    model = nn.Sequential(copy.deepcopy(old), nn.Identity())
    model.unused = nn.ModuleList([nn.Conv2d(1, 1, 1), nn.Conv3d(1, 1, 1)]) if dims == 1 else None
    model.forward = lambda x: model[0](x)
    with pytest.raises(ValueError, match=r"norm '0' \(\w+\) does not tell its dimensions: give"):
        convert_norm(model, "sn")
    assert convert_norm(copy.deepcopy(model), "gn", eps=0.2)  # the same for all dimensions
    x = torch.randn(2, 4, *(3,) * dims)
    before = copy.deepcopy(model[0].state_dict())
    convert_norm(model, "sn", example=x)
    assert type(model[0]) is expected and model[0].training
    assert all(torch.equal(model[0].state_dict()[name], value) for name, value in before.items())


def test_a_run_tells_networks_of_several_dimensions_apart():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.video, self.image = nn.Conv3d(3, 4, 1), nn.Conv2d(4, 4, 1)
            self.norms = nn.ModuleList(nn.GroupNorm(2, 4) for _ in range(3))

        def forward(self, x, scale):
            x = self.norms[0](self.video(x)).mean(2)
            x = self.norms[1](self.image(x)).mean((2, 3))
            return self.norms[2](x) * scale

    model = Mixed()
    with pytest.raises(ValueError, match="does not tell its dimensions"):
        convert_norm(model, "sn")
    convert_norm(model, "sn", example=(torch.randn(2, 3, 2, 4, 4), 2))
    assert [type(norm) for norm in model.norms] == [SwitchNorm3d, SwitchNorm2d, SwitchNorm1d]


class Conditional(nn.BatchNorm2d):
    """Weight and bias by class."""

    def __init__(self, channels):
        super().__init__(channels, affine=False)
        self.embed = nn.Embedding(5, channels)

    def forward(self, x, label):
        return super().forward(x) * self.embed(label)[..., None, None]


class HiddenActivation(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x).relu()


class Spectral(nn.BatchNorm2d):
    def __init__(self, channels):
        super().__init__(channels)
        self.register_buffer("rate", torch.ones(()))


def patched():
    norm = nn.BatchNorm2d(4)
    plain = norm.forward
    norm.forward = lambda x: plain(x) + 1
    return norm


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(
    "create",
    [
        lambda: SplitBatchNorm2d(4),
        lambda: Conditional(4),
        lambda: weight_norm(nn.BatchNorm2d(4), dim=None),
        lambda: nn.utils.parametrize.register_parametrization(
            nn.BatchNorm2d(4), "weight", nn.Softplus()
        ),
        lambda: Spectral(4),
        lambda: HiddenActivation(4),
        patched,
    ],
    ids=["split", "conditional", "weight_norm", "parametrized", "buffer", "activation", "patched"],
)
def test_norms_that_do_more_are_refused_and_nothing_has_changed(create, device):
    model = nn.Sequential(nn.BatchNorm2d(4), create())
    if device == "meta":
        if create is patched or isinstance(model[1], HiddenActivation):
            pytest.skip("without values nobody can tell")
        model.to("meta")
    before = list(model)
    with pytest.raises(ValueError, match=r"norm '1' \(\w+\) does more than normalize"):
        convert_norm(model, "sn")
    assert list(model) == before


class BatchNormMixed(nn.BatchNorm2d):
    """One with a forward pass of its own that normalizes."""

    def forward(self, x):
        return nn.functional.batch_norm(
            x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training,
            0.1,
            self.eps,
        )


@pytest.mark.parametrize(
    "old",
    [
        BatchNormMixed(4),
        GroupNorm32(2, 4),
        BatchNormAct2d(4),
        BatchNormAct2d(4, act_layer=nn.PReLU),
        GroupNormAct(4, num_groups=2),
    ],
)
def test_norms_that_normalize_their_way_are_exchanged(old):
    model = nn.Sequential(nn.Conv2d(3, 4, 1), old).eval()
    random = torch.get_rng_state()
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    act = getattr(old, "act", nn.Identity())
    assert len(convert_norm(model, "bn")) == 1
    assert torch.equal(torch.get_rng_state(), random)
    norm = model[1][0] if isinstance(model[1], nn.Sequential) else model[1]
    assert isinstance(norm, BatchNorm2d) and not norm.training and not model[1].training
    torch.testing.assert_close(model(x), act(norm(model[0](x))))


@pytest.mark.parametrize("old", [nn.BatchNorm2d(4), BatchNormAct2d(4)])
def test_hooks_go_on_and_their_handles_remove_them(old):
    model = nn.Sequential(old)
    calls = []
    handles = [
        old.register_forward_hook(lambda *_: calls.append("forward")),
        old.register_forward_pre_hook(lambda *_: calls.append("pre")),
        old.register_full_backward_hook(lambda *_: calls.append("backward")),
        old.register_forward_hook(lambda *_, **__: calls.append("keywords"), with_kwargs=True),
    ]
    convert_norm(model, "sn")
    x = torch.randn(2, 4, 3, 3, requires_grad=True)
    model(x).sum().backward()
    assert calls == ["pre", "forward", "keywords", "backward"]
    for handle in handles:
        handle.remove()
    calls.clear()
    model(x).sum().backward()
    assert not calls


def test_logits_of_another_mixture_start_anew():
    model = nn.Sequential(SwitchNorm2d(4, use_batch=False))
    nn.init.normal_(model[0].mean_logits)
    convert_norm(model, "sn")
    assert torch.equal(model[0].mean_logits, torch.zeros(3))
    nn.init.normal_(model[0].mean_logits)
    convert_norm(model, "sn", parts=("group", "layer", "batch"))
    assert torch.equal(model[0].mean_logits, torch.zeros(3))
    nn.init.normal_(model[0].mean_logits)
    logits = model[0].mean_logits
    convert_norm(model, "sn", parts=("group", "layer", "batch"), groups=2)
    assert model[0].mean_logits is logits


def test_compiled_networks():
    model = torch.compile(nn.Sequential(nn.BatchNorm2d(4)), backend="eager")
    convert_norm(model, "sn")
    assert isinstance(model._orig_mod[0], SwitchNorm2d)
    model = nn.Sequential(torch.compile(nn.BatchNorm2d(4), backend="eager"))
    with pytest.raises(ValueError, match=r"convert_norm goes before torch\.compile"):
        convert_norm(model, "sn")


def test_an_error_of_an_option_changes_nothing():
    model = nn.Sequential(nn.BatchNorm2d(4), nn.BatchNorm2d(4))
    before = list(model)
    with pytest.raises(TypeError):
        convert_norm(model, "sn", colour="red")
    assert list(model) == before


def test_settings_that_get_lost_are_told(caplog):
    grouped = nn.Sequential(BatchNorm2d(4, group_size=2), BatchNorm2d(4, group_size=2))
    convert_norm(grouped, "sn")
    assert "2 norms had group_size 2, as 0, which the new ones have not" in caplog.text
    caplog.clear()
    mixed = nn.Sequential(SwitchNorm2d(4, parts=("group", "layer"), groups=2))
    convert_norm(mixed, "syncsn")
    assert "1 norms had mixture" in caplog.text
    caplog.clear()
    convert_norm(nn.Sequential(BatchNorm2d(4, group_size=2)), "sn", group_size=None)
    convert_norm(nn.Sequential(SwitchNorm2d(4)), "sn", parts=("layer",))
    convert_norm(nn.Sequential(nn.BatchNorm2d(4)), "sn")
    assert "give it to convert_norm" not in caplog.text


def test_a_start_by_depth_leaves_logits_that_were_learned():
    model = nn.Sequential(SwitchNorm2d(4, start="depth"), nn.BatchNorm2d(4))
    learned = model[0].mean_logits
    learned.data.copy_(torch.tensor([3.0, -3, 1]))
    convert_norm(model, "syncsn", start="depth")
    assert model[0].mean_logits is learned and learned.tolist() == [3, -3, 1]
    assert model[1].mean_logits.tolist() == [0, 3, 1.5]
