"""The two ways to normalize on a CPU, to be tested alike."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from snvideo.norm.kernels.cpu import available

PATHS = ["plain", "kernels"] if available() else ["plain"]


@contextmanager
def path_of(name: str) -> Iterator[None]:
    """Within, norms go one of `PATHS`."""
    if name == "kernels":
        yield
    else:
        with mock.patch("snvideo.norm.kernels.cpu.available", lambda: False):
            yield
