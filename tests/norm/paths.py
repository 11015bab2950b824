"""The two ways to normalize on a CPU, to be tested alike."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from snvideo.norm.kernels.cpu import CPUKernels

PATHS = ["plain", "kernels"] if CPUKernels().available() else ["plain"]


@contextmanager
def path_of(name: str) -> Iterator[None]:
    """Within, norms go one of `PATHS`."""
    if name == "kernels":
        yield
    else:
        with mock.patch.object(CPUKernels, "available", lambda kernels: False):
            yield
