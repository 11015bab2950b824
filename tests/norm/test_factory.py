"""Norms by name, and their exchange in finished networks."""

import subprocess
import sys

import pytest
import torch
import torchvision
from torch import nn

from snvideo.norm import (
    NORMS,
    SwitchNorm2d,
    SwitchNorm3d,
    convert_norm,
    create_norm,
    importance,
    importance_table,
)


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("name", NORMS)
def test_every_norm_is_called_as_builders_call_it(name, dims):
    norm = create_norm(name, dims)
    torch.manual_seed(0)
    x = torch.randn(4, 6, *(5, 4, 3)[:dims])
    for layer in (norm(num_features=6, eps=1e-3, momentum=0.2), norm(num_features=6)):
        assert layer.weight.shape == layer.bias.shape == (6,)
        assert layer(x).shape == x.shape
    assert norm(num_features=6, eps=1e-3).eps == 1e-3


@pytest.mark.parametrize(("channels", "groups"), [(64, 32), (16, 16), (54, 2), (2048, 32), (7, 1)])
def test_group_norm_divides_every_width(channels, groups):
    assert create_norm("gn")(num_features=channels).num_groups == groups


def test_layer_and_instance_norm_are_what_they_say():
    x = torch.randn(2, 6, 3, 4, 5, dtype=torch.float64) * 3 + 1
    ln = create_norm("ln")(num_features=6).double()(x)
    torch.testing.assert_close(ln.flatten(1).mean(1), torch.zeros(2, dtype=torch.float64))
    instance = create_norm("in")(num_features=6).double()(x)
    means = instance.flatten(2).mean(2)
    torch.testing.assert_close(means, torch.zeros(2, 6, dtype=torch.float64))


def test_frozen_batch_norm_is_fixed_in_training_too():
    layer = create_norm("frozen_bn")(num_features=4).train()
    x = torch.randn(8, 4, 2, 3, 3) * 5
    torch.testing.assert_close(layer(x), x / (1 + 1e-5) ** 0.5)
    assert torch.equal(layer.running_mean, torch.zeros(4))
    assert not any(parameter.requires_grad for parameter in layer.parameters())


def test_a_class_or_partial_is_taken_as_it_is():
    assert isinstance(create_norm(nn.BatchNorm2d)(num_features=3), nn.BatchNorm2d)
    assert create_norm(SwitchNorm3d, use_batch=False)(num_features=3).use_batch is False


def test_unknown_names_are_one_line():
    with pytest.raises(ValueError, match="unknown norm 'bm', expected one of sn, bn"):
        create_norm("bm")
    with pytest.raises(ValueError, match="dims is 1, 2 or 3"):
        create_norm("sn", dims=4)


def test_convert_keeps_parameters_and_statistics_and_is_idempotent():
    torch.manual_seed(0)
    model = torchvision.models.resnet18()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight), nn.init.normal_(module.bias)
            module.running_mean.normal_(), module.running_var.uniform_(0.5, 2)
    before = model.state_dict()
    names = [name for name, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)]
    model.eval()
    replaced = convert_norm(model, "sn")
    assert [entry.layer for entry in replaced] and {entry.layer for entry in replaced} == set(names)
    assert all(entry.old == "BatchNorm2d" and entry.new == "SwitchNorm2d" for entry in replaced)
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert isinstance(model.bn1, SwitchNorm2d) and not model.bn1.training
    assert convert_norm(model, "sn") == []
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 1000)


def test_convert_with_batch_start_keeps_the_function():
    torch.manual_seed(0)
    model = torchvision.models.video.r3d_18(num_classes=5).eval()
    x = torch.randn(2, 3, 8, 32, 32)
    expected = model(x)
    replaced = convert_norm(model, "sn", start="batch")
    assert len(replaced) == 20
    # 99 % batch statistics a layer, twenty layers deep
    assert (model(x) - expected).abs().max() < 0.15 * expected.abs().max()
    logits = importance(model)[0].mean
    assert logits[2] > 0.98 and sum(logits) == pytest.approx(1)


def test_convert_reaches_group_norm_and_refuses_a_bare_norm():
    model = nn.Sequential(nn.Conv3d(3, 8, 1), nn.GroupNorm(4, 8))
    nn.init.uniform_(model[1].weight)
    weight = model[1].weight.clone()
    convert_norm(model, "bn")
    assert isinstance(model[1], nn.BatchNorm3d) and torch.equal(model[1].weight, weight)
    with pytest.raises(ValueError, match="the module that holds the norm"):
        convert_norm(nn.BatchNorm2d(3), "sn")


def test_importance_reads_the_ratios_in_depth_order():
    model = nn.Sequential(SwitchNorm2d(3), nn.Sequential(SwitchNorm2d(3, use_batch=False)))
    with torch.no_grad():
        model[0].mean_logits.copy_(torch.tensor([1.0, 2.0, 4.0]).log())
    first, second = importance(model)
    assert first.layer == "0" and second.layer == "1.0"
    assert first.mean == pytest.approx((1 / 7, 2 / 7, 4 / 7))
    assert second.mean == second.variance == pytest.approx((0.5, 0.5))
    assert (first.depth, second.depth) == (0, 1)


def test_importance_table_has_a_line_a_layer_and_the_mean():
    model = nn.Sequential(SwitchNorm2d(3), SwitchNorm2d(3, use_batch=False))
    head, first, second, mean = importance_table(model).splitlines()
    assert head.split() == [
        *("layer", "depth", "mean:", "instance", "layer", "batch"),
        *("variance:", "instance", "layer", "batch"),
    ]
    assert first.split() == ["0", "0.00", *["33.3"] * 6]
    assert second.split() == ["1", "1.00", *["50.0", "50.0", "-"] * 2]
    assert mean.split() == ["mean", *["41.7", "41.7", "16.7"] * 2]
    assert importance_table(nn.ReLU()).startswith("layer")


class NormWithActivation(nn.BatchNorm2d):
    """As timm's BatchNormAct2d: the activation that follows is a part of the norm."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.drop, self.act = nn.Identity(), nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.drop(super().forward(x)))


def test_convert_keeps_an_activation_inside_a_norm():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), NormWithActivation(8)).eval()
    x = torch.randn(2, 3, 9, 9)
    expected = model(x)
    assert convert_norm(model, "sn", start="batch") == [("1", "NormWithActivation", "SwitchNorm2d")]
    assert (model(x) >= 0).all() and (model(x) - expected).abs().max() < 0.05
    assert convert_norm(model, "sn", start="batch") == []


def test_convert_changes_settings_and_keeps_what_was_learned():
    model = nn.Sequential(SwitchNorm2d(4))
    nn.init.normal_(model[0].mean_logits)
    logits = model[0].mean_logits.clone()
    assert len(convert_norm(model, "sn", group_size=2)) == 1
    assert model[0].group_size == 2 and torch.equal(model[0].mean_logits, logits)
    assert convert_norm(nn.Sequential(nn.BatchNorm3d(4)), "bn") == []


def test_norm_needs_torch_alone():
    """The package can be lifted out: importing it brings in no video, config or training."""
    code = (
        "import sys, snvideo.norm; names = set(m.split('.')[0] for m in sys.modules); "
        "print(sorted(names & {'av', 'decord', 'pydantic', 'torchvision', 'yaml'}), "
        "[m for m in sys.modules if m.startswith('snvideo.') and 'norm' not in m])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[] []"
