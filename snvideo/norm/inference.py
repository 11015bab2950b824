"""Switchable Normalization for exported programs, with its constants folded.

In evaluation the ratios and the batch statistics are constants, so that a layer needs less than
half of the operations of `snvideo.norm.reference`, for which exporters and runtimes take time.
"""

import copy
from typing import TypeGuard

import torch
from torch import Tensor, nn

from snvideo.norm.mixture import mixture_ratios
from snvideo.norm.reference import group_moments, total_moments
from snvideo.norm.switch_norm import SwitchNorm


class InferenceNorm(nn.Module):
    r"""The function of a `SwitchNorm` in evaluation, from constants and the statistics of a sample.

    The formula is that of `snvideo.norm.reference`; a part whose ratio is zero is left out.

    Args:
        layer: a `SwitchNorm1d`, `2d` or `3d`, with running statistics if it has a batch part.

    Shape:
        (N, C, \*S) -> (N, C, \*S), in the input's dtype; statistics are float32 or better.
    """

    batch_mean: Tensor
    constant: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(self, layer: SwitchNorm) -> None:
        super().__init__()
        logits = layer.mean_logits.detach().double(), layer.var_logits.detach().double()
        self._parts, self._groups, ratios = layer.mixture
        self._means, self._variances = (mixture_ratios(z, ratios).tolist() for z in logits)
        zero = torch.zeros(layer.num_features, device=layer.mean_logits.device)
        mean, constant = zero, zero + layer.__dict__["eps"]
        if layer.running_mean is not None and layer.running_var is not None:
            mean = layer.running_mean
            constant = constant + self._variances[self._parts.index("batch")] * layer.running_var
        tables = {"batch_mean": mean, "constant": constant}
        tables["weight"] = zero + 1 if layer.weight is None else layer.weight
        tables["bias"] = zero if layer.bias is None else layer.bias
        positions = (1,) * (max(layer._ranks) - 2)
        for name, table in tables.items():
            self.register_buffer(name, table.detach().clone().view(-1, *positions))

    def forward(self, x: Tensor) -> Tensor:
        """Normalize the input, (N, C, ...)."""
        if x.dim() == 2:
            return self(x[..., None])[..., 0]
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        positions = tuple(range(2, x.dim()))
        mean = wide.mean(positions, keepdim=True)
        centred = wide - mean
        instance = mean, (centred * centred).mean(positions, keepdim=True)
        offset: Tensor | float = 0.0  # of the mixed mean from the instance mean
        variance = self.constant
        for part, w, u in zip(self._parts, self._means, self._variances, strict=True):
            part_mean, part_variance = self._moments(part, *instance) if w or u else instance
            if w and part != "instance":
                offset = offset + w * (part_mean - mean)
            if u and part != "batch":
                variance = variance + u * part_variance
        scale = self.weight * variance.rsqrt()
        return (centred * scale + (self.bias - offset * scale)).to(x.dtype)

    def _moments(self, part: str, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """Moments of a part, from those of the instance; no variance of the batch, a constant."""
        if part == "instance":
            return mean, variance
        if part == "layer":
            return total_moments(mean, variance, dim=1)
        if part == "batch":
            return self.batch_mean, variance
        tables = group_moments(mean.flatten(1), variance.flatten(1), self._groups)
        joint_mean, joint_variance = (table.view_as(mean) for table in tables)
        return joint_mean, joint_variance


def inference_copy(model: nn.Module) -> nn.Module:
    """Copy of a network in evaluation mode, whose Switchable Normalization layers are folded.

    A layer that takes the batch statistics of the batch at hand stays, as do other norms.

    Args:
        model: any network; it is left as it is.
    """
    network = copy.deepcopy(model).eval()
    if _has_constants(network):
        return InferenceNorm(network)
    for name, layer in list(network.named_modules(remove_duplicate=False)):
        if _has_constants(layer):
            network.set_submodule(name, InferenceNorm(layer))
    return network


def _has_constants(layer: nn.Module) -> TypeGuard[SwitchNorm]:
    if not isinstance(layer, SwitchNorm) or not layer._ranks:
        return False
    return not layer.use_batch or layer.running_mean is not None
