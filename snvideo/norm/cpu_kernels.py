"""Switchable Normalization's passes over x and arithmetic on tables, on a CPU, in C++.

The C++ is compiled when snvideo is installed, where there is a compiler; without one `available` is
false and plain operations do the work.
"""

import ctypes
import os
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import torch
from torch import Tensor

_SUFFIX = {torch.float32: "float32", torch.float64: "float64"}


class _Shape(ctypes.Structure):
    """struct Shape: samples, channels, positions, channels last, threads."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in "ncl"),
        ("last", ctypes.c_bool),
        ("threads", ctypes.c_int),
    )


class _Tables(ctypes.Structure):
    """struct Tables: samples, channels, positions, ghost groups, logits, eps."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("n", "c", "l", "groups", "logits")),
        ("eps", ctypes.c_double),
    )


_POINTERS = {
    _Shape: {"moments": 4, "scale_and_shift": 5, "sums": 5, "input_gradient": 7},
    _Tables: {"batch_moments": 2, "mixture": 11, "mixture_gradient": 14, "slope_and_level": 7},
}


@cache
def _library() -> ctypes.CDLL | None:
    for suffix in EXTENSION_SUFFIXES:
        path = Path(__file__).with_name(f"_cpu_kernels{suffix}")
        if path.exists():
            break
    else:
        return None
    try:
        # All symbols now: OpenMP's are those of torch, whose threads it has to share.
        library = ctypes.CDLL(str(path), mode=os.RTLD_NOW)
    except OSError:
        return None
    for struct, functions in _POINTERS.items():
        for name, pointers in functions.items():
            for dtype in ("float32", "float64"):
                function = getattr(library, f"{name}_{dtype}")
                function.argtypes = [ctypes.POINTER(struct), *(ctypes.c_void_p,) * pointers]
                function.restype = None
    return library


def available() -> bool:
    """Whether the C++ was compiled when snvideo was installed."""
    return _library() is not None


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of every sample and channel over its positions.

    Args:
        x: (N, C, \\*S), contiguous or channels last; another memory format is copied.

    Returns:
        the center (N, C), in float32 or the dtype of x if that is wider; and means and variances
        (2, N, C) in float64. A mean is its center and what the center's dtype cannot hold of it.
    """
    x, last = _memory(x)
    center = x.new_empty(x.shape[:2])
    found = center.new_empty((2, *center.shape), dtype=torch.float64)
    _call("moments", x, last, center, *found)
    return center, found


def scale_and_shift(x: Tensor, center: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """(x - center) * scale + shift, in the dtype and memory format of x.

    The difference is taken first: folding the center into the shift would round away the spread of
    a channel whose mean is large.

    Args:
        x: (N, C, \\*S).
        center, scale, shift: (N, C).
    """
    dtype = x.dtype
    x, last = _memory(x)
    y = torch.empty_like(x)
    _call("scale_and_shift", x, last, center, scale.to(x.dtype), shift.to(x.dtype), y)
    return y.to(dtype)


def sums(dy: Tensor, x: Tensor, center: Tensor) -> tuple[Tensor, Tensor]:
    """The sums over positions of dy and of dy * (x - center).

    Args:
        dy, x: (N, C, \\*S).
        center: (N, C).

    Returns:
        (N, C) each, in float64.
    """
    x, last = _memory(x)
    total, dot = (torch.empty_like(center, dtype=torch.float64) for _ in range(2))
    _call("sums", _like(dy, x, last), last, x, center, total, dot)
    return total, dot


def input_gradient(
    dy: Tensor, x: Tensor, center: Tensor, scale: Tensor, slope: Tensor, level: Tensor
) -> Tensor:
    """dy * scale + (x - center) * slope + level, in the dtype and memory format of x.

    Args:
        dy, x: (N, C, \\*S).
        center, scale, slope, level: (N, C).
    """
    dtype = x.dtype
    x, last = _memory(x)
    dx = torch.empty_like(x)
    tables = (table.to(x.dtype) for table in (scale, slope, level))
    _call("input_gradient", _like(dy, x, last), last, x, center, *tables, dx)
    return dx.to(dtype)


def _memory(x: Tensor) -> tuple[Tensor, bool]:
    """x in float32 or float64, dense, and whether its channels are last in memory."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    if x.is_contiguous():
        return x, False
    if x.movedim(1, -1).is_contiguous():
        return x, True
    return x.contiguous(), False


