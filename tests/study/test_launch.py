"""Commands, and the end of a child process when its study is stopped."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from snvideo.study import launch as module
from snvideo.study.launch import command, launch, sigterm_exits


def test_command_of_one_process():
    expected = [sys.executable, "-m", "snvideo", "train", "a/cell.yaml"]
    assert command(Path("a/cell.yaml"), 1) == expected


def test_command_of_two_processes_goes_through_torchrun():
    words = command(Path("a/cell.yaml"), 2)
    assert words[1:6] == [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
    ]
    assert words[6:] == ["-m", "snvideo", "train", "a/cell.yaml"]


def test_exit_status_is_returned():
    assert launch([sys.executable, "-c", "raise SystemExit(3)"]) == 3


def _stop_after_start(marker: Path, signum: int) -> None:
    while not marker.exists():
        time.sleep(0.01)
    os.kill(os.getpid(), signum)


_CHILD = """
import os, pathlib, signal, sys, time
if sys.argv[2] == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
path = pathlib.Path(sys.argv[1])
path.with_suffix(".part").write_text(str(os.getpid()))
path.with_suffix(".part").rename(path)
time.sleep(60)
"""


@pytest.mark.parametrize(
    ("signum", "error", "mode"),
    [
        (signal.SIGINT, KeyboardInterrupt, "polite"),
        (signal.SIGTERM, SystemExit, "polite"),
        (signal.SIGTERM, SystemExit, "deaf"),
    ],
)
def test_being_stopped_ends_the_child(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signum: int, error: type, mode: str
):
    monkeypatch.setattr(module, "PATIENCE", 0.5)
    marker = tmp_path / "pid"
    stopper = threading.Thread(target=_stop_after_start, args=(marker, signum))
    stopper.start()
    with pytest.raises(error), sigterm_exits():
        launch([sys.executable, "-c", _CHILD, str(marker), mode])
    stopper.join()
    with pytest.raises(ProcessLookupError):
        os.kill(int(marker.read_text()), 0)


def test_sigterm_handler_is_put_back():
    before = signal.getsignal(signal.SIGTERM)
    with sigterm_exits():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before
