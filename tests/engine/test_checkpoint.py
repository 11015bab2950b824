"""Checkpoints: whole or not there, never code, and strict about what they fit."""

import errno
import hashlib
import os
import pickle
import random
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from snvideo.engine import checkpoint
from snvideo.engine.checkpoint import (
    checkpoints,
    evaluated_weights,
    load_checkpoint,
    load_weights,
    newest_checkpoint,
    save_best,
    save_checkpoint,
)
from snvideo.errors import SnvideoError
from snvideo.models import create_model


def state(step: int, size: int = 500) -> dict:
    return {"model": {"a": torch.full((size,), float(step)), "b": torch.tensor(step)}, "x": [step]}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def with_checksums(*steps: int) -> list[str]:
    return [f"step_{step:08d}.pt{suffix}" for step in steps for suffix in ("", ".sha256")]


def test_round_trip_keeps_the_newest_with_their_checksums(tmp_path):
    for step in (5, 10, 15):
        assert save_checkpoint(tmp_path, step, state(step), keep=2).exists()
    assert [path.name for path in checkpoints(tmp_path)] == ["step_00000010.pt", "step_00000015.pt"]
    assert names(tmp_path) == with_checksums(10, 15)
    path, found = newest_checkpoint(tmp_path)
    assert path.name == "step_00000015.pt" and found["x"] == [15]
    assert torch.equal(found["model"]["a"], torch.full((500,), 15.0))


def test_no_folder_and_no_checkpoint_are_none(tmp_path):
    assert newest_checkpoint(tmp_path) is None
    assert newest_checkpoint(tmp_path / "missing") is None


def test_what_was_just_written_is_never_the_one_removed(tmp_path):
    save_checkpoint(tmp_path, 20, state(20), keep=1)
    save_checkpoint(tmp_path, 10, state(10), keep=1)
    assert names(tmp_path) == with_checksums(10)


def test_the_best_is_kept_whatever_follows(tmp_path):
    save_best(tmp_path, state(1))
    for step in (5, 10):
        save_checkpoint(tmp_path, step, state(step), keep=1)
    save_best(tmp_path, state(2))
    assert names(tmp_path) == ["best.pt", "best.pt.sha256", *with_checksums(10)]
    assert load_checkpoint(tmp_path / "best.pt")["x"] == [2]
    assert len((tmp_path / "best.pt.sha256").read_text().splitlines()) == 1