def _like(dy: Tensor, x: Tensor, last: bool) -> Tensor:
    """dy in the dtype and memory format of x."""
    dy = dy.to(x.dtype)
    return dy.movedim(1, -1).contiguous().movedim(-1, 1) if last else dy.contiguous()


def _call(name: str, first: Tensor, last: bool, *others: Tensor) -> None:
    """Call a pass for the dtype of its first x-sized tensor."""
    samples, channels = first.shape[:2]
    positions = first.numel() // (samples * channels)
    shape = _Shape(samples, channels, positions, last, torch.get_num_threads())
    function = getattr(_library(), f"{name}_{_SUFFIX[first.dtype]}")
    function(shape, first.data_ptr(), *(other.data_ptr() for other in others))


# The arithmetic on tables: the functions of `snvideo.norm.tables`, each in one call -------------


def batch_moments(moments: Tensor, groups: int) -> Tensor:
    """As `tables.batch_moments`."""
    _, samples, channels = moments.shape
    batch = moments.new_empty((2, groups, channels))
    _work("batch_moments", torch.float64, (samples, channels, 0, groups, 0, 0), moments, batch)
    return batch


def mixture(
    center: Tensor,
    moments: Tensor,
    batch: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    mean_logits: Tensor,
    var_logits: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As `tables.mixture`; scale and shift are in the dtype of the center."""
    sizes = (*center.shape, 0, _groups(batch), len(mean_logits), eps)
    scale, shift = center.new_empty((2, *center.shape))
    away, inverse = moments.new_empty(moments.shape)
    parameters = (_as(table, center) for table in (weight, bias, mean_logits, var_logits))
    outputs = scale, shift, away, inverse
    _work("mixture", center.dtype, sizes, center, moments, batch, *parameters, *outputs)
    return outputs


def mixture_gradient(
    total: Tensor,
    dot: Tensor,
    away: Tensor,
    inverse: Tensor,
    moments: Tensor,
    batch: Tensor | None,
    weight: Tensor | None,
    mean_logits: Tensor,
    var_logits: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """As `tables.mixture_gradient`."""
    samples, channels = total.shape
    sizes = (samples, channels, 0, _groups(batch), len(mean_logits), 0)
    dweight, dbias = total.new_empty((2, channels))
    dlogits = total.new_empty((2, len(mean_logits)))
    dinstance = torch.empty_like(moments)
    dbatch = None if batch is None else torch.empty_like(batch)
    parameters = (_as(table, total) for table in (weight, mean_logits, var_logits))
    inputs = total, dot, away, inverse, moments, batch, *parameters
    outputs = dweight, dbias, dlogits, dinstance, dbatch
    _work("mixture_gradient", torch.float64, sizes, *inputs, *outputs)
    return outputs


def slope_and_level(
    dinstance: Tensor,
    dbatch: Tensor | None,
    center: Tensor,
    moments: Tensor,
    batch: Tensor | None,
    positions: int,
) -> tuple[Tensor, Tensor]:
    """As `tables.slope_and_level`, in the dtype of the center."""
    slope, level = center.new_empty((2, *center.shape))
    inputs = dinstance, dbatch, center, moments, batch
    sizes = (*center.shape, positions, _groups(batch), 0, 0)
    _work("slope_and_level", center.dtype, sizes, *inputs, slope, level)
    return slope, level


def _groups(batch: Tensor | None) -> int:
    return 1 if batch is None else batch.shape[1]


def _as(table: Tensor | None, like: Tensor) -> Tensor | None:
    return None if table is None else table.to(like.dtype)


def _work(name: str, dtype: torch.dtype, sizes: tuple[float, ...], *tables: Tensor | None) -> None:
    """Call a function on tables, for centers and parameters of a dtype."""
    function = getattr(_library(), f"{name}_{_SUFFIX[dtype]}")
    function(_Tables(*sizes), *(None if t is None else t.data_ptr() for t in tables))
