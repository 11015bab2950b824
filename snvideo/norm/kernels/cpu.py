"""Kernels for CPUs, in C++ (`cpp/stages.cpp`).

The C++ is compiled when snvideo is installed, where there is a compiler; without one plain
operations do the work.
"""

import ctypes
import math
import os
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from snvideo.norm.kernels import Kernels
from snvideo.norm.kernels.tables import Mixture, Moments, TableGradients
from snvideo.norm.mixture import PAPER, PARTS, MixtureSpec
from snvideo.norm.reference import Parameters


class _Sizes(ctypes.Structure):
    """struct Sizes in cpp/common.h."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("n", "c", "l", "groups", "parts", "channel_groups")),
        ("eps", ctypes.c_double),
        ("l1", ctypes.c_bool),
        ("last", ctypes.c_bool),
        ("threads", ctypes.c_int),
    )


_INTERFACE_VERSION = 3
"""Of the arguments below; a library of another would read memory that is not there."""

_POINTERS = {
    "statistics": 4,
    "normalized": 12,
    "evaluated": 7,
    "table_gradients": 15,
    "x_gradient": 9,
}
"""Tensors that the functions of the library take."""


@cache
def _library() -> dict[tuple[str, torch.dtype], Callable[..., None]] | None:
    """Functions by name and dtype; None without a library."""
    files = (Path(__file__).with_name(f"_cpu{suffix}") for suffix in (".so", ".dylib", ".dll"))
    path = next((file for file in files if file.exists()), None)
    if path is None:
        warnings.warn(
            "snvideo's kernels were not compiled: norms take about four times as long on a CPU; "
            "install snvideo again where there is a C++ compiler",
            stacklevel=2,
        )
        return None
    try:
        # All symbols now: OpenMP's are those of torch, whose threads it has to share.
        library = ctypes.CDLL(str(path), mode=os.RTLD_NOW)
        version = ctypes.c_int64.in_dll(library, "interface_version").value
    except (OSError, ValueError):  # not for this machine, or from before there were versions
        version = None
    if version != _INTERFACE_VERSION:
        warnings.warn(f"{path} is of another version: install snvideo again", stacklevel=2)
        return None
    functions: dict[tuple[str, torch.dtype], Callable[..., None]] = {}
    for name, pointers in _POINTERS.items():
        function = ctypes.CFUNCTYPE(None, ctypes.POINTER(_Sizes), *(ctypes.c_void_p,) * pointers)
        for dtype in (torch.float32, torch.float64):
            suffix = str(dtype).removeprefix("torch.")
            functions[name, dtype] = function.in_dll(library, f"{name}_{suffix}")
    return functions


class CPUKernels(Kernels):
    """Kernels in C++. A tensor that is neither contiguous nor channels last is copied."""

    def available(self) -> bool:
        """True if the C++ was compiled when snvideo was installed."""
        return _library() is not None

    def statistics(self, x: Tensor, groups: int | None) -> Moments:
        """Moments of x."""
        x, last = _memory(x)
        center = x.new_empty(x.shape[:2])
        instance = center.new_empty((2, *center.shape), dtype=torch.float64)
        batch = None if groups is None else instance.new_empty((2, groups, x.shape[1]))
        moments = Moments(center, instance, batch)
        _call("statistics", _sizes(x, last, batch), x, *moments)
        return moments

    def normalized(
        self, x: Tensor, moments: Moments, parameters: Parameters, spec: MixtureSpec, eps: float
    ) -> tuple[Tensor, Mixture]:
        """y and the mixture."""
        dtype = x.dtype
        x, last = _memory(x)
        y, offset_rstd = torch.empty_like(x), torch.empty_like(moments.instance)
        mixture = Mixture(torch.empty_like(moments.center), *offset_rstd)
        sizes = _sizes(x, last, moments.batch, spec, eps)
        _call("normalized", sizes, x, *moments, *_as(x, *parameters), *mixture, y)
        return y.to(dtype), mixture

    def evaluated(
        self,
        x: Tensor,
        batch: Tensor | None,
        parameters: Parameters,
        spec: MixtureSpec,
        eps: float,
    ) -> Tensor:
        """y, sample by sample."""
        dtype = x.dtype
        x, last = _memory(x)
        y = torch.empty_like(x)
        _call("evaluated", _sizes(x, last, batch, spec, eps), x, batch, *_as(x, *parameters), y)
        return y.to(dtype)

    def table_gradients(
        self,
        dy: Tensor,
        x: Tensor,
        moments: Moments,
        mixture: Mixture,
        parameters: Parameters,
        spec: MixtureSpec,
    ) -> TableGradients:
        """Gradients of the parameters and of the moments."""
        x, last = _memory(x)
        _, instance, batch = moments
        weight, _, mean_logits, var_logits = parameters
        dweight, dbias = instance.new_empty((2, x.shape[1]))
        dlogits = instance.new_empty((2, len(mean_logits)))
        dbatch = None if batch is None else torch.empty_like(batch)
        gradients = TableGradients(dweight, dbias, dlogits, torch.empty_like(instance), dbatch)
        inputs = *moments, mixture.offset, mixture.rstd, *_as(x, weight, mean_logits, var_logits)
        sizes = _sizes(x, last, batch, spec)
        _call("table_gradients", sizes, _like(dy, x, last), x, *inputs, *gradients)
        return gradients

    def x_gradient(
        self,
        dy: Tensor,
        x: Tensor,
        moments: Moments,
        scale: Tensor,
        dinstance: Tensor,
        dbatch: Tensor | None,
    ) -> Tensor:
        """Gradient of x."""
        dtype = x.dtype
        x, last = _memory(x)
        dx = torch.empty_like(x)
        tables = *moments, scale, dinstance, dbatch
        _call("x_gradient", _sizes(x, last, moments.batch), _like(dy, x, last), x, *tables, dx)
        return dx.to(dtype)


def _memory(x: Tensor) -> tuple[Tensor, bool]:
    """x in float32 or float64, dense; and True if its channels are last in memory."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    if x.is_contiguous():
        # One position: both, and last is faster; it cannot share out no samples.
        return x, 0 < x.numel() == x.shape[0] * x.shape[1]
    if x.movedim(1, -1).is_contiguous():
        return x, True
    return x.contiguous(), False


