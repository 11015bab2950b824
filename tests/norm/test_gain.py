"""The gain of a converted channel, against the network's own outputs."""

import logging

import pytest
import torch
from torch import nn

from snvideo.norm import SwitchNorm2d, convert_norm, gain_changes


def bn_of(mean, std):
    """BatchNorm of samples whose channels all have these moments, and such samples."""
    generator = torch.Generator().manual_seed(0)
    mean, std = (torch.tensor(t, dtype=torch.float64).view(1, -1, 1, 1) for t in (mean, std))
    x = torch.randn(3, mean.numel(), 8, 8, generator=generator, dtype=torch.float64)
    moments = x.mean((2, 3), keepdim=True), x.std((2, 3), correction=0, keepdim=True)
    x = (x - moments[0]) / moments[1] * std + mean  # every sample has the batch's moments
    layer = nn.BatchNorm2d(mean.numel()).double().eval()
    layer.running_mean.copy_(mean.flatten())
    layer.running_var.copy_(std.flatten() ** 2)
    nn.init.uniform_(layer.weight, 1, 2)
    return layer, x


@pytest.mark.parametrize(
    "options",
    [
        {"start": "batch"},
        {},
        {"start": (1.0, 2.0, 3.0)},
        {"parts": ("group", "batch"), "groups": 2, "start": (1.0, 2.0)},
        {"parts": ("layer", "batch"), "ratios": "l1", "start": (1.0, 3.0)},
        {"ratios": "l1", "start": "batch"},
    ],
)
def test_the_change_is_that_of_the_outputs_spread(options):
    old, x = bn_of([0.0, 5.0, -3.0, 1.0], [0.1, 3.0, 3.0, 2.0])
    expected = old(x).std((0, 2, 3))
    model = nn.Sequential(old)
    replaced = convert_norm(model, "sn", **options)
    # within a sample the mean moves alone: the spread there is gain times the input's
    found = model(x).std((2, 3)).mean(0) / x.std((2, 3)).mean(0)
    factors = found / (expected / x.std((0, 2, 3)))
    layer, channel, factor = replaced.gain_change
    assert layer == "0" and gain_changes(model)[0].factor == factor
    assert factor == pytest.approx(float(factors[channel]), rel=1e-6)
    assert abs(torch.tensor(factor).log()) == pytest.approx(
        float(factors.log().abs().max()), abs=1e-6
    )
    if options.get("ratios") == "l1" and options["start"] == "batch":
        assert factor == 1


def test_a_channel_thirty_times_quieter_than_its_layer():
    """With start="batch" it keeps about 0.4 of its gain, as a layer's variance is 900 times its."""
    old, _ = bn_of([0.0] * 64, [1.0] + [30.0] * 63)
    change = convert_norm(nn.Sequential(old), "sn", start="batch").gain_change
    assert change.channel == 0 and change.factor == pytest.approx(0.38, abs=0.01)
    assert str(change) == "channel 0 of 0 has 0.38 of its gain"


def test_the_largest_of_all_layers_is_shown(caplog):
    quiet, even = bn_of([0.0, 0.0], [0.1, 3.0])[0], bn_of([0.0, 0.0], [1.0, 1.0])[0]
    model = nn.Sequential(even, nn.Sequential(quiet))
    with caplog.at_level(logging.INFO, logger="snvideo.norm"):
        replaced = convert_norm(model, "sn", start="batch")
    assert replaced.gain_change.layer == "1.0" and len(gain_changes(model)) == 2
    assert "2 norms exchanged; channel 0 of 1.0 has 0." in caplog.text


def test_where_there_is_nothing_to_compare():
    for model in (
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.GroupNorm(2, 4)),
        nn.Sequential(nn.BatchNorm2d(4, track_running_stats=False)),
        nn.Sequential(nn.BatchNorm2d(4, device="meta")),
        nn.Sequential(nn.ReLU()),
    ):
        replaced = convert_norm(model, "sn")
        assert replaced.gain_change is None
    assert convert_norm(nn.Sequential(nn.BatchNorm2d(4)), "gn").gain_change is None
    assert gain_changes(nn.Sequential(SwitchNorm2d(4, use_batch=False))) == []
