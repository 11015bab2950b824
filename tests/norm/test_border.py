"""What a norm may be handed: served rightly or refused with one line, never wrong numbers."""

import copy

import pytest
import torch
from torch import fx, nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, jvp, vmap
from torch.nn.utils import parametrize

from snvideo.norm import BatchNorm2d, SwitchNorm1d, SwitchNorm2d, SwitchNorm3d, switch_norm
from tests.norm.paths import PATHS, path_of

TABLES = ["running_mean", "running_var", "weight", "bias", "mean_logits", "var_logits"]


def inputs(shape=(3, 4, 5, 2), dtype=torch.float32):
    """x, running statistics, affine parameters and logits, none of them at its default."""
    generator = torch.Generator().manual_seed(0)
    sizes = shape, *(shape[1:2],) * 4, (3,), (3,)
    x, *tables = (torch.randn(size, generator=generator, dtype=dtype) for size in sizes)
    tables[1] = tables[1].exp()
    return x, dict(zip(TABLES, tables, strict=True))


def strided(table):
    """The same values, every second of a buffer."""
    return torch.stack([table, torch.full_like(table, 1e9)], 1).flatten()[::2]


def column(table):
    return torch.stack([table, torch.full_like(table, 1e9)], 1)[:, 0]


def at_the_end(table):
    """The same values at the end of a buffer, behind others."""
    return torch.cat([torch.full_like(table, 1e9), table])[len(table) :]


def negated(table):
    """A view whose memory holds the negative values."""
    return torch.complex(torch.zeros_like(table), -table).conj().imag


LAYOUTS = [strided, column, at_the_end, negated, torch.Tensor.double, torch.Tensor.bfloat16]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", TABLES)
def test_tables_of_any_layout_and_dtype(name, layout, training):
    x, tables = inputs()
    given = {**tables, name: layout(tables[name])}
    same = {key: table.float().contiguous().clone() for key, table in given.items()}
    results = []
    for chosen in (given, same):
        chosen = {key: t if key.startswith("run") else t.detach() for key, t in chosen.items()}
        wanted = [x, *list(chosen.values())[2:]]
        for table in wanted:
            table.requires_grad_()
        y = switch_norm(x, *chosen.values(), training)
        gradients = torch.autograd.grad(y.square().sum(), wanted)
        results.append([y, *(t.float() for t in (*gradients, *list(chosen.values())[:2]))])
    torch.testing.assert_close(
        *results, rtol=1e-2 if layout is torch.Tensor.bfloat16 else 1e-5, atol=1e-4
    )


@pytest.mark.parametrize("name", ["weight", "bias", "mean_logits", "var_logits"])
def test_an_expanded_scalar_and_a_parametrization(name):
    x, _ = inputs()
    layer, plain = SwitchNorm2d(4), SwitchNorm2d(4)
    scalar = torch.tensor(0.7)
    size = getattr(layer, name).shape
    getattr(plain, name).data.fill_(1.4)

    class Expanded(nn.Module):
        def forward(self, original):
            return 2 * scalar.expand(size)

    parametrize.register_parametrization(layer, name, Expanded())
    torch.testing.assert_close(layer(x), plain(x))


@pytest.mark.parametrize("layout", [negated, lambda x: x.mT.contiguous().mT, lambda x: x.flip(0)])
def test_inputs_of_any_layout(layout):
    x, tables = inputs()
    given = layout(x)
    expected = switch_norm(given.clone(), *copy.deepcopy(list(tables.values())), True)
    torch.testing.assert_close(switch_norm(given, *tables.values(), True), expected)


def short(table):
    return table[:-1]


def long(table):
    return torch.cat([table, table])


def as_column(table):
    return table[:, None]


def integer(table):
    return table.long()


def on_meta(table):
    return table.to("meta")


def freed(table):
    table = table.clone()
    table.untyped_storage().resize_(0)
    return table


