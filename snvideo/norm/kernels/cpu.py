"""Kernels for CPUs, in C++ (`cpp/stages.cpp`).

The C++ is compiled when snvideo is installed, where there is a compiler; without one plain
operations do the work.
"""

import ctypes
import math
import os
import warnings
from collections.abc import Callable
from functools import cache, lru_cache
from pathlib import Path

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from snvideo.norm.kernels import Kernels
from snvideo.norm.kernels.tables import Mixture, Moments, TableGradients
from snvideo.norm.mixture import PAPER, PARTS, MixtureSpec
from snvideo.norm.reference import Parameters
from snvideo.norm.running import RunningStatistics


class _Sizes(ctypes.Structure):
    """struct Sizes in cpp/common.h."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("n", "c", "l", "groups", "parts", "channel_groups")),
        ("eps", ctypes.c_double),
        ("momentum", ctypes.c_double),
        ("l1", ctypes.c_bool),
        ("last", ctypes.c_bool),
        ("stored", ctypes.c_bool),
        ("unbiased", ctypes.c_bool),
        ("threads", ctypes.c_int),
    )


_INTERFACE_VERSION = 4
"""Of the arguments below; a library of another would read memory that is not there."""

_POINTERS = {
    "statistics": 4,
    "normalized": 12,
    "table_gradients": 15,
    "x_gradient": 9,
    "forward": 9,
    "backward": 11,
    "evaluated": 8,
}
"""Tensors that the functions of the library take."""

_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


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
        for dtype in _DTYPES:
            suffix = str(dtype).removeprefix("torch.")
            functions[name, dtype] = function.in_dll(library, f"{name}_{suffix}")
    return functions


class CPUKernels(Kernels):
    """Kernels in C++. A tensor that is neither contiguous nor channels last is copied."""

    def available(self) -> bool:
        """True if the C++ was compiled when snvideo was installed."""
        return _library() is not None

    def forward(
        self,
        x: Tensor,
        stored: tuple[Tensor, Tensor] | None,
        groups: int,
        parameters: Parameters,
        spec: MixtureSpec,
        eps: float,
        running: RunningStatistics | None,
    ) -> tuple[Tensor, Tensor, bool]:
        """y; float64 values for the backward pass, the first of which are batch moments; and True
        if running statistics were updated, as they are where they go with x.

        `statistics` and `normalized` in one call, where no other process has a part in the batch.
        """
        dtype = x.dtype
        x, last = _memory(x)
        samples, channels = x.shape[:2]
        values = 2 * groups * channels if "batch" in spec.parts else 0
        if x.numel() == samples * channels:  # moments of layer and groups alone (points.h)
            values += 2 * samples * (1 + spec.channel_groups)
        else:  # four tables in double, and two in the dtype that goes with x (Kept in stages.cpp)
            values += (6 if x.dtype is torch.float64 else 5) * samples * channels
        kept = torch.empty(values, dtype=torch.float64, device="cpu")
        y = torch.empty_like(x)
        taken = running if running is not None and _goes_with(running, x) else None
        batch = stored if taken is None else (taken.mean, taken.variance)
        momentum, unbiased = 0.0, False
        if taken is not None:
            increment_version(taken[:2])
            momentum, unbiased = float(taken.momentum), taken.unbiased
        given = eps, stored is not None, momentum, unbiased
        sizes = _sizes(x.shape, last, groups, spec, *given)
        _call("forward", sizes, x, *_as(x, *(batch or (None, None)), *parameters), kept, y)
        return y if y.dtype is dtype else y.to(dtype), kept, taken is not None

    def backward(
        self,
        dy: Tensor,
        x: Tensor,
        kept: Tensor,
        stored: bool,
        groups: int,
        parameters: Parameters,
        spec: MixtureSpec,
        eps: float,
        x_gradient: bool,
    ) -> tuple[Tensor | None, ...]:
        """Gradients of x, if it is wanted, and of the parameters, from `kept` of `forward`."""
        dtype = x.dtype
        x, last = _memory(x)
        tables = _as(x, *parameters)
        gradients = [None if table is None else torch.empty_like(table) for table in tables]
        weight, _, *logits = tables
        dx = torch.empty_like(x) if x_gradient else None
        given = _sizes(x.shape, last, groups, spec, eps, stored)
        _call("backward", given, _like(dy, x, last), x, kept, weight, *logits, *gradients, dx)
        return dx if dx is None or dx.dtype is dtype else dx.to(dtype), *gradients

    def evaluated(
        self,
        x: Tensor,
        stored: tuple[Tensor, Tensor] | None,
        parameters: Parameters,
        spec: MixtureSpec,
        eps: float,
    ) -> Tensor:
        """y, sample by sample."""
        dtype = x.dtype
        x, last = _memory(x)
        y = torch.empty_like(x)
        sizes = _sizes(x.shape, last, 1, spec, eps, stored is not None)
        _call("evaluated", sizes, x, *_as(x, *(stored or (None, None)), *parameters), y)
        return y if y.dtype is dtype else y.to(dtype)

    def statistics(self, x: Tensor, groups: int | None) -> Moments:
        """Moments of x."""
        x, last = _memory(x)
        center = x.new_empty(x.shape[:2], dtype=_wide(x))
        instance = center.new_empty((2, *center.shape), dtype=torch.float64)
        batch = None if groups is None else instance.new_empty((2, groups, x.shape[1]))
        moments = Moments(center, instance, batch)
        _call("statistics", _sizes(x.shape, last, groups or 1), x, *moments)
        return moments

    def normalized(
        self, x: Tensor, moments: Moments, parameters: Parameters, spec: MixtureSpec, eps: float
    ) -> tuple[Tensor, Mixture]:
        """y and the mixture."""
        dtype = x.dtype
        x, last = _memory(x)
        y, offset_rstd = torch.empty_like(x), torch.empty_like(moments.instance)
        mixture = Mixture(torch.empty_like(moments.center), *offset_rstd)
        sizes = _sizes(x.shape, last, _groups(moments.batch), spec, eps)
        _call("normalized", sizes, x, *moments, *_as(x, *parameters), *mixture, y)
        return y.to(dtype), mixture

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
        sizes = _sizes(x.shape, last, _groups(batch), spec)
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
        sizes = _sizes(x.shape, last, _groups(moments.batch))
        tables = *moments, scale, dinstance, dbatch
        _call("x_gradient", sizes, _like(dy, x, last), x, *tables, dx)
        return dx.to(dtype)


def _memory(x: Tensor) -> tuple[Tensor, bool]:
    """x dense, in a dtype that the library knows; and True if its channels are last in memory."""
    if x.dtype not in _DTYPES:
        x = x.float()
    if x.is_contiguous():
        # One position: both, and last is faster; it cannot share out no samples.
        return x, 0 < x.numel() == x.shape[0] * x.shape[1]
    if x.movedim(1, -1).is_contiguous():
        return x, True
    return x.contiguous(), False


def _like(dy: Tensor, x: Tensor, last: bool) -> Tensor:
    """dy in the dtype and memory format of x."""
    if dy.dtype is not x.dtype:
        dy = dy.to(x.dtype)
    return dy.movedim(1, -1).contiguous().movedim(-1, 1) if last else dy.contiguous()


def _wide(x: Tensor) -> torch.dtype:
    """dtype of tables that go with x."""
    return torch.float64 if x.dtype is torch.float64 else torch.float32


def _goes_with(running: RunningStatistics, x: Tensor) -> bool:
    """True if running statistics can be updated where they are, with those of x."""
    return not isinstance(running.momentum, Tensor) and all(
        table.dtype is _wide(x) and table.is_contiguous() for table in running[:2]
    )


def _as(x: Tensor, *tables: Tensor | None) -> list[Tensor | None]:
    """Contiguous tables in the dtype that goes with x."""
    wide = _wide(x)
    return [
        t if t is None or (t.dtype is wide and t.is_contiguous()) else t.to(wide).contiguous()
        for t in tables
    ]


def _groups(batch: Tensor | None) -> int:
    return 1 if batch is None else batch.shape[1]


def _sizes(
    shape: torch.Size,
    last: bool,
    groups: int,
    spec: MixtureSpec = PAPER,
    eps: float = 0.0,
    stored: bool = False,
    momentum: float = 0.0,
    unbiased: bool = False,
) -> _Sizes:
    settings = eps, stored, momentum, unbiased, torch.get_num_threads()
    return _sizes_of(shape, last, groups, spec, *settings)


@lru_cache(maxsize=1024)
def _sizes_of(
    shape: torch.Size,
    last: bool,
    groups: int,
    spec: MixtureSpec,
    eps: float,
    stored: bool,
    momentum: float,
    unbiased: bool,
    threads: int,
) -> _Sizes:
    samples, channels, *rest = shape
    parts = sum(1 << PARTS.index(part) for part in spec.parts)
    mixed = parts, spec.channel_groups, eps, momentum, spec.ratios == "l1"
    flags = last, stored, unbiased
    return _Sizes(samples, channels, math.prod(rest), groups, *mixed, *flags, threads)


def _call(name: str, sizes: _Sizes, x: Tensor, *others: Tensor | None) -> None:
    """Call a function of the library for the dtype of x."""
    functions = _library()
    assert functions is not None
    addresses = [None if table is None else table.data_ptr() for table in (x, *others)]
    functions[name, x.dtype](sizes, *addresses)
