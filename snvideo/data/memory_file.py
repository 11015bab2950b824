"""Files in memory: arrays and values with large tensors for worker processes."""

import io
import mmap
import os
import pickle
import sys
import tempfile
from collections.abc import Sequence
from functools import cached_property
from multiprocessing import reduction
from typing import Any

import numpy as np


def dump(value: Any) -> tuple[bytes, list[Any]]:
    """Pickle a value, leaving its tensors aside."""
    file = io.BytesIO()
    pickler = _Pickler(file, pickle.HIGHEST_PROTOCOL)
    pickler.tensors = []
    pickler.dump(value)
    return file.getvalue(), pickler.tensors


class MemoryFile:
    """File in memory without a name: /dev/shm, scarce in containers, has no part in it."""

    def __init__(self, sent: Any = None) -> None:
        self.file: Any
        if sent is not None:
            self.file = os.fdopen(sent.detach(), "r+b", buffering=0)
        elif sys.platform == "linux":
            self.file = os.fdopen(os.memfd_create("snvideo"), "r+b", buffering=0)
        else:
            self.file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115

    def __reduce__(self) -> tuple[Any, ...]:
        return MemoryFile, (reduction.DupFd(self.file.fileno()),)

    def write(self, data: bytes, tensors: Sequence[Any]) -> None:
        """Write what `dump` returned."""
        with open(self.file.fileno(), "wb", closefd=False) as file:
            file.seek(0)
            file.writelines((data, *map(_bytes_of, tensors)))

    def read(self, pin: bool = False) -> Any:
        """Read the value that was written, its tensors in page-locked memory if `pin`."""
        with open(self.file.fileno(), "rb", closefd=False) as file:
            file.seek(0)
            unpickler = _Unpickler(file)
            unpickler.tensors, unpickler.pin = [], pin
            value = unpickler.load()
            for tensor in unpickler.tensors:
                file.readinto(_bytes_of(tensor))
        return value


class SharedArray:
    """Array that worker processes share, however they start: a file in memory, then mapped."""

    def __init__(self, dtype: Any) -> None:
        self._dtype, self._memory = np.dtype(dtype), MemoryFile()

    def append(self, values: Any) -> None:
        """Add values at the end, before the first look at them."""
        self._memory.file.write(np.array(values, self._dtype).tobytes())

    @cached_property
    def values(self) -> np.ndarray:
        """All of it, read-only."""
        file = self._memory.file.fileno()
        if not os.fstat(file).st_size:
            return np.empty(0, self._dtype)
        return np.frombuffer(mmap.mmap(file, 0, access=mmap.ACCESS_READ), self._dtype)

    def __getstate__(self) -> dict[str, Any]:
        return {"_dtype": self._dtype, "_memory": self._memory}


class _Pickler(pickle.Pickler):
    """Pickler that leaves the values of tensors aside."""

    tensors: list[Any]

    def persistent_id(self, value: Any) -> Any:
        torch = sys.modules.get("torch")  # imported by whoever has tensors; it takes seconds
        if torch is None or type(value) is not torch.Tensor:
            return None
        # Dimensions as they lie in memory, so that a dense tensor of any format is not copied.
        order = sorted(range(value.dim()), key=value.stride, reverse=True)
        dense = value.permute(order).contiguous()
        self.tensors.append(dense)
        return dense.dtype, tuple(dense.shape), [order.index(i) for i in range(len(order))]


class _Unpickler(pickle.Unpickler):
    """Unpickler whose tensors are to be filled in order."""

    tensors: list[Any]
    pin: bool

    def persistent_load(self, form: Any) -> Any:
        import torch

        dtype, shape, order = form
        self.tensors.append(torch.empty(shape, dtype=dtype, pin_memory=self.pin))
        return self.tensors[-1].permute(order)


def _bytes_of(tensor: Any) -> Any:
    """The values of a contiguous tensor, without a copy."""
    import torch

    return tensor.reshape(-1).view(torch.uint8).numpy()