def shortened(table):
    table = table.clone()
    table.untyped_storage().resize_(table.element_size())
    return table


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("fault", [short, long, as_column, integer, on_meta, freed, shortened])
@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("path", PATHS)
def test_wrong_tables_are_refused_by_name(name, fault, training, path):
    x, tables = inputs()
    tables[name] = fault(tables[name])
    if fault is short and name == "mean_logits":
        name = "var_logits"  # two logits are a mixture of their own
    with path_of(path), pytest.raises(RuntimeError, match=f"^{name} (should|has no data)"):
        switch_norm(x, *tables.values(), training)


def test_wrong_inputs_are_refused():
    x, tables = inputs()
    for wrong in (freed(x), shortened(x)):
        with pytest.raises(RuntimeError, match=r"^input has no data"):
            switch_norm(wrong, *tables.values(), True)
    for wrong in (x[0, 0, 0], x.long(), x + 0j):
        with pytest.raises(ValueError, match=r"^expected"):
            switch_norm(wrong, *tables.values(), True)
    with pytest.raises(ValueError, match="both, or neither"):
        switch_norm(x, None, *list(tables.values())[1:], True)
    with pytest.raises(RuntimeError, match="on meta"):
        switch_norm(x.to("meta"), *tables.values(), True)
    with pytest.raises(RuntimeError, match="mean_logits should contain 2"):
        switch_norm(x, *list(tables.values())[:4], torch.zeros(4), torch.zeros(4), True)


def test_sizes_of_logits_that_do_not_match_are_refused():
    x, tables = inputs()
    tables["var_logits"] = torch.zeros(2)
    with pytest.raises(RuntimeError, match=r"^var_logits should contain 3"):
        switch_norm(x, *tables.values(), True)


def test_fake_and_meta_tensors_have_no_memory():
    from torch._subclasses.fake_tensor import FakeTensorMode

    layer = SwitchNorm3d(4, device="meta")
    assert layer(torch.empty(2, 4, 3, 3, 3, device="meta")).shape == (2, 4, 3, 3, 3)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = mode.from_tensor(torch.randn(2, 4, 3, 3, 3))
        assert SwitchNorm3d(4)(fake).shape == (2, 4, 3, 3, 3)


@pytest.mark.parametrize("make", [torch._efficientzerotensor, torch.zeros])
def test_gradients_without_memory(make):
    x, _ = inputs()
    layer = SwitchNorm2d(4)
    y = layer(x.requires_grad_())
    found = torch.autograd.grad(y, (x, layer.weight), make(y.shape))
    assert all(not gradient.any() for gradient in found)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("norm", [SwitchNorm2d, lambda c: BatchNorm2d(c, group_size=1)])
def test_inputs_and_tables_without_memory(norm, training):
    """A tensor of zeros that takes none, as autograd makes them, is a tensor of zeros."""
    layer, plain = norm(4).train(training), norm(4).train(training)
    zeros = torch._efficientzerotensor
    layer.bias.data.add_(1)
    plain.bias.data.add_(1)
    assert torch.equal(layer(zeros(2, 4, 3, 3)), plain(torch.zeros(2, 4, 3, 3)))
    assert torch.equal(layer.running_var, plain.running_var)
    x, tables = inputs()
    for name in TABLES[2 * training :]:  # running ones are written to while training
        found, expected = (
            switch_norm(
                x, *{**copy.deepcopy(tables), name: make(tables[name].shape)}.values(), training
            )
            for make in (zeros, torch.zeros)
        )
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("make", [SwitchNorm2d, lambda c, **k: BatchNorm2d(c, group_size=2, **k)])
@pytest.mark.parametrize("training", [True, False])
def test_empty_batches_are_those_of_batch_norm(make, training):
    layer, theirs = make(4).train(training), nn.BatchNorm2d(4).train(training)
    for shape in ((0, 4, 3, 3), (2, 4, 0, 3)):
        x = torch.empty(shape, requires_grad=True)
        y = layer(x)
        assert y.shape == theirs(x).shape == shape
        y.sum().backward()
        assert x.grad.shape == shape
    for buffer in ("running_mean", "running_var", "num_batches_tracked"):
        assert torch.equal(getattr(layer, buffer), getattr(theirs, buffer))
    for parameter in layer.parameters():
        assert torch.equal(parameter.grad, torch.zeros_like(parameter))


