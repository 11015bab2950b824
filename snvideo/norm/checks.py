"""Checks of what a norm is handed, with the errors of torch's Batch Normalization."""

import math

import torch
from torch import Tensor, nn


def check_input(layer: nn.modules.batchnorm._NormBase, x: Tensor) -> None:
    """Raise a ValueError for an input (N, C, ...) that a norm of its channels cannot take."""
    if x.shape[1] != layer.num_features:
        raise ValueError(f"expected {layer.num_features} channels (got {x.shape[1]})")
    if not x.is_floating_point():
        raise ValueError(f"expected floating point input (got {x.dtype})")


def check_several_values(x: Tensor, group_size: int | None) -> None:
    """Raise a ValueError for training groups of an input (N, C, ...), None: of all samples, that
    have a single value a channel."""
    if (group_size or len(x)) * math.prod(x.shape[2:]) == 1:
        raise ValueError(
            "Expected more than 1 value per channel when training, "
            f"got groups of 1 of input size {tuple(x.shape)}"
        )


def check_table(name: str, table: Tensor | None, length: int, x: Tensor) -> bool:
    """Raise a RuntimeError for a parameter or statistic that does not go with an input.

    Returns True if its values can be read from memory, as those of an input by `check_storage`.

    Args:
        name: for the message.
        table: (length,), floating point, on the device of x, with its values in memory; or None.
        length: number of channels, or of parts.
        x: the input.
    """
    if table is None:
        return True
    if table.shape != (length,):
        raise RuntimeError(f"{name} should contain {length} elements (got {tuple(table.shape)})")
    if not table.is_floating_point():
        raise RuntimeError(f"{name} should be floating point (got {table.dtype})")
    if table.device != x.device:
        raise RuntimeError(f"{name} should be on {x.device}, as the input is (got {table.device})")
    return check_storage(name, table)


def in_memory(tensor: Tensor) -> bool:
    """True for values that lie in memory as the strides say; a subclass may have none."""
    return (
        (type(tensor) is Tensor or type(tensor) is nn.Parameter)
        and tensor.layout is torch.strided
        and torch._C._has_storage(tensor)  # a batched tensor of vmap has none
        and not (tensor.is_meta or tensor._is_zerotensor())
    )


def check_storage(name: str, tensor: Tensor) -> bool:
    """Raise a RuntimeError for a tensor whose storage was freed or is too short for its shape.

    Returns True if its values can be read from memory: some tensors have none by right, and of some
    it holds the negative.
    """
    if not in_memory(tensor):
        return False
    reach = tensor.numel()
    if not tensor.is_contiguous() and reach:
        reach = 1 + sum((n - 1) * k for n, k in zip(tensor.shape, tensor.stride(), strict=True))
    needed = (tensor.storage_offset() + reach) * tensor.element_size()
    if reach and tensor.untyped_storage().nbytes() < needed:
        raise RuntimeError(f"{name} has no data: its storage is shorter than its shape")
    return not tensor.is_neg()
