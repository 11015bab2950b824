"""Reading what Switchable Normalization has learned: the importance ratios of its layers."""

from typing import NamedTuple

from torch import nn

from snvideo.norm.switch_norm import SwitchNorm


class Importance(NamedTuple):
    """Importance ratios of one layer, in the order instance, layer, batch; each tuple sums to 1.

    A layer without its batch part has two ratios.
    """

    layer: str
    mean: tuple[float, ...]
    variance: tuple[float, ...]


def importance(model: nn.Module) -> list[Importance]:
    """Ratios softmax(mean_logits) and softmax(var_logits) of every SN layer, along the depth."""
    return [
        Importance(
            name,
            tuple(module.mean_logits.detach().double().softmax(0).tolist()),
            tuple(module.var_logits.detach().double().softmax(0).tolist()),
        )
        for name, module in model.named_modules()
        if isinstance(module, SwitchNorm)
    ]
