"""Ctrl-C ends a command without a traceback, whatever it is at."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.engine.test_unlabelled import begun

ROOT = Path(__file__).parents[1]

_INTERRUPTED = """
import os, runpy, signal, sys, threading

kind, part, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
del sys.argv[1:4]
first = True

def interrupt():
    os.killpg(0, signal.SIGINT)  # as a terminal does, workers included

def hook(event, values):
    global first
    if first and event == kind and part in str(values[0] if values else ""):
        first = False
        if seconds:
            timer = threading.Timer(seconds, interrupt)
            timer.daemon = True
            timer.start()
        else:
            interrupt()

sys.addaudithook(hook)
runpy.run_module("snvideo", run_name="__main__")
"""
"""Runs the command, and interrupts it some seconds after the first event of a kind with a part in
its first value."""

MOMENTS = {
    "import of the command line": ("import", "typer", 0),
    "import of torch": ("import", "torch.nn", 0),
    "index": ("open", "index.csv", 0),
    "start of workers": ("os.fork", "", 0),
    "videos": ("os.fork", "", 0.4),
}


_LOST = """
import os, signal, sys, time
from snvideo import cli

class Slow:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)  # Ctrl-C just now
        time.sleep(0.1)

def work(arguments):
    try:
        del [Slow()][0]
        time.sleep(20)
    except KeyboardInterrupt:
        return 7
    return 0

cli.run = work
cli.main()
"""


def test_a_request_that_python_passes_over_is_repeated():
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    call = [sys.executable, "-c", _LOST]
    done = subprocess.run(call, capture_output=True, text=True, env=environment, timeout=60)
    assert (done.returncode, done.stderr) == (7, "")


@pytest.fixture(scope="module")
def run(toy, tmp_path_factory) -> Path:
    return begun(toy, tmp_path_factory.mktemp("run") / "run", "data.start_method=fork")


@pytest.mark.process
@pytest.mark.parametrize("moment", MOMENTS)
def test_an_interrupted_evaluation_leaves_no_traceback(run, tmp_path, moment):
    where = [str(value) for value in MOMENTS[moment]]
    # Views enough for seconds of work after the workers have started.
    options = ["data.workers=2", "data.test.clips=40", "test_batch=1", f"output={tmp_path}/out"]
    done = subprocess.run(
        [sys.executable, "-c", _INTERRUPTED, *where, "evaluate", str(run), *options],
        **{"capture_output": True, "text": True, "timeout": 120, "start_new_session": True},
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode in (130, -signal.SIGINT), done.stderr
    for word in ("Traceback", "Exception", "Error", "__del__"):
        assert word not in done.stderr
    assert not list((tmp_path / "out").glob("evaluation*"))
