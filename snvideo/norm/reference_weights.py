"""Weights of the reference implementation (switchablenorms/Switchable-Normalization)."""

from collections.abc import Mapping
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn

from snvideo.norm.mixture import ONE_SAMPLE, PAPER
from snvideo.norm.switch_norm import SwitchNorm

_FIELDS = {"mean_weight": "mean_logits", "var_weight": "var_logits"}
_WRAPPER = "module."  # of DataParallel
_COUNTER = "num_batches_tracked"


def load_reference_weights(
    model: nn.Module, weights: str | PathLike[str] | Mapping[str, Tensor]
) -> list[str]:
    """Load weights of a network with norms of the reference implementation.

    Its norms hold weight and bias of shape (1, C), (1, C, 1, 1) or (1, C, 1, 1, 1), statistics of
    shape (1, C) or (1, C, 1), and the logits mean_weight and var_weight. Three are those of
    instance, layer and batch. Two are those of instance and layer (SwitchNorm2d and 3d with
    using_bn=False), but of layer and batch in SwitchNorm1d, whose inputs (N, C) have one value a
    channel: it is known by that shape, or by its statistics.

    Momentum is no part of a file: there it is the weight of the old value, here 1 minus that. With
    using_moving_average=False its statistics are sums over batches, which its training divides
    before they are used: replace them by `average_statistics`.

    Args:
        model: of the same names, with a `SwitchNorm` in the place of every such norm; every other
            tensor is loaded as it is.
        weights: a file of torch.save, or what it holds: a state dict, or one under "state_dict";
            names may begin with "module.".

    Returns:
        names of the norms.

    Raises:
        ValueError: if there is no such norm, or the model's at its place is no `SwitchNorm`, or one
            of other parts.
        RuntimeError: for tensors that are missing, too many or of other shapes.
    """
    state = _state_dict(weights)
    own = dict(model.named_modules())
    norms = [_layer(name) for name in state if name.rpartition(".")[2] == "mean_weight"]
    if not norms:
        raise ValueError("the weights have no norm of the reference implementation: no mean_weight")
    loaded = {name: tensor for name, tensor in state.items() if _layer(name) not in norms}
    for norm in norms:
        fields = {name.rpartition(".")[2]: t for name, t in state.items() if _layer(name) == norm}
        _check(norm, own.get(norm), _parts(fields))
        for field, tensor in fields.items():
            loaded[_name(norm, _FIELDS.get(field, field))] = tensor.flatten()
    counters = {_name(norm, _COUNTER) for norm in norms}  # which the reference has not
    loaded = {n: t for n, t in model.state_dict().items() if n in counters} | loaded
    model.load_state_dict(loaded)
    return norms


def _state_dict(weights: str | PathLike[str] | Mapping[str, Any]) -> dict[str, Tensor]:
    """Tensors by the names that the network had before it was wrapped."""
    if not isinstance(weights, Mapping):
        weights = torch.load(weights, map_location="cpu", weights_only=True)
    assert isinstance(weights, Mapping)
    state = weights.get("state_dict", weights)
    return {name.removeprefix(_WRAPPER): tensor for name, tensor in state.items()}


def _name(layer: str, field: str) -> str:
    return f"{layer}.{field}" if layer else field


def _layer(name: str) -> str:
    return name.rpartition(".")[0]


def _parts(fields: dict[str, Tensor]) -> tuple[str, ...]:
    """Parts that a norm's logits are of."""
    if len(fields["mean_weight"]) == 3:
        return PAPER.parts
    is_1d = fields["weight"].dim() == 2 or "running_mean" in fields
    return ("layer", "batch") if is_1d else ONE_SAMPLE.parts


def _check(name: str, layer: nn.Module | None, parts: tuple[str, ...]) -> None:
    """Raise a ValueError for a layer that would compute something else."""
    if not isinstance(layer, SwitchNorm):
        raise ValueError(f"norm '{name}' of the weights is no SwitchNorm in the model: convert it")
    if layer.parts != parts or layer.mixture.ratios != "softmax":
        raise ValueError(
            f"norm '{name}' of the weights mixes {', '.join(parts)} by a softmax: create the "
            f"model's with parts={parts}"
        )
