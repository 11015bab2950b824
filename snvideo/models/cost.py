"""What a network costs: parameters, arithmetic and memory, counted on the network itself.

Counting runs the network's own forward pass over tensors that have a shape but no memory, so it
takes a second at most and does not depend on what the machine could hold.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import Function
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from snvideo.models.dropout import ClipDropout
from snvideo.norm import SwitchNorm
from snvideo.norm.distributed import members

CPU = torch.device("cpu")

UNCOUNTED = (nn.modules.batchnorm._NormBase, nn.GroupNorm)
"""Norms, whose arithmetic nobody counts."""


class Cost(NamedTuple):
    """What a network costs."""

    parameters: int
    """All of them."""
    trained: int
    """Those that get a gradient."""
    multiply_adds: int
    """Of one view, forward."""
    kept_bytes: int
    """What autograd keeps of one training pass, see `kept_bytes`."""


def cost(
    model: nn.Module,
    clips: Sequence[int],
    dtype: torch.dtype = torch.float32,
    device: torch.device = CPU,
) -> Cost:
    """What a network costs in training passes over clips of one shape.

    Args:
        model, clips, dtype, device: as for `kept_bytes`.
    """
    _, _, frames, _, crop = clips
    return Cost(
        count_parameters(model),
        count_parameters(model, trained=True),
        multiply_adds(model, frames, crop),
        kept_bytes(model, clips, dtype, device),
    )


def count_parameters(model: nn.Module, trained: bool = False) -> int:
    """Parameters of a network: all of them, or those that get a gradient."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trained)


def multiply_adds(model: nn.Module, frames: int, crop: int) -> int:
    """Multiplications, each with its addition, of the forward pass of one view.

    Of convolutions and matrix products, as everywhere in the literature, which often calls them
    FLOPs; norms, activations and pools are left out.

    Args:
        model: in whatever mode, on whatever device; it is left alone.
        frames: of the view.
        crop: height and width, pixels.
    """
    hollow = _hollow(model, torch.device("meta")).eval()
    for layer in hollow.modules():
        if isinstance(layer, UNCOUNTED):  # most operations of the network, and not one counted
            layer.forward = torch.empty_like
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        hollow(torch.empty(1, 3, frames, crop, crop, device="meta"))
    return counter.get_total_flops() // 2


def kept_bytes(
    model: nn.Module,
    clips: Sequence[int],
    dtype: torch.dtype = torch.float32,
    device: torch.device = CPU,
) -> int:
    """Bytes that autograd keeps for backward between the two halves of a training pass.

    Each memory is counted once, however many operations keep it; parameters and buffers are left
    out. Gradients, workspaces and what backward makes on its way come on top.

    Switchable Normalization, and Batch Normalization over ghost groups or processes, count as
    `norm.kernels.autograd` has it: the input and some tables of one value per sample and channel.
    Without the kernels of the device they keep a handful of tensors like their input, which is not
    counted. torch.compile decides by itself what to keep, as a rule less.

    Args:
        model: in whatever mode, on whatever device; it is left alone. What is frozen, and in
            evaluation mode, is counted in evaluation mode.
        clips: shape of the input, (N, 3, T, H, W).
        dtype: that of autocast; float32 for none.
        device: where training will be: autocast has rules for each kind.
    """
    with FakeTensorMode():
        hollow = _hollow(model, device)
        _training(hollow)
        for layer in hollow.modules():
            if isinstance(layer, ClipDropout):
                layer.mask = torch.empty(clips[0], layer.features, device=device)
            elif _by_hand(layer, clips[0]):
                layer.forward = partial(_kept, layer)
        own = {_memory(t) for t in (*hollow.parameters(), *hollow.buffers())}
        kept: dict[int, torch.UntypedStorage] = {}  # held, so that no key is given out twice

        def keep(tensor: Tensor) -> Tensor:
            kept[_memory(tensor)] = tensor.untyped_storage()
            return tensor

        half = dtype != torch.float32
        with (
            saved_tensors_hooks(keep, lambda tensor: tensor),
            torch.autocast(device.type, dtype=dtype if half else None, enabled=half),
        ):
            # Referred to until all is counted: memory that is freed could be given out again.
            logits = hollow(torch.empty(tuple(clips), device=device))
        total = sum(storage.nbytes() for memory, storage in kept.items() if memory not in own)
        del logits
    return total


def _hollow(model: nn.Module, device: torch.device) -> nn.Module:
    """A copy of a network whose tensors are new, unset and on another device."""
    memo: dict[int, Any] = {}
    for module in model.modules():
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            if tensor is None:
                continue
            empty = torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
            if isinstance(tensor, nn.Parameter):
                empty = nn.Parameter(empty, tensor.requires_grad)
            memo[id(tensor)] = empty
        if isinstance(module, ClipDropout) and module.mask is not None:
            memo[id(module.mask)] = None  # of the last pass
    return copy.deepcopy(model, memo)


def _training(model: nn.Module) -> None:
    """Training mode, but for what is frozen."""
    frozen = [
        module
        for module in model.modules()
        if not module.training and _all_frozen(list(module.parameters()))
    ]
    model.train()
    for module in frozen:
        module.eval()


def _all_frozen(parameters: list[nn.Parameter]) -> bool:
    return bool(parameters) and not any(p.requires_grad for p in parameters)


def _memory(tensor: Tensor) -> int:
    """What tensors have in common that share memory."""
    return tensor.untyped_storage()._cdata


def _by_hand(layer: nn.Module, samples: int) -> bool:
    """Whether a layer goes through `norm.kernels` in a training pass over so many clips."""
    if isinstance(layer, SwitchNorm):
        return True
    if members(getattr(layer, "process_group", None)) is not None:
        return True
    return getattr(layer, "group_size", None) not in (None, samples)


def _kept(layer: nn.Module, x: Tensor) -> Tensor:
    """Stands for the forward pass of a norm of `snvideo.norm`."""
    batch_part = getattr(layer, "use_batch", True) and layer.training
    size = getattr(layer, "group_size", None) or len(x)
    groups = len(x) // size if batch_part else 0
    return _Kept.apply(x, groups, *layer.parameters())


class _Kept(Function):
    """Keeps what `snvideo.norm.kernels.autograd` keeps, and computes nothing."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, groups: int, *parameters: Tensor) -> Tensor:
        samples, channels = x.shape[:2]
        wide = torch.promote_types(x.dtype, torch.float32).itemsize
        # Of a sample and channel: center and scale, and mean, variance, offset of the mixed mean
        # and inverse deviation in float64. Of a group and channel: mean and variance, too.
        row, group = 2 * wide + 4 * 8, 2 * 8
        tables = x.new_empty(channels * (samples * row + groups * group), dtype=torch.uint8)
        ctx.save_for_backward(x, tables, *parameters)
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise NotImplementedError("what is only counted has no gradient")
