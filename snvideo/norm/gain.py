"""Gain of Switchable Normalization against that of Batch Normalization with the same statistics."""

import math
from typing import NamedTuple

from torch import Tensor, nn

from snvideo.norm.mixture import mixture_ratios
from snvideo.norm.switch_norm import SwitchNorm


class GainChange(NamedTuple):
    """Channel of an SN layer whose gain differs most from that of Batch Normalization."""

    layer: str
    channel: int
    factor: float
    """Gain of SN over that of Batch Normalization."""

    def __str__(self) -> str:
        return f"channel {self.channel} of {self.layer} has {self.factor:.2f} of its gain"

    @property
    def size(self) -> float:
        """Distance from no change: 0.5 and 2 are equally far from 1."""
        return abs(math.log(self.factor)) if self.factor > 0 else math.inf


def gain_changes(model: nn.Module) -> list[GainChange]:
    r"""The channel of every SN layer whose gain differs most from Batch Normalization's.

    Both scale a channel c in evaluation, by weight / sqrt(variance + eps), where the variance of SN
    is a mixture of its own and its layer's: a channel that is quiet against its layer loses gain,

    .. math:: \sqrt{(\sigma_c^2 + \epsilon) / (\sum_k w'_k \sigma_{k,c}^2 + \epsilon)}.

    It is computed from stored statistics alone, as if every sample had those of the batch; layers
    without them are left out.

    Args:
        model: any module with SN layers that have seen data, or hold statistics of a BatchNorm.
    """
    found = []
    for name, layer in model.named_modules():
        has_statistics = isinstance(layer, SwitchNorm) and layer.running_var is not None
        if not has_statistics or layer.var_logits.is_meta:
            continue
        factors = _gain_factors(layer)
        channel = int(factors.log().abs().argmax())
        found.append(GainChange(name, channel, float(factors[channel])))
    return found


def _gain_factors(layer: SwitchNorm) -> Tensor:
    """Gain of SN over that of Batch Normalization, (C,)."""
    assert layer.running_mean is not None and layer.running_var is not None
    mean, variance = layer.running_mean.double(), layer.running_var.double()
    ratios = mixture_ratios(layer.var_logits.detach().double(), layer.mixture.ratios)
    channels = {"layer": 1, "group": layer.mixture.channel_groups}
    mixed = variance * 0
    for part, ratio in zip(layer.parts, ratios, strict=True):
        of_part = variance
        if part in channels:  # the law of total variance, over the channels of each group
            means, variances = (t.unflatten(0, (channels[part], -1)) for t in (mean, variance))
            joint = variances.mean(1, keepdim=True) + means.var(1, correction=0, keepdim=True)
            of_part = joint.expand_as(means).flatten()
        mixed = mixed + ratio * of_part
    eps = float(layer.eps)
    return ((variance + eps) / (mixed + eps)).sqrt()
