"""Locks: who is told what, and what becomes of those that were left behind."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from snvideo import lock
from snvideo.errors import SnvideoError
from snvideo.lock import InUseError, locked

OTHER = {"system": "elsewhere", "process": 7, "started": "5", "since": "2026-01-02 03:04:05"}
HOLD = """
import sys, time
from pathlib import Path
from snvideo.lock import locked
with locked(Path(sys.argv[1]), "it"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / ".index.csv.lock"


def test_second_holder_is_told_who_has_it(path: Path) -> None:
    with locked(path, "index k.csv"):
        who = f"index k.csv: in use by process {os.getpid()} on "
        with pytest.raises(SnvideoError, match=who), locked(path, "index k.csv"):
            pass
        assert path.exists()
    assert not list(path.parent.iterdir())


def test_it_is_given_back_after_an_error(path: Path) -> None:
    for _ in range(2):
        with pytest.raises(KeyError), locked(path, "it"):
            raise KeyError
    assert not list(path.parent.iterdir())


def test_lock_of_a_process_that_was_killed_is_taken_over(path: Path) -> None:
    call = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(call, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(SnvideoError, match=f"process {holder.pid} on"), locked(path, "it"):
            pass
        holder.kill()
    assert path.exists()
    with locked(path, "it"):
        assert json.loads(path.read_text())["process"] == os.getpid()


def test_number_of_a_dead_process_may_be_used_again(path: Path) -> None:
    with locked(path, "it"):
        left = json.loads(path.read_text())
    path.write_text(json.dumps(left | {"started": "1"}))
    with locked(path, "it"):
        pass
    path.write_text(json.dumps(left))
    with pytest.raises(SnvideoError, match="in use"), locked(path, "it"):
        pass


NODE7 = json.dumps({"host": "node7", **OTHER})


@pytest.mark.parametrize("content", [NODE7, "", "{"])
def test_holder_on_another_host_is_told_by_its_sign_of_life(path, monkeypatch, content):
    monkeypatch.setattr(lock, "_POLL", 0.01)
    path.write_text(content)
    alive = threading.Timer(0.2, lambda: os.utime(path, (1e9, time.time() + 1)))
    alive.start()
    who = "process 7 on node7 since 2026-01-02 03:04:05" if "node7" in content else "has not said"
    with pytest.raises(InUseError, match=who), locked(path, "it"):
        pass
    alive.join()
    assert path.read_text() == content


@pytest.mark.parametrize("content", [NODE7, "", "{"])
def test_lock_of_another_host_is_taken_over_without_a_sign_of_life(
    path, monkeypatch, caplog, content
):
    monkeypatch.setattr(lock, "_POLL", 0.01)
    monkeypatch.setattr(lock, "STALE", 0.5)
    path.write_text(content)
    begun, looks = time.monotonic(), []
    with locked(path, "run x", lambda: looks.append(1)):
        assert len(looks) > 1  # a watchdog may hear of it
        assert json.loads(path.read_text())["process"] == os.getpid()
    assert 0.4 < time.monotonic() - begun < 10
    who = "process 7 on node7" if "node7" in content else "a process that has not said its name"
    assert sum(f"run x: held by {who}" in message for message in caplog.messages) == 1


def test_old_lock_of_another_host_is_taken_over_at_once(path):
    path.write_text(NODE7)
    old = time.time() - lock.STALE - 1
    os.utime(path, (old, old))
    with locked(path, "it"):
        assert path.stat().st_mtime > old + lock.STALE


def test_lock_that_is_given_back_meanwhile_is_had(path, monkeypatch):
    monkeypatch.setattr(lock, "_POLL", 0.01)
    path.write_text(NODE7)
    threading.Timer(0.2, path.unlink).start()
    with locked(path, "it"):
        assert json.loads(path.read_text())["process"] == os.getpid()


def test_lock_that_is_only_just_made_names_its_holder(path, monkeypatch):
    monkeypatch.setattr(lock, "_POLL", 0.01)
    path.write_text("")
    named = path.with_name("named")
    named.write_text(NODE7)
    threading.Timer(0.2, lambda: named.replace(path)).start()  # never empty with another time
    with pytest.raises(InUseError, match="process 7 on node7"), locked(path, "it"):
        pass


def test_holder_shows_that_it_lives(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "_BEAT", 0.01)
    with locked(path, "it"):
        os.utime(path, (0, 0))
        until = time.monotonic() + 10
        while path.stat().st_mtime == 0:
            assert time.monotonic() < until
            time.sleep(0.01)


def test_lock_that_was_taken_over_is_left_to_its_new_holder(path: Path) -> None:
    new = json.dumps({"host": "node7", **OTHER})
    with locked(path, "it"):
        path.write_text(new)
    assert path.read_text() == new


def test_lock_made_while_a_stale_one_is_removed_stays(path: Path) -> None:
    new = json.dumps({"host": "node7", **OTHER})
    path.write_text(new)
    lock._take_away(path, None)
    assert path.read_text() == new and len(list(path.parent.iterdir())) == 1
