"""Weight Standardization of convolutions, beside any norm."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

EPS = 1e-5
"""Added to the variance."""

_ORIGINAL = "parametrizations.weight.original"

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class WeightStandardization(nn.Module):
    """Standardization of a convolution's weight over the inputs of each output channel.

    W_hat = (W - mean(W)) / sqrt(var(W) + eps), over (C_in / groups, *kernel) (Qiao et al.,
    arXiv 1903.10520, Eq. 8 and 9), with the biased variance.
    """

    def forward(self, weight: Tensor) -> Tensor:
        """The standardized weight, of the shape and dtype of the weight."""
        wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
        variance, mean = torch.var_mean(
            wide, tuple(range(1, weight.dim())), correction=0, keepdim=True
        )
        return ((wide - mean) * (variance + EPS).rsqrt()).to(weight.dtype)


def standardize_weights(model: nn.Module) -> int:
    """Standardize the weights of all convolutions of a model, in place, from now on.

    The weight that is learned becomes `parametrizations.weight.original`. A second call changes
    nothing.

    Args:
        model: any module.

    Returns:
        the number of convolutions that were changed. Those with one input for each output channel,
        as the 1x1 kernels of a depthwise convolution, have no spread to standardize and are left.
    """
    changed = 0
    for layer in list(model.modules()):
        if not isinstance(layer, _CONVOLUTIONS) or _is_standardized(layer):
            continue
        if layer.weight[0].numel() > 1:
            parametrize.register_parametrization(layer, "weight", WeightStandardization())
            changed += 1
    return changed


def fold_weight_standardization(model: nn.Module) -> int:
    """Replace the weights of standardized convolutions by what they stand for, in place.

    The function stays, at no cost a pass; what is trained from then on is not standardized.

    Returns:
        the number of convolutions that were changed.
    """
    folded = [layer for layer in model.modules() if _is_standardized(layer)]
    for layer in folded:
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
    return len(folded)


def fold_state_dict(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of the folded network, from that of one with standardized weights."""
    folded = {}
    for name, tensor in tensors.items():
        if name.endswith(_ORIGINAL):
            name, tensor = name.replace(_ORIGINAL, "weight"), WeightStandardization()(tensor)
        folded[name] = tensor
    return folded


def _is_standardized(layer: nn.Module) -> bool:
    if not parametrize.is_parametrized(layer, "weight"):
        return False
    steps = layer.parametrizations["weight"]  # type: ignore[index] # a ModuleDict
    return any(isinstance(step, WeightStandardization) for step in steps)
