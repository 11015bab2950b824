"""Weights of the reference implementation, as it lays them out, against its formula in float64."""

import pytest
import torch
from torch import nn

from snvideo.norm import SwitchNorm1d, SwitchNorm2d, SwitchNorm3d, load_reference_weights

C = 4
X = {
    1: (5, C),
    2: (5, C, 3, 4),
    3: (5, C, 2, 3, 4),
}


def random(*shape, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def file_of(dims, using_bn=True, prefix=""):
    """State dict of one of its layers."""
    logits = 3 if dims > 1 and using_bn else 2
    affine = (1, C, *(1,) * (dims if dims > 1 else 0))
    fields = {
        "weight": random(*affine, seed=1),
        "bias": random(*affine, seed=2),
        "mean_weight": random(logits, seed=3),
        "var_weight": random(logits, seed=4),
    }
    if using_bn:
        shape = (1, C) if dims == 1 else (1, C, 1)
        fields["running_mean"] = random(*shape, seed=5)
        fields["running_var"] = random(*shape, seed=6).exp()
    return {prefix + name: tensor for name, tensor in fields.items()}


def formula(x, state, dims, using_bn):
    """Evaluation, with all variances biased."""
    flat = x.flatten(2) if dims > 1 else x[..., None]
    statistics = (
        [] if dims == 1 else [(flat.mean(2, True), flat.var(2, correction=0, keepdim=True))]
    )
    whole = flat.flatten(1)
    layer = whole.mean(1), whole.var(1, correction=0)
    statistics.append(tuple(t.view(-1, 1, 1) for t in layer))
    if using_bn:
        statistics.append(tuple(state[f"running_{k}"].view(1, C, 1) for k in ("mean", "var")))
    w, u = (state[f"{kind}_weight"].softmax(0) for kind in ("mean", "var"))
    assert len(w) == len(statistics)
    mean = sum(a * m for a, (m, _) in zip(w, statistics, strict=True))
    var = sum(a * v for a, (_, v) in zip(u, statistics, strict=True))
    y = (flat - mean) / (var + 1e-5).sqrt()
    return y.view(x.shape) * state["weight"] + state["bias"]


CASES = [
    (1, True, {"parts": ("layer", "batch")}),
    (2, True, {}),
    (2, False, {"use_batch": False}),
    (3, True, {}),
    (3, False, {"parts": ("instance", "layer")}),
]


def layer_of(dims, options):
    return (SwitchNorm1d, SwitchNorm2d, SwitchNorm3d)[dims - 1](C, **options).double().eval()


@pytest.mark.parametrize(("dims", "using_bn", "options"), CASES)
def test_the_loaded_layer_computes_its_formula(dims, using_bn, options):
    state = file_of(dims, using_bn)
    layer = layer_of(dims, options)
    assert load_reference_weights(layer, state) == [""]
    x = random(*X[dims], seed=9) * 2 + 1
    torch.testing.assert_close(layer(x), formula(x, state, dims, using_bn), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("dims", "using_bn", "options"),
    [
        (1, True, {"use_batch": False}),  # of the same shapes but for the statistics
        (1, True, {}),
        (2, False, {"parts": ("layer", "batch")}),
        (2, False, {}),
        (2, True, {"use_batch": False}),
        (2, True, {"parts": ("group", "layer", "batch")}),
        (2, True, {"ratios": "l1"}),
    ],
)
def test_other_parts_are_refused_and_nothing_has_changed(dims, using_bn, options):
    layer = layer_of(dims, options)
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    with pytest.raises(ValueError, match=r"norm '' of the weights mixes .* with parts=\("):
        load_reference_weights(layer, file_of(dims, using_bn))
    assert all(torch.equal(tensor, before[name]) for name, tensor in layer.state_dict().items())


def test_two_logits_without_statistics_are_told_by_the_shape():
    """SwitchNorm1d's are layer and batch, even in a file that has lost its statistics."""
    state = file_of(1)
    del state["running_mean"], state["running_var"]
    with pytest.raises(ValueError, match=r"parts=\('layer', 'batch'\)"):
        load_reference_weights(layer_of(1, {"use_batch": False}), state)
    with pytest.raises(RuntimeError, match="running_mean"):
        load_reference_weights(layer_of(1, {"parts": ("layer", "batch")}), state)


@pytest.mark.parametrize("wrapped", [True, False])
def test_a_file_of_a_network(tmp_path, wrapped):
    model = nn.Sequential(nn.Conv2d(3, C, 1), SwitchNorm2d(C), nn.Linear(2, 2)).double()
    prefix = "module." if wrapped else ""
    state = file_of(2, prefix=f"{prefix}1.")
    plain = {
        f"{prefix}{i}.{n}": random(*t.shape, seed=i)
        for i in (0, 2)
        for n, t in model[i].state_dict().items()
    }
    content = {"epoch": 3, "state_dict": state | plain} if wrapped else state | plain
    torch.save(content, tmp_path / "weights.pth")
    model[1].num_batches_tracked.fill_(7)
    assert load_reference_weights(model, tmp_path / "weights.pth") == ["1"]
    assert torch.equal(model[0].weight, plain[f"{prefix}0.weight"])
    assert torch.equal(model[1].weight, state[f"{prefix}1.weight"].flatten())
    assert torch.equal(model[1].mean_logits, state[f"{prefix}1.mean_weight"])
    assert model[1].num_batches_tracked == 7


def test_what_does_not_fit_is_one_line():
    with pytest.raises(ValueError, match="no norm of the reference implementation"):
        load_reference_weights(layer_of(2, {}), {"weight": torch.ones(C)})
    model = nn.Sequential(nn.BatchNorm2d(C))
    with pytest.raises(ValueError, match="norm '0' of the weights is no SwitchNorm"):
        load_reference_weights(model, file_of(2, prefix="0."))
    with pytest.raises(ValueError, match="norm '1' of the weights is no SwitchNorm"):
        load_reference_weights(model, file_of(2, prefix="1."))
    with pytest.raises(RuntimeError, match="Missing key"):
        load_reference_weights(
            nn.Sequential(layer_of(2, {}), nn.Linear(2, 2)), file_of(2, prefix="0.")
        )
