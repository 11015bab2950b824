"""Folding into a convolution: exact where it can be, refused elsewhere."""

import copy
import pickle

import pytest
import torch
from timm.models.byobnet import MobileOneBlock
from timm.models.levit import ConvNorm, LinearNorm
from torch import nn
from torch.ao.quantization import fuse_modules
from torch.fx.experimental.optimization import fuse
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from snvideo.norm import SwitchNorm1d, SwitchNorm2d, SwitchNorm3d, convert_norm, foldable

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
NORMS = {1: SwitchNorm1d, 2: SwitchNorm2d, 3: SwitchNorm3d}


def lively(layer):
    """Parameters and statistics that are not those of a start."""
    layer = layer.double().eval()
    torch.manual_seed(0)
    for tensor in (layer.weight, layer.bias, layer.running_mean):
        nn.init.normal_(tensor)
    nn.init.uniform_(layer.running_var, 0.5, 2)
    return layer


def on_batch(layer, *, mean=True, var=True):
    """All weight on the batch part, of the kinds that are named."""
    with torch.no_grad():
        for logits, chosen in ((layer.mean_logits, mean), (layer.var_logits, var)):
            if chosen:
                logits.fill_(-float("inf"))[layer.parts.index("batch")] = 0
    return layer


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize(
    "options",
    [{}, {"start": "batch"}, {"parts": ("group", "batch")}, {"start": (0.0, 0.0, 30.0)}],
)
def test_what_depends_on_the_sample_is_refused(dims, options):
    conv = CONVOLUTIONS[dims](3, 4, 1).double().eval()
    norm = lively(NORMS[dims](4, **options))
    assert not foldable(norm)
    with pytest.raises(RuntimeError, match=r"SwitchNorm\dd cannot be folded: .* batch part"):
        fuse_conv_bn_eval(conv, norm)
    for half in ({"mean": False}, {"var": False}):
        with pytest.raises(RuntimeError, match="cannot be folded"):
            fuse_conv_bn_eval(conv, on_batch(copy.deepcopy(norm), **half))


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize(
    "options",
    [{}, {"parts": ("batch",)}, {"parts": ("group", "batch")}, {"ratios": "l1", "start": "batch"}],
)
def test_all_weight_on_the_batch_part_is_folded_exactly(dims, options):
    conv = CONVOLUTIONS[dims](3, 4, 1).double().eval()
    norm = lively(NORMS[dims](4, **options))
    if "ratios" not in options:
        on_batch(norm)
    assert foldable(norm)
    x = torch.randn(2, 3, *(5,) * dims, dtype=torch.float64)
    torch.testing.assert_close(fuse_conv_bn_eval(conv, norm)(x), norm(conv(x)))
    bn = nn.Sequential(copy.deepcopy(norm))
    convert_norm(bn, "bn")
    torch.testing.assert_close(bn(conv(x)), norm(conv(x)))
    linear = nn.Linear(3, 4).double().eval()
    if dims == 1:
        torch.testing.assert_close(
            fuse_linear_bn_eval(linear, norm)(x[:, :, 0]), norm(linear(x[:, :, 0]))
        )


def test_linear_layers_are_refused():
    with pytest.raises(RuntimeError, match="cannot be folded"):
        fuse_linear_bn_eval(nn.Linear(3, 4).double().eval(), lively(SwitchNorm1d(4)))


def test_without_statistics_nothing_can_be_folded():
    for options in ({"use_batch": False}, {"track_running_stats": False}):
        norm = SwitchNorm2d(4, **options).eval()
        assert not foldable(norm)
        with pytest.raises(AssertionError):
            fuse_conv_bn_eval(nn.Conv2d(3, 4, 1).eval(), norm)


@pytest.mark.parametrize("create", [lambda: ConvNorm(3, 4), lambda: LinearNorm(3, 4)])
def test_timms_fusion(create):
    layer = create().eval()
    convert_norm(layer, "sn")
    lively(layer.bn).float()
    with pytest.raises(RuntimeError, match="cannot be folded"):
        layer.fuse()
    on_batch(layer.bn)
    if isinstance(layer, ConvNorm):
        x = torch.randn(2, 3, 5, 5)
        torch.testing.assert_close(layer.fuse()(x), layer(x), rtol=1e-4, atol=1e-5)


def test_timms_reparameterization():
    block = MobileOneBlock(4, 8).eval()
    convert_norm(block, "sn")
    with pytest.raises(RuntimeError, match="cannot be folded"):
        block.reparameterize()


def test_fusion_by_class_leaves_it_alone():
    model = nn.Sequential(nn.Conv2d(3, 4, 1).double(), lively(SwitchNorm2d(4))).eval()
    x = torch.randn(2, 3, 5, 5, dtype=torch.float64)
    expected = model(x)
    torch.testing.assert_close(fuse(model)(x), expected)
    with pytest.raises(AssertionError, match="did not find fuser method"):
        fuse_modules(model, [["0", "1"]])


def test_eps_is_a_number_in_every_other_use():
    norm = lively(SwitchNorm2d(4, eps=0.25))
    assert norm.eps == 0.25 and isinstance(norm.eps, float) and "eps=0.25" in repr(norm)
    variance = torch.ones(4, dtype=torch.float64)
    assert torch.equal(variance + norm.eps, torch.full_like(variance, 1.25))
    assert torch.equal(norm.eps + 0 * norm.running_var, torch.full_like(variance, 0.25))
    assert torch.equal((3 * norm.running_var).add(norm.eps), 3 * norm.running_var + 0.25)
    assert torch.tensor(norm.eps) == 0.25 and torch.full((1,), norm.eps) == 0.25
    assert torch.add(variance, variance, alpha=norm.eps)[0] == 1.25
    norm.eps = 0.5
    assert norm.eps == 0.5 and type(copy.deepcopy(norm.eps)) is float
    assert type(pickle.loads(pickle.dumps(norm.eps))) is float
    for view in (norm.running_var.detach(), norm.running_var.data, norm.running_var[None]):
        with pytest.raises(RuntimeError, match="cannot be folded"):
            view + norm.eps
    again = pickle.loads(pickle.dumps(norm))
    assert again.eps == 0.5 and vars(again)["eps"] == 0.5
    with torch.device("meta"):
        assert (SwitchNorm2d(4).running_mean + SwitchNorm2d(4).eps).is_meta
