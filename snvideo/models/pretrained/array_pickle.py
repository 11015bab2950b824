"""Pickles of NumPy arrays, as Caffe2 and Python 2 wrote them, read without running anything."""

from __future__ import annotations

import collections
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

TORCH_LEGACY = b"\x8a\x0a"
"""After the protocol of a pickle: the number with which files of early torch begin."""


def _latin1(text: str, encoding: str) -> bytes:
    """Bytes that Python 3 writes as text for Python 2, `_codecs.encode` for one encoding."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"GLOBAL _codecs.encode of {encoding}")
    return text.encode(encoding)


_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _latin1,
    **{
        (f"{package}.multiarray", name): value.__reduce__()[0]  # as NumPy itself writes it
        for package in ("numpy.core", "numpy._core")  # before NumPy 2, and since
        for name, value in {"_reconstruct": np.empty(0), "scalar": np.float32(0)}.items()
    },
}
"""All that a pickle of arrays asks for."""


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickler of plain values and arrays."""

    def find_class(self, module: str, name: str) -> Any:
        """The object that a file asks for by name, if it is of arrays."""
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"GLOBAL {module}.{name}") from None


def read_array_pickle(path: Path) -> Any:
    """The content of a file of Caffe2, whose `blobs` are tensors.

    Raises:
        pickle.UnpicklingError: if it asks for anything but arrays; its message has `GLOBAL` and
            what it asked for.
        Exception: of any kind, if it is damaged.
    """
    with path.open("rb") as file:
        found = _ArrayUnpickler(file, encoding="latin1").load()
    blobs = found.get("blobs") if isinstance(found, Mapping) else None
    if not isinstance(blobs, Mapping):
        raise pickle.UnpicklingError("a pickle that holds no blobs of Caffe2")
    tensors = {name: _tensor(value) for name, value in blobs.items()}
    return {**found, "blobs": {k: t for k, t in tensors.items() if t is not None}}


def _tensor(value: Any) -> Tensor | None:
    """A tensor of an array of numbers; None for anything else, as an iteration counter may be."""
    array = np.asarray(value)
    if array.dtype.kind not in "fiu":
        return None
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=True))