def _like(dy: Tensor, x: Tensor, last: bool) -> Tensor:
    """dy in the dtype and memory format of x."""
    dy = dy.to(x.dtype)
    return dy.movedim(1, -1).contiguous().movedim(-1, 1) if last else dy.contiguous()


def _as(x: Tensor, *tables: Tensor | None) -> list[Tensor | None]:
    """Contiguous tables in the dtype of x."""
    return [None if table is None else table.to(x.dtype).contiguous() for table in tables]


@cache
def _part_bits(parts: tuple[str, ...]) -> int:
    return sum(1 << PARTS.index(part) for part in parts)


def _sizes(
    x: Tensor, last: bool, batch: Tensor | None, spec: MixtureSpec = PAPER, eps: float = 0.0
) -> _Sizes:
    samples, channels = x.shape[:2]
    groups = 1 if batch is None else batch.shape[1]
    positions = math.prod(x.shape[2:])
    mixed = _part_bits(spec.parts), spec.channel_groups, eps, spec.ratios == "l1"
    return _Sizes(samples, channels, positions, groups, *mixed, last, torch.get_num_threads())


def _call(name: str, sizes: _Sizes, x: Tensor, *others: Tensor | None) -> None:
    """Call a function of the library for the dtype of x."""
    functions = _library()
    assert functions is not None
    addresses = (None if table is None else table.data_ptr() for table in (x, *others))
    functions[name, x.dtype](sizes, *addresses)
