"""Files of awkward kinds, each made once for all tests of a process."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

Made = Callable[[Callable[[Path], Path], str], Path]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A function of a writer and a name, which gives the path; the file is not to be changed."""

    @cache
    def file(write: Callable[[Path], Path], name: str) -> Path:
        return write(tmp_path_factory.mktemp("made") / name)

    return file
