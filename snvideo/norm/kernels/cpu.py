"""The four stages of Switchable Normalization on a CPU, in C++ (`cpp/stages.cpp`).

The C++ is compiled when snvideo is installed, where there is a compiler; without one `available` is
false and plain operations do the work.
"""

import ctypes
import os
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

_SUFFIX = {torch.float32: "float32", torch.float64: "float64"}


class _Sizes(ctypes.Structure):
    """struct Sizes in cpp/kernels.h."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("n", "c", "l", "groups", "logits")),
        ("eps", ctypes.c_double),
        ("last", ctypes.c_bool),
        ("threads", ctypes.c_int),
    )


_POINTERS = {"statistics": 4, "normalized": 12, "table_gradients": 15, "x_gradient": 9}


@cache
def _library() -> ctypes.CDLL | None:
    files = (Path(__file__).with_name(f"_cpu{suffix}") for suffix in (".so", ".dylib", ".dll"))
    path = next((file for file in files if file.exists()), None)
    if path is None:
        return None
    try:
        # All symbols now: OpenMP's are those of torch, whose threads it has to share.
        library = ctypes.CDLL(str(path), mode=os.RTLD_NOW)
    except OSError:
        return None
    for name, pointers in _POINTERS.items():
        for dtype in _SUFFIX.values():
            function = getattr(library, f"{name}_{dtype}")
            function.argtypes = [ctypes.POINTER(_Sizes), *(ctypes.c_void_p,) * pointers]
            function.restype = None
    return library


def available() -> bool:
    """Whether the C++ was compiled when snvideo was installed."""
    return _library() is not None


def statistics(x: Tensor, groups: int | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """The first pass: moments of x.

    Args:
        x: (N, C, \\*S), floating point, contiguous or channels last; another memory format is
            copied.
        groups: number of equal groups of consecutive samples that have batch statistics of their
            own; None: no batch statistics.

    Returns:
        the center (N, C), in float32 or the dtype of x if that is wider; means and biased variances
        (2, N, C) of every sample and channel over its positions; and the same (2, groups, C) over
        the samples of a group, or None. Both are float64: a mean is its center and what the
        center's dtype cannot hold of it.
    """
    x, last = _memory(x)
    center = x.new_empty(x.shape[:2])
    moments = center.new_empty((2, *center.shape), dtype=torch.float64)
    batch = None if groups is None else moments.new_empty((2, groups, x.shape[1]))
    _call("statistics", _sizes(x, last, batch), x, center, moments, batch)
    return center, moments, batch


def normalized(
    x: Tensor,
    center: Tensor,
    moments: Tensor,
    batch: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    mean_logits: Tensor,
    var_logits: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The second pass: `tables.mixture`, and y = (x - center) * scale + shift.

    Args:
        x: (N, C, \\*S).
        center, moments, batch, weight, bias, mean_logits, var_logits, eps: as in `tables.mixture`.

    Returns:
        y, in the dtype and memory format of x; and scale, offset and rstd of `tables.mixture`.
    """
    dtype = x.dtype
    x, last = _memory(x)
    y, scale = torch.empty_like(x), torch.empty_like(center)
    offset, rstd = torch.empty_like(moments)
    sizes = _sizes(x, last, batch, len(mean_logits), eps)
    parameters = (_as(table, x) for table in (weight, bias, mean_logits, var_logits))
    outputs = scale, offset, rstd, y
    _call("normalized", sizes, x, center, moments, batch, *parameters, *outputs)
    return y.to(dtype), scale, offset, rstd


def table_gradients(
    dy: Tensor,
    x: Tensor,
    center: Tensor,
    moments: Tensor,
    batch: Tensor | None,
    offset: Tensor,
    rstd: Tensor,
    weight: Tensor | None,
    mean_logits: Tensor,
    var_logits: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """The third pass: sums of dy and of dy * (x - center), and `tables.mixture_gradient`.

    Args:
        dy, x: (N, C, \\*S).
        center, moments, batch, offset, rstd, weight, mean_logits, var_logits: as in
            `tables.mixture`.

    Returns:
        what `tables.mixture_gradient` returns.
    """
    x, last = _memory(x)
    dweight, dbias = moments.new_empty((2, x.shape[1]))
    dlogits = moments.new_empty((2, len(mean_logits)))
    dinstance = torch.empty_like(moments)
    dbatch = None if batch is None else torch.empty_like(batch)
    tables = center, moments, batch, offset, rstd
    parameters = (_as(table, x) for table in (weight, mean_logits, var_logits))
    outputs = dweight, dbias, dlogits, dinstance, dbatch
    sizes = _sizes(x, last, batch, len(mean_logits))
    _call("table_gradients", sizes, _like(dy, x, last), x, *tables, *parameters, *outputs)
    return outputs


def x_gradient(
    dy: Tensor,
    x: Tensor,
    center: Tensor,
    scale: Tensor,
    moments: Tensor,
    batch: Tensor | None,
    dinstance: Tensor,
    dbatch: Tensor | None,
) -> Tensor:
    """The fourth pass: `tables.slope_and_level`, dx = dy * scale + (x - center) * slope + level.

    Args:
        dy, x: (N, C, \\*S).
        scale: (N, C), of `normalized`.
        center, moments, batch, dinstance, dbatch: as in `tables.slope_and_level`.

    Returns:
        dx, in the dtype and memory format of x.
    """
    dtype = x.dtype
    x, last = _memory(x)
    dx = torch.empty_like(x)
    tables = center, scale, moments, batch, dinstance, dbatch
    _call("x_gradient", _sizes(x, last, batch), _like(dy, x, last), x, *tables, dx)
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


def _as(table: Tensor | None, x: Tensor) -> Tensor | None:
    return None if table is None else table.to(x.dtype)


def _sizes(
    x: Tensor, last: bool, batch: Tensor | None, logits: int = 0, eps: float = 0.0
) -> _Sizes:
    samples, channels = x.shape[:2]
    groups = 1 if batch is None else batch.shape[1]
    positions = x.numel() // (samples * channels)
    return _Sizes(samples, channels, positions, groups, logits, eps, last, torch.get_num_threads())


def _call(name: str, sizes: _Sizes, x: Tensor, *others: Tensor | None) -> None:
    """Call a function of the library for the dtype of x."""
    function = getattr(_library(), f"{name}_{_SUFFIX[x.dtype]}")
    function(sizes, x.data_ptr(), *(None if t is None else t.data_ptr() for t in others))
