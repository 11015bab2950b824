"""Checks of what a norm is handed, with the errors of torch's Batch Normalization."""

import torch
from torch import Tensor, nn


def check_input(layer: nn.modules.batchnorm._NormBase, x: Tensor) -> None:
    """Raise a ValueError for an input (N, C, ...) that a norm of its channels cannot take."""
    if x.shape[1] != layer.num_features:
        raise ValueError(f"expected {layer.num_features} channels (got {x.shape[1]})")
    if not x.is_floating_point():
        raise ValueError(f"expected floating point input (got {x.dtype})")


def check_table(name: str, table: Tensor | None, length: int, x: Tensor) -> None:
    """Raise a RuntimeError for a parameter or statistic that does not go with an input.

    Args:
        name: for the message.
        table: (length,), floating point, on the device of x, with its values in memory; or None.
        length: number of channels, or of parts.
        x: the input.
    """
    if table is None:
        return
    if table.shape != (length,):
        raise RuntimeError(f"{name} should contain {length} elements (got {tuple(table.shape)})")
    if not table.is_floating_point():
        raise RuntimeError(f"{name} should be floating point (got {table.dtype})")
    if table.device != x.device:
        raise RuntimeError(f"{name} should be on {x.device}, as the input is (got {table.device})")
    check_storage(name, table)


def check_storage(name: str, tensor: Tensor) -> None:
    """Raise a RuntimeError for a tensor whose storage was freed or is too short for its shape."""
    if type(tensor) not in (Tensor, nn.Parameter) or tensor.layout is not torch.strided:
        return  # it may have none by right
    if tensor.is_meta or not torch._C._has_storage(tensor):
        return
    reach = sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True))
    needed = (tensor.storage_offset() + reach + 1) * tensor.element_size()
    if tensor.numel() and tensor.untyped_storage().nbytes() < needed:
        raise RuntimeError(f"{name} has no data: its storage is shorter than its shape")
