"""Parameters, arithmetic and activation memory of a network, counted on the network itself.

Its own forward pass runs over tensors that have a shape but no memory.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from snvideo.models.dropout import ClipDropout
from snvideo.norm import SwitchNorm
from snvideo.norm.distributed import resolve_process_group

CPU = torch.device("cpu")


class Cost(NamedTuple):
    """Parameters, arithmetic and activation memory of a network."""

    parameters: int
    trainable: int
    """Parameters that get a gradient."""
    multiply_adds: int
    """Of the forward pass of one view."""
    activation_bytes: int
    """Kept by autograd in one training pass, see `activation_bytes`."""


def cost(
    model: nn.Module,
    clips: Sequence[int],
    dtype: torch.dtype = torch.float32,
    device: torch.device = CPU,
) -> Cost:
    """Cost of a network in training passes over clips; arguments of `activation_bytes`."""
    _, _, frames, _, crop = clips
    return Cost(
        count_parameters(model),
        count_parameters(model, trainable=True),
        multiply_adds(model, frames, crop),
        activation_bytes(model, clips, dtype, device),
    )


def count_parameters(model: nn.Module, trainable: bool = False) -> int:
    """Number of parameters: all of them, or those that get a gradient."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trainable)


def multiply_adds(model: nn.Module, frames: int, crop: int) -> int:
    """Multiply-adds of the forward pass of one view, which the literature often calls FLOPs.

    Those of convolutions and matrix products; norms, activations and pools are left out. The model
    is left unchanged; a view has `frames` frames of crop x crop pixels.
    """
    model = without_memory(model, torch.device("meta")).eval()
    for layer in model.modules():
        # Norms are most operations of the network, and not one is counted.
        if isinstance(layer, (nn.modules.batchnorm._NormBase, nn.GroupNorm)):
            setattr(layer, "forward", torch.empty_like)  # noqa: B010 - mypy: a method
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.empty(1, 3, frames, crop, crop, device="meta"))
    return counter.get_total_flops() // 2


def activation_bytes(
    model: nn.Module,
    clips: Sequence[int],
    dtype: torch.dtype = torch.float32,
    device: torch.device = CPU,
) -> int:
    """Bytes that autograd keeps for backward between the two halves of a training pass.

    Each memory is counted once. Parameters, buffers, gradients, workspaces and temporaries are left
    out. Of the norms of `snvideo.norm` the input is counted, as kernels keep it beside small
    tables; without kernels they keep several such tensors. torch.compile decides by itself.

    Args:
        model: in the modes of training, on any device; left unchanged.
        clips: shape of the input, (N, 3, T, H, W).
        dtype: that of autocast; float32 for none.
        device: of the training: autocast has rules for each kind.
    """
    with FakeTensorMode():
        model = without_memory(model, device)
        for layer in model.modules():
            if isinstance(layer, ClipDropout):
                layer.mask = torch.empty(clips[0], layer.features, device=device)
            elif _uses_kernels(layer, clips[0]):
                setattr(layer, "forward", partial(_norm_forward, layer))  # noqa: B010
        own = {_storage_id(t) for t in (*model.parameters(), *model.buffers())}
        kept: dict[int, torch.UntypedStorage] = {}  # held, so that no id is given out twice

        def keep(tensor: Tensor) -> Tensor:
            kept[_storage_id(tensor)] = tensor.untyped_storage()
            return tensor

        half = dtype != torch.float32
        autocast = torch.autocast(device.type, dtype=dtype if half else None, enabled=half)
        with saved_tensors_hooks(keep, lambda tensor: tensor), autocast:
            # Referred to until all is counted: memory that is freed could be given out again.
            logits = model(torch.empty(tuple(clips), device=device))
        total = sum(storage.nbytes() for key, storage in kept.items() if key not in own)
        del logits
    return total


def without_memory(model: nn.Module, device: torch.device) -> nn.Module:
    """A copy of a network whose tensors are new, unset and on another device."""
    masks = [m.mask for m in model.modules() if isinstance(m, ClipDropout) and m.mask is not None]
    memo: dict[int, Any] = {}
    for tensor in (*model.parameters(), *model.buffers(), *masks):
        empty = torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
        is_parameter = isinstance(tensor, nn.Parameter)
        memo[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if is_parameter else empty
    return copy.deepcopy(model, memo)


def _storage_id(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _uses_kernels(layer: nn.Module, samples: int) -> bool:
    """True for a layer that runs `norm.kernels` in a training pass over so many clips."""
    synced = resolve_process_group(getattr(layer, "process_group", None)) is not None
    grouped = getattr(layer, "group_size", None) not in (None, samples)
    return isinstance(layer, SwitchNorm) or synced or grouped


def _norm_forward(layer: nn.Module, x: Tensor) -> Tensor:
    """Stand-in for a norm of `snvideo.norm`, whose kernels keep the input and small tables."""
    return x * layer.get_parameter("weight").to(x.dtype)[:, None, None, None]