def test_function_transforms():
    torch.manual_seed(0)
    x = torch.randn(3, 4, 5, 5, dtype=torch.float64)
    layer = SwitchNorm2d(4, track_running_stats=False).double()
    parameters = {name: p.detach() for name, p in layer.named_parameters()}

    def loss(parameters, x):
        return functional_call(layer, parameters, (x,)).pow(3).mean()

    found = grad(loss)(parameters, x)
    layer(x).pow(3).mean().backward()
    for name, parameter in layer.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad)

    stacked = torch.stack([x, 2 * x + 1])
    for mapped, each in zip(vmap(layer)(stacked), stacked, strict=True):
        torch.testing.assert_close(mapped, layer(each))
    per_sample = vmap(grad(loss), (None, 0))(parameters, stacked)
    torch.testing.assert_close(per_sample["bias"][0], found["bias"])

    tangent = torch.randn_like(x)
    _, forward = jvp(layer, (x,), (tangent,))
    step = 1e-6
    by_difference = (layer(x + step * tangent) - layer(x - step * tangent)) / (2 * step)
    torch.testing.assert_close(forward, by_difference, rtol=1e-6, atol=1e-7)


def test_forward_mode_and_batches_of_gradients():
    x, _ = inputs(dtype=torch.float64)
    layer = SwitchNorm2d(4).double()
    with forward_ad.dual_level():
        y = layer(forward_ad.make_dual(x, torch.ones_like(x)))
        assert forward_ad.unpack_dual(y).tangent.abs().max() < 1e-4  # a shift is normalized away
    assert not layer.running_mean.requires_grad
    layer(x)  # stored statistics carry no tangent of the level that was left

    x.requires_grad_()
    y = layer(x).flatten()[:3]
    batch = torch.autograd.grad(y, x, torch.eye(3, dtype=x.dtype), is_grads_batched=True)[0]
    each = [torch.autograd.grad(layer(x).flatten()[k], x)[0] for k in range(3)]
    torch.testing.assert_close(batch, torch.stack(each))
    assert torch.autograd.gradcheck(
        lambda x: layer.eval()(x), (x,), check_forward_ad=True, check_batched_grad=True
    )


@pytest.mark.parametrize("norm", [SwitchNorm2d, lambda c: BatchNorm2d(c, group_size=2)])
def test_graphs_of_fx_hold_a_norm_as_one_node(norm):
    model = nn.Sequential(nn.Conv2d(3, 4, 1), norm(4), nn.ReLU())
    traced = fx.symbolic_trace(model)
    assert [node.target for node in traced.graph.nodes][1:-1] == ["0", "1", "2"]
    x = torch.randn(4, 3, 5, 5)
    torch.testing.assert_close(traced(x), model(x))


def test_feature_extractor_of_torchvision():
    from torchvision.models import resnet18
    from torchvision.models.feature_extraction import create_feature_extractor

    model = resnet18(norm_layer=SwitchNorm2d)
    x = torch.randn(2, 3, 32, 32)
    found = create_feature_extractor(model, ["layer1.0.bn1", "layer4"])(x)
    assert found["layer1.0.bn1"].shape == (2, 64, 8, 8) and found["layer4"].shape[1] == 512


def test_tracers_see_operations():
    from torch.fx.experimental.proxy_tensor import make_fx

    layer = SwitchNorm2d(4).eval()
    x, y = torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3)
    graph = make_fx(layer)(x)
    torch.testing.assert_close(graph(y), layer(y))


def test_habits_of_batch_norm():
    layer, theirs = SwitchNorm2d(4, bias=False), nn.BatchNorm2d(4)
    assert layer.bias is None and "bias" not in dict(layer.named_parameters())
    layer.reset_parameters()
    x = torch.randn(3, 4, 5, 5)
    assert layer(input=x).shape == theirs(input=x).shape
    assert "bias=False" in repr(layer)
    stored = layer.running_mean.clone()
    layer.track_running_stats = False
    layer(x)
    assert torch.equal(layer.running_mean, stored) and layer.num_batches_tracked == 1
    assert not torch.equal(layer(x), layer.eval()(x))  # which goes on using what is stored
    assert SwitchNorm1d(4)(torch.randn(3, 4)).shape == (3, 4)
