"""Checkpoints: whole or not there, never code, and strict about what they fit."""

import errno
import hashlib
import os
import pickle
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from snvideo.engine.checkpoint import (
    BEST,
    checkpoints,
    load_checkpoint,
    load_weights,
    newest_checkpoint,
    save_checkpoint,
    write_checkpoint,
)
from snvideo.errors import SnvideoError
from snvideo.models import create_model
from snvideo.models.pretrained import evaluated_weights


def state(step: int, size: int = 500) -> dict:
    return {"model": {"a": torch.full((size,), float(step)), "b": torch.tensor(step)}, "x": [step]}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def with_checksums(*steps: int) -> list[str]:
    return [f"step_{step:08d}.pt{suffix}" for step in steps for suffix in ("", ".sha256")]


def test_round_trip_keeps_the_newest_with_their_checksums(tmp_path):
    assert newest_checkpoint(tmp_path) is None and newest_checkpoint(tmp_path / "missing") is None
    for step in (5, 10, 15):
        assert save_checkpoint(tmp_path, step, state(step), keep=2).exists()
    assert [path.name for path in checkpoints(tmp_path)] == ["step_00000010.pt", "step_00000015.pt"]
    assert names(tmp_path) == with_checksums(10, 15)
    path, found = newest_checkpoint(tmp_path)
    assert path.name == "step_00000015.pt" and found["x"] == [15]
    assert torch.equal(found["model"]["a"], torch.full((500,), 15.0))
    save_checkpoint(tmp_path, 5, state(5), keep=1)  # what was just written is not removed
    assert names(tmp_path) == with_checksums(5)


def test_the_best_is_kept_whatever_follows_and_checksums_are_those_of_sha256sum(tmp_path):
    write_checkpoint(tmp_path / BEST, state(1))
    for step in (5, 10):
        save_checkpoint(tmp_path, step, state(step, 100_000), keep=1)
    write_checkpoint(tmp_path / BEST, state(2))
    assert names(tmp_path) == ["best.pt", "best.pt.sha256", *with_checksums(10)]
    assert load_checkpoint(tmp_path / BEST)["x"] == [2]
    check = ["sha256sum", "--check", "--strict", "step_00000010.pt.sha256", "best.pt.sha256"]
    done = subprocess.run(check, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "step_00000010.pt: OK\nbest.pt: OK\n"


def test_a_checksum_without_its_file_is_removed(tmp_path):
    (tmp_path / "step_00000003.pt.sha256").write_text("of a run that was killed between the two")
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
    """A file cut off at 10 places, and with one bit flipped at 20."""
    places = random.Random(0)
    for size in (0, 1, len(content) - 1, *places.sample(range(len(content)), 7)):
        yield f"cut to {size}", content[:size]
    for _ in range(20):
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
            "step_00000010.pt.sha256",
        ]
        assert [record.getMessage() for record in caplog.records] == [
            f"{folder}/step_00000010.pt is damaged: its checksum differs from "
            f"step_00000010.pt.sha256; going on from {path} instead"
        ]
        shutil.rmtree(folder)
        tried += 1
    assert tried == 30


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


def test_all_damaged_is_an_error_and_nothing_is_renamed(two, tmp_path):
    folder = Path(shutil.copytree(two, tmp_path / "run"))
    for path in checkpoints(folder):
        path.write_bytes(path.read_bytes()[:-1])
    before = names(folder)
    with pytest.raises(SnvideoError) as error:
        newest_checkpoint(folder)
    assert f"all 2 checkpoints in {folder} are damaged" in str(error.value)
    assert "delete them to begin anew" in str(error.value) and "\n" not in str(error.value)
    assert names(folder) == before == with_checksums(5, 10)


def test_a_passing_failure_to_read_does_not_cost_the_newest(two, monkeypatch):
    def failing(*args):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(hashlib, "file_digest", failing)
    with pytest.raises(SnvideoError, match="Too many open files"):
        newest_checkpoint(two)
    assert names(two) == with_checksums(5, 10)


def test_a_sound_file_that_memory_does_not_hold_is_not_damage(two, monkeypatch):
    def too_large(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr(torch, "load", too_large)
    with pytest.raises(SnvideoError, match=r"step_00000010\.pt: MemoryError"):
        newest_checkpoint(two)
    assert names(two) == with_checksums(5, 10)


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


# Writes that fail ----------------------------------------------------------------------------


@pytest.mark.parametrize("step", [10, 15])
@pytest.mark.parametrize(
    ("owner", "function", "call"),
    [
        (Path, "write_bytes", 1),
        (os, "fsync", 1),
        (Path, "replace", 1),
        (Path, "write_bytes", 2),
        (os, "fsync", 3),
        (Path, "replace", 2),
    ],
)
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt()])
def test_a_write_that_breaks_off_leaves_whole_files(
    tmp_path, monkeypatch, owner, function, call, step, error
):
    """Of a new file or one that is replaced, and then of its checksum: at any of its calls."""
    for before in (5, 10):
        save_checkpoint(tmp_path, before, state(before), keep=3)
    calls, plain = iter(range(1, 100)), getattr(owner, function)

    def failing(*args):
        if next(calls) == call:
            raise error
        return plain(*args)

    with monkeypatch.context() as patch:
        patch.setattr(owner, function, failing)
        with pytest.raises(type(error)):
            save_checkpoint(tmp_path, step, state(11), keep=3)
    assert not list(tmp_path.glob(".*"))
    for path in checkpoints(tmp_path):
        expected = {5: 5, 10: 10 if step > 10 or call == 1 else 11, 15: 11}
        assert load_checkpoint(path)["x"] == [expected[int(path.stem[-2:])]]
    save_checkpoint(tmp_path, step, state(12), keep=3)
    assert names(tmp_path) == with_checksums(*sorted({5, 10, step}))
    assert newest_checkpoint(tmp_path)[1]["x"] == [12]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs Linux's /proc")
def test_what_is_put_in_place_is_on_the_disk_before(tmp_path, monkeypatch):
    """And the folder after it."""
    done = []
    fsync, replace = os.fsync, Path.replace

    def recorded_fsync(handle):
        done.append(("fsync", Path(f"/proc/self/fd/{handle}").readlink().suffix))
        fsync(handle)

    def recorded_replace(path, target):
        done.append(("rename", target.suffix))
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(Path, "replace", recorded_replace)
    save_checkpoint(tmp_path, 5, state(5), keep=1)
    one = [("fsync", ".pt"), ("rename", ".pt"), ("fsync", "")]
    assert done == one + [(what, suffix.replace("pt", "sha256")) for what, suffix in one]


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
        load_weights(model, state["model"], tmp_path / "x.pt")
    assert message in str(error.value) and "\n" not in str(error.value)
    assert torch.equal(model.state_dict()["blocks.0.conv.weight"], before)


@pytest.mark.parametrize("ema", [2.0, None])
@pytest.mark.parametrize("mean", [3.0, None])
def test_the_ema_and_the_batch_averages_are_tested_where_there_are_some(ema, mean):
    state = {"model": {"weight": torch.tensor(1.0), "running_mean": torch.tensor(1.0)}}
    state["ema"] = ema and {key: torch.tensor(ema) for key in state["model"]}
    state["statistics"] = mean and {"tensors": {"running_mean": torch.tensor(mean)}}
    tested = {key: tensor.item() for key, tensor in evaluated_weights(state).items()}
    assert tested == {"weight": ema or 1.0, "running_mean": mean or ema or 1.0}
    assert state["model"]["running_mean"] == 1.0
