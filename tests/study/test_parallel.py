"""Calls that share the runs of a study: their part of the machine, and their end."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from snvideo.errors import PreemptedError, SnvideoError
from snvideo.study import parallel
from snvideo.study.compare import run_study
from snvideo.study.config import cells
from snvideo.study.parallel import call_environment, further_calls
from tests.study.fakes import run_config, study_config, write_finished
from tests.study.test_compare import Child, write_table


def test_calls_divide_cores_among_their_processes(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    assert call_environment(0, 4, 1, 0, {}) == {"OMP_NUM_THREADS": "4"}
    assert call_environment(3, 4, 2, 0, {}) == {"OMP_NUM_THREADS": "2"}
    assert call_environment(0, 32, 1, 0, {}) == {"OMP_NUM_THREADS": "1"}
    assert call_environment(0, 4, 1, 0, {"OMP_NUM_THREADS": "3"}) == {"OMP_NUM_THREADS": "3"}


@pytest.mark.parametrize(
    ("processes", "gpus", "visible", "expected"),
    [
        (1, 4, None, ["0", "1", "2", "3"]),
        (2, 4, None, ["0,1", "2,3", "0,1", "2,3"]),
        (1, 3, "5,6,GPU-a1", ["5", "6", "GPU-a1", "5"]),
        (2, 3, "", ["0,1", "2,0", "1,2", "0,1"]),
        (4, 2, None, ["0,1"] * 4),
    ],
)
def test_each_process_of_a_run_has_a_gpu_of_its_own_where_they_suffice(
    processes, gpus, visible, expected
):
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    calls = [call_environment(call, 4, processes, gpus, environment) for call in range(4)]
    assert [call["CUDA_VISIBLE_DEVICES"] for call in calls] == expected


def test_calls_are_waited_for_and_their_failure_is_told(tmp_path, caplog):
    script = "import os, sys; print(os.environ['PART']); sys.exit(int(os.environ['PART']))"
    with further_calls([sys.executable, "-c", script], [{"PART": "0"}, {"PART": "3"}], tmp_path):
        pass
    assert (tmp_path / "compare_2.log").read_text() == "0\n"
    assert (tmp_path / "compare_3.log").read_text() == "3\n"
    (warning,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert "code 3" in warning.message
    assert "compare_3.log" in warning.message


@pytest.mark.parametrize("ignores", [False, True])
def test_calls_end_with_the_block(tmp_path, monkeypatch, ignores):
    monkeypatch.setattr(parallel, "TERMINATE_TIMEOUT", 0.3)
    begun = tmp_path / "compare_2.log"
    ignore = "signal.signal(signal.SIGTERM, signal.SIG_IGN)" if ignores else "None"
    script = f"import os, signal, time; {ignore}; print(os.getpid(), flush=True); time.sleep(60)"
    with (
        pytest.raises(KeyboardInterrupt),
        further_calls([sys.executable, "-c", script], [{}], tmp_path),
    ):
        while not begun.read_text():
            time.sleep(0.01)
        raise KeyboardInterrupt
    process = int(begun.read_text())
    assert subprocess.run(["ps", "-p", str(process)], capture_output=True).returncode == 1


def test_no_call_is_begun_for_a_folder_that_is_refused(tmp_path):
    study = study_config(norms=("sn",))
    write_finished(cells(run_config(tmp_path), study)[0])
    changed = run_config(tmp_path, optim={"epochs": 12, "warmup_epochs": 1})
    others = further_calls([sys.executable, "-c", ""], [{}], tmp_path)
    with pytest.raises(SnvideoError):
        run_study(changed, study, write_table, Child(), others)
    assert not list(tmp_path.glob("*.log"))


def test_a_stop_while_other_calls_are_waited_for_ends_them(tmp_path):
    script = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    others = further_calls([sys.executable, "-c", script], [{}], tmp_path)

    def stop_once_runs_are_done(path):
        while not (tmp_path / "compare_2.log").read_text():
            time.sleep(0.01)
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
        return write_table(path)

    with pytest.raises(PreemptedError):
        run_study(
            run_config(tmp_path),
            study_config(norms=("sn",)),
            stop_once_runs_are_done,
            Child(),
            others,
        )
    process = (tmp_path / "compare_2.log").read_text().strip()
    assert subprocess.run(["ps", "-p", process], capture_output=True).returncode == 1


def test_one_call_is_left_as_it_is(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with parallel.parallel_calls(["compare", "x"], 1, 1, tmp_path):
        assert "OMP_NUM_THREADS" not in os.environ
    assert not list(tmp_path.iterdir())