def test_checksums_are_those_of_sha256sum(tmp_path):
    """After a first write, and after one that took the place of another."""
    save_checkpoint(tmp_path, 5, state(5, 100_000), keep=2)
    for _ in range(2):
        save_best(tmp_path, state(6))
    check = ["sha256sum", "--check", "--strict", "step_00000005.pt.sha256", "best.pt.sha256"]
    done = subprocess.run(check, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "step_00000005.pt: OK\nbest.pt: OK\n"


def test_leftovers_of_a_killed_run_are_removed(tmp_path):
    for name in (
        "step_00000003.pt.partial",
        "step_00000003.pt.sha256",
        "step_00000002.partial",
        ".step_00000003.pt.77-0.sha256",
        ".best.pt.77-0.sha256",
    ):
        (tmp_path / name).write_text("half")
    (tmp_path / "notes.partial").write_text("somebody's own")
    save_checkpoint(tmp_path, 5, state(5), keep=1)
    assert names(tmp_path) == ["notes.partial", *with_checksums(5)]


# Damage --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Path:
    """A folder with checkpoints of steps 5 and 10."""
    folder = tmp_path_factory.mktemp("two")
    for step in (5, 10):
        save_checkpoint(folder, step, state(step), keep=2)
    return folder


def damages(content: bytes) -> Iterator[tuple[str, bytes]]:
    """A file cut off at 25 places, and with one bit flipped at 60."""
    places = random.Random(0)
    for size in (0, 1, len(content) - 1, *places.sample(range(len(content)), 22)):
        yield f"cut to {size}", content[:size]
    for _ in range(60):
        at, bit = places.randrange(len(content)), places.randrange(8)
        flipped = bytearray(content)
        flipped[at] ^= 1 << bit
        yield f"bit {bit} of byte {at}", bytes(flipped)


def test_any_damage_is_detected_and_the_one_before_is_used(two, tmp_path, caplog):
    content = (two / "step_00000010.pt").read_bytes()
    tried = 0
    for what, damaged in damages(content):
        folder = tmp_path / str(tried)
        shutil.copytree(two, folder)
        (folder / "step_00000010.pt").write_bytes(damaged)
        caplog.clear()
        path, found = newest_checkpoint(folder)
        assert path == folder / "step_00000005.pt" and found["x"] == [5], what
        assert names(folder) == [
            *with_checksums(5),
            "step_00000010.pt.damaged",
            "step_00000010.pt.sha256.damaged",
        ]
        assert [record.getMessage() for record in caplog.records] == [
            f"{folder}/step_00000010.pt is damaged: its checksum differs from "
            f"step_00000010.pt.sha256; going on from {path} instead"
        ]
        shutil.rmtree(folder)
        tried += 1
    assert tried == 85


def test_without_a_checksum_a_file_is_taken_if_it_can_be_read(two, tmp_path):
    copy = tmp_path / "copy.pt"
    content = (two / "step_00000010.pt").read_bytes()
    copy.write_bytes(content)
    assert load_checkpoint(copy)["x"] == [10]
    for size in (0, 100, len(content) // 2, len(content) - 1):
        copy.write_bytes(content[:size])
        with pytest.raises(SnvideoError, match="cannot read checkpoint") as error:
            load_checkpoint(copy)
        assert str(copy) in str(error.value) and "\n" not in str(error.value)


def test_a_damaged_one_is_no_longer_counted_among_those_kept(two, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(two, folder)
    (folder / "step_00000010.pt").write_bytes(b"")
    assert newest_checkpoint(folder)[0].name == "step_00000005.pt"
    save_checkpoint(folder, 10, state(10), keep=2)
    assert [path.name for path in checkpoints(folder)] == ["step_00000005.pt", "step_00000010.pt"]
    assert newest_checkpoint(folder)[1]["x"] == [10]


def test_all_damaged_is_an_error_and_nothing_is_renamed(two, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(two, folder)
    for path in checkpoints(folder):
        path.write_bytes(path.read_bytes()[:-1])
    before = names(folder)
    with pytest.raises(SnvideoError) as error:
        newest_checkpoint(folder)
    assert f"all 2 checkpoints in {folder} are damaged" in str(error.value)
    assert "delete them to begin anew" in str(error.value) and "\n" not in str(error.value)
    assert names(folder) == before == with_checksums(5, 10)


def test_a_folder_that_cannot_be_changed_does_not_hide_the_one_before(
    two, tmp_path, monkeypatch, caplog
):
    folder = tmp_path / "run"
    shutil.copytree(two, folder)
    (folder / "step_00000010.pt").write_bytes(b"rot")

    def read_only(*args):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "replace", read_only)
    assert newest_checkpoint(folder)[1]["x"] == [5]
    assert names(folder) == with_checksums(5, 10)
    assert "cannot rename" in caplog.text and "going on from" in caplog.text


@pytest.mark.parametrize(
    ("number", "falls_back"), [(errno.EIO, True), (errno.EACCES, False), (errno.EMFILE, False)]
)
def test_only_an_unreadable_disk_is_damage(two, tmp_path, monkeypatch, number, falls_back):
    """A passing want of rights or handles must not cost a run its newest checkpoint."""
    folder = tmp_path / "run"
    shutil.copytree(two, folder)
    digest = hashlib.file_digest

    def broken(file, name):
        if Path(file.name).name == "step_00000010.pt":
            raise OSError(number, os.strerror(number))
        return digest(file, name)

    monkeypatch.setattr(hashlib, "file_digest", broken)
    if falls_back:
        assert newest_checkpoint(folder)[1]["x"] == [5]
    else:
        with pytest.raises(SnvideoError, match=os.strerror(number)):
            newest_checkpoint(folder)
        assert names(folder) == with_checksums(5, 10)


def test_a_sound_file_that_memory_does_not_hold_is_not_damage(two, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    shutil.copytree(two, folder)

    def too_large(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr(torch, "load", too_large)
    with pytest.raises(SnvideoError, match=r"step_00000010\.pt: MemoryError"):
        newest_checkpoint(folder)
    assert names(folder) == with_checksums(5, 10)


class Hostile:
    def __reduce__(self):
        return (print, ("this must never run",))


def test_what_is_no_checkpoint_is_one_line(tmp_path, capsys):
    text, hostile, other = tmp_path / "text.pt", tmp_path / "hostile.pt", tmp_path / "other.pt"
    text.write_text("not a checkpoint")
    hostile.write_bytes(pickle.dumps({"model": Hostile()}, protocol=2))
    torch.save({"weights": 1}, other)
    (tmp_path / "folder.pt").mkdir()
    for path in (text, hostile, other, tmp_path / "folder.pt", tmp_path / "missing.pt"):
        with pytest.raises(SnvideoError) as error:
            load_checkpoint(path)
        assert str(path) in str(error.value) and "\n" not in str(error.value)
    assert "this must never run" not in capsys.readouterr().out


def test_code_in_a_file_never_runs_even_if_its_checksum_agrees(two, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(two, folder)
    path = folder / "step_00000010.pt"
    torch.save({"model": {"a": Hostile()}}, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / f"{path.name}.sha256").write_text(f"{digest}  {path.name}\n")
    with pytest.raises(SnvideoError, match="cannot read checkpoint"):
        newest_checkpoint(folder)
    assert "this must never run" not in capsys.readouterr().out


# Writes that fail ----------------------------------------------------------------------------


class Failing:
    """Calls of a function of which some fail for want of room."""

    def __init__(self, function, calls: set[int], number: int = errno.ENOSPC) -> None:
        self.function, self.calls, self.number, self.count = function, calls, number, 0

    def __call__(self, *args, **kwargs):
        self.count += 1
        if self.count in self.calls:
            raise OSError(self.number, os.strerror(self.number))
        return self.function(*args, **kwargs)

    def __get__(self, instance, owner):
        return lambda *args: self(instance, *args)


POINTS = {
    "the first byte": ("write", 1),
    "the middle": ("write", 9),
    "the file's fsync": ("fsync", 1),
    "the checksum's fsync": ("fsync", 2),
    "the checksum's rename": ("replace", 1),
    "the file's rename": ("replace", 2),
}
"""What fails, and at which call."""


def break_off(monkeypatch, point: str, number: int, always: bool = False) -> None:
    """Let a write of a checkpoint fail at some point, once or from then on."""
    what, call = POINTS[point]
    calls = set(range(call, 1000)) if always else {call}
    if what == "write":
        failing = Failing(lambda file, data: file.write(data), calls, number)

        class File(checkpoint._HashedFile):
            def __init__(self, file):
                super().__init__(SimpleNamespace(write=partial(failing, file), flush=file.flush))

        monkeypatch.setattr(checkpoint, "_HashedFile", File)
    else:
        owner = os if what == "fsync" else Path
        monkeypatch.setattr(owner, what, Failing(getattr(owner, what), calls, number))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("point", POINTS)
def test_a_full_disk_costs_older_checkpoints_and_the_write_succeeds(
    tmp_path, monkeypatch, caplog, point, number
):
    for step in (5, 10, 15):
        save_checkpoint(tmp_path, step, state(step), keep=3)
    (tmp_path / "step_00000015.pt").write_bytes(b"rot")
    (tmp_path / "step_00000003.pt.damaged").write_bytes(b"rot")
    break_off(monkeypatch, point, number)
    save_checkpoint(tmp_path, 20, state(20), keep=3)
    # 15 looks newer, but 10 is the newest sound one.
    assert names(tmp_path) == with_checksums(10, 20)
    assert load_checkpoint(tmp_path / "step_00000020.pt")["x"] == [20]
    assert "removed 2 older checkpoints, trying once more" in caplog.text


@pytest.mark.parametrize("point", POINTS)
def test_a_disk_that_stays_full_is_an_oserror_and_a_sound_one_is_left(tmp_path, monkeypatch, point):
    for step in (5, 10):
        save_checkpoint(tmp_path, step, state(step), keep=2)
    break_off(monkeypatch, point, errno.ENOSPC, always=True)
    with pytest.raises(OSError) as error:
        save_checkpoint(tmp_path, 15, state(15), keep=2)
    assert error.value.errno == errno.ENOSPC
    assert names(tmp_path) == with_checksums(10)
    assert load_checkpoint(tmp_path / "step_00000010.pt")["x"] == [10]


@pytest.mark.parametrize("step", [10, 15])
@pytest.mark.parametrize("point", POINTS)
def test_another_failure_costs_nothing(tmp_path, monkeypatch, point, step):
    """Also when the file that is there already was to be written again."""
    for before in (5, 10):
        save_checkpoint(tmp_path, before, state(before), keep=2)
    break_off(monkeypatch, point, errno.EIO)
    with pytest.raises(OSError) as error:
        save_checkpoint(tmp_path, step, state(11), keep=2)
    assert error.value.errno == errno.EIO
    assert names(tmp_path) == with_checksums(5, 10)
    assert load_checkpoint(tmp_path / "step_00000010.pt")["x"] == [10]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs Linux's /proc")
def test_what_is_put_in_place_is_on_the_disk_before(tmp_path, monkeypatch):
    """And the folder after it."""
    done = []
    fsync, replace = os.fsync, Path.replace

    def recorded_fsync(handle):
        name = Path(f"/proc/self/fd/{handle}").readlink().name
        done.append(("fsync", re.sub(r"\.\d+-\d+", "", name)))  # without a temporary file's number
        fsync(handle)

    def recorded_replace(path, target):
        done.append(("rename", target.name))
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(Path, "replace", recorded_replace)
    save_checkpoint(tmp_path, 5, state(5), keep=1)
    file, checksum = with_checksums(5)
    assert done == [
        ("fsync", f"{file}.partial"),
        ("fsync", f".{checksum}"),
        ("rename", checksum),
        ("fsync", tmp_path.name),
        ("rename", file),
        ("fsync", tmp_path.name),
    ]


def test_if_no_checkpoint_is_sound_none_is_removed(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, 5, state(5), keep=1)
    (tmp_path / "step_00000005.pt").write_bytes(b"rot")
    monkeypatch.setattr(os, "fsync", Failing(os.fsync, {1, 2}))
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(tmp_path, 10, state(10), keep=1)
    assert names(tmp_path) == with_checksums(5)


@pytest.mark.parametrize(("number", "step"), [(1, 1), (2, 1), (3, 2)])
def test_killed_at_any_rename_a_file_that_is_replaced_stays_whole(
    tmp_path, monkeypatch, number, step
):
    """The renames: a checksum file with both lines, the file, a checksum file with its line."""
    save_best(tmp_path, state(1))

    class Killed(BaseException):
        """Nothing is cleaned up after it: nothing can be removed."""

    renames, replace = iter(range(1, 10)), Path.replace

    def killed(*args):
        if next(renames) == number:
            raise Killed
        return replace(*args)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        patch.setattr(Path, "unlink", lambda *args, **kwargs: None)
        with pytest.raises(Killed):
            save_best(tmp_path, state(2))
    assert load_checkpoint(tmp_path / "best.pt")["x"] == [step]
    save_best(tmp_path, state(3))
    assert load_checkpoint(tmp_path / "best.pt")["x"] == [3]
    assert len((tmp_path / "best.pt.sha256").read_text().splitlines()) == 1


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 1 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"needs the right to mount a tmpfs: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_on_a_disk_that_is_really_full(small_disk):
    """1 MB holds four files of 240 kB; a fifth has room only once older ones are gone."""
    for step in (5, 10, 15, 20, 25, 30):
        save_checkpoint(small_disk, step, state(step, 60_000), keep=10)
        assert newest_checkpoint(small_disk)[1]["x"] == [step]
    assert names(small_disk) == with_checksums(20, 25, 30)
    with pytest.raises(OSError) as error:
        save_checkpoint(small_disk, 35, state(35, 240_000), keep=10)
    assert error.value.errno == errno.ENOSPC
    assert names(small_disk) == with_checksums(30)
    assert newest_checkpoint(small_disk)[1]["x"] == [30]
    save_checkpoint(small_disk, 35, state(35, 60_000), keep=10)
    assert names(small_disk) == with_checksums(30, 35)


# Weights -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "classes", "norm", "message"),
    [
        ("i3d_tiny", 8, "bn", "was trained for 8 classes, the index has 5"),
        ("i3d_tiny", 5, "sn", "another model or norm: tensors"),
        ("slow_r50_8x8", 5, "bn", "another model or norm: tensors"),
    ],
)
def test_weights_must_fit(tmp_path, name, classes, norm, message):
    state = {"model": create_model(name, classes, norm).state_dict()}
    model = create_model("i3d_tiny", 5, "bn")
    before = model.state_dict()["blocks.0.conv.weight"].clone()
    with pytest.raises(SnvideoError) as error:
        load_weights(model, state, tmp_path / "x.pt")
    assert message in str(error.value) and "\n" not in str(error.value)
    assert torch.equal(model.state_dict()["blocks.0.conv.weight"], before)


@pytest.mark.parametrize(
    ("averages", "averaged", "value"),
    [(True, False, 1.0), (True, True, 2.0), (None, True, 1.0), (False, True, 1.0)],
)
def test_averaged_weights_are_tested_where_there_are_some(tmp_path, averages, averaged, value):
    model = torch.nn.Linear(1, 1)
    state = {"model": {"weight": torch.full((1, 1), 1.0), "bias": torch.zeros(1)}}
    if averages is not False:
        average = {"weight": torch.full((1, 1), 2.0), "bias": torch.zeros(1)}
        state["ema"] = average if averages else None
    load_weights(model, state, tmp_path / "x.pt", averaged)
    assert model.weight.item() == value
    assert evaluated_weights(state)["weight"].item() == (2.0 if averages else 1.0)
