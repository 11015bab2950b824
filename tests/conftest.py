"""A small data set of real mp4 files, drawn once for the whole suite."""

import os
import signal
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from snvideo.data.toy import make_toy_kinetics

torch.set_num_threads(2)

# A shell ignores it for what it runs in the background, and children inherit that; some tests
# interrupt themselves or a child.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a toy Kinetics of 48 training and 16 test videos, with its index."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # one for all of them
        base = base.parent
    folder = base / "toy"
    with FileLock(base / "toy.lock"):
        if not (folder / "index.csv").exists():
            _make_toy(folder)
    return folder


def _make_toy(folder: Path) -> None:
    from snvideo.data.indexing import sources
    from snvideo.data.indexing.build import build_index

    make_toy_kinetics(folder, train=48, val=16, difficulty="easy", seed=0, workers=2)
    listing = sources.read_kinetics([folder / "train.csv", folder / "val.csv"], folder)
    build_index(listing, folder, folder / "index.csv", workers=2)


@pytest.fixture(scope="session")
def real_videos() -> Path:
    """Folder of real videos, where somebody has named one."""
    folder = os.environ.get("SNVIDEO_TEST_DATA")
    if not folder:
        pytest.skip("SNVIDEO_TEST_DATA names no folder of real videos")
    return Path(folder)
