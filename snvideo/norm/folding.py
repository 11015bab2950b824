"""Folding of a norm into the layer before it: where Switchable Normalization can be folded."""

from typing import Any

import torch
from torch import Tensor, nn

from snvideo.norm.mixture import mixture_ratios


def foldable(layer: Any) -> bool:
    """True if a Switchable Normalization in evaluation is a fixed affine map, as a Batch one is.

    So it is with stored statistics and all weight on the batch part: other statistics are those of
    the sample at hand.

    Args:
        layer: a `SwitchNorm`.
    """
    if layer.running_var is None or layer.mean_logits.is_meta:
        return False
    logits = layer.mean_logits.detach().double(), layer.var_logits.detach().double()
    batch, ratios = layer.mixture.parts.index("batch"), layer.mixture.ratios
    return all(mixture_ratios(z, ratios)[batch] == 1 for z in logits)


class FoldingEps:
    """Attribute eps of a layer, a number that guards the layer against being folded wrongly.

    Functions that fold a norm (`torch.nn.utils.fusion`, `fuse` and `reparameterize` of timm's
    layers) take any module with the attributes of a Batch Normalization, and all add its eps to its
    running_var. That sum is exact for a layer that is `foldable` and raises for others. Copies of
    running_var, as of another dtype, are not known.
    """

    def __get__(self, layer: nn.Module | None, owner: type) -> float:
        if layer is None:
            raise AttributeError("eps is an attribute of layers, not of their class")
        eps = _GuardingFloat(vars(layer)["eps"])
        eps.layer = layer
        return eps

    def __set__(self, layer: nn.Module, value: float) -> None:
        vars(layer)["eps"] = float(value)


class _GuardingFloat(float):
    """A float that is told when it is added to a tensor."""

    layer: nn.Module

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        given = (*args, *named.values())
        for layer in [eps.layer for eps in given if isinstance(eps, cls)]:
            is_folding = any(_is_stored_by(layer, other) for other in given)
            if is_folding and not foldable(layer):
                raise RuntimeError(
                    f"{type(layer).__name__} cannot be folded: it normalizes with statistics of "
                    "the sample at hand, too; only with all weight on the batch part is it a fixed "
                    "affine map"
                )
        args, named = torch.utils._pytree.tree_map_only(cls, float, (args, named))
        return function(*args, **named)

    def __reduce__(self) -> tuple[type[float], tuple[float]]:
        return float, (float(self),)


def _is_stored_by(layer: nn.Module, value: Any) -> bool:
    """True for a layer's running variance, or a view of it."""
    stored = layer.running_var
    if not isinstance(stored, Tensor) or not isinstance(value, Tensor):
        return False
    if value.layout != torch.strided:
        return False
    return value.untyped_storage()._cdata == stored.untyped_storage()._cdata
