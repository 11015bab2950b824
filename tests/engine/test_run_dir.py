"""A run's folder: what is written survives full disks, kills and restarts, and says what it is."""

import errno
import json
import os
import shutil
import time
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer.record_writer import RecordWriter

from snvideo.engine.checkpoint import BEST, save_checkpoint, write_checkpoint
from snvideo.engine.checkpointer import check_disk_space, format_bytes
from snvideo.engine.config import RunConfig, differences, free_differences
from snvideo.engine.run_dir import RunDir, sessions
from snvideo.errors import SnvideoError
from snvideo.study.runs import read_runs
from tests.engine.runs import fill, small_disk

CONFIG = RunConfig.model_validate({"output": "run", "data": {"index": "index.csv"}})


def lines(run: RunDir) -> list[dict]:
    return [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]


def steps(run: RunDir) -> list[int]:
    return [line["step"] for line in lines(run)]


def opened(path: Path, mark: int = 0, step: int = 0) -> RunDir:
    run = RunDir(path)
    run.open(CONFIG, mark, step)
    return run


# Metrics -------------------------------------------------------------------------------------


def test_metrics_are_cut_back_to_the_mark(tmp_path):
    """Also where lines of the checkpoint's own step come before and after it."""
    run = opened(tmp_path)
    for step in (1, 2):
        run.log("train", step, loss=step / 2)
    mark = run.mark()
    assert mark == (tmp_path / "metrics.jsonl").stat().st_size
    run.log("validate", 2, loss=0.5)
    run.log("train", 3, loss=9.0)
    run.close()
    run = opened(tmp_path, mark, 2)
    assert (tmp_path / "metrics.jsonl").stat().st_size == mark == run.mark()
    run.log("validate", 2, loss=0.5)
    run.close()
    assert lines(run) == [
        {"kind": "train", "step": 1, "loss": 0.5},
        {"kind": "train", "step": 2, "loss": 1.0},
        {"kind": "validate", "step": 2, "loss": 0.5},
    ]
    run = opened(tmp_path)
    assert (tmp_path / "metrics.jsonl").read_bytes() == b""
    run.close()


@pytest.mark.parametrize("cut", [1, 40])
def test_metrics_shorter_than_the_mark_keep_their_whole_lines(tmp_path, cut):
    run = opened(tmp_path)
    for step in (1, 2, 3):
        run.log("train", step, loss=0.5)
    mark = run.mark()
    run.close()
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_bytes(metrics.read_bytes()[:-cut])
    run = opened(tmp_path, mark, 3)
    run.log("train", 4, loss=0.5)
    run.close()
    assert mark == 3 * 42
    assert steps(run) == [1, 2, 4]


def test_a_full_disk_loses_doubles_and_tears_no_line(tmp_path, monkeypatch, caplog):
    """Lines wait, for the next one, for the mark, or for the end."""
    run, metrics, full = opened(tmp_path), tmp_path / "metrics.jsonl", False
    plain = Path.open

    def open_on_disk(self, mode="r", *more, **options):
        if full and mode == "r+b":
            with plain(self, "ab") as file:
                file.write(b'{"kind": "tra')  # what there was room for
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return plain(self, mode, *more, **options)

    monkeypatch.setattr(Path, "open", open_on_disk)
    run.log("train", 1, loss=0.5)
    full = True
    run.log("train", 2, loss=0.5)
    run.log("train", 3, loss=0.5)
    with pytest.raises(OSError, match="No space left"):
        run.mark()
    full = False
    run.log("train", 4, loss=0.5)
    assert steps(run) == [1, 2, 3, 4]
    full = True
    run.log("train", 5, loss=0.5)
    full = False
    assert run.mark() == metrics.stat().st_size == 5 * 42
    full = True
    run.log("train", 6, loss=0.5)
    run.close()
    waiting = (
        f"cannot write to {metrics}: No space left on device; the run goes on, and lines wait in "
        "memory"
    )
    lost = f"1 lines are missing in {metrics}: No space left on device"
    assert caplog.messages == [waiting] * 3 + [lost]
    full = False
    opened(tmp_path, 5 * 42, 5).close()
    assert steps(run) == [1, 2, 3, 4, 5]


@pytest.fixture
def disk(tmp_path) -> Iterator[Path]:
    with small_disk(tmp_path / "small", "64k") as path:
        yield path


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_run_goes_on_while_its_disk_is_really_full(disk, caplog):
    """Metrics wait, TensorBoard is given up with one warning, results are refused in one line."""
    run = opened(disk)
    ballast = fill(disk)
    for step in range(1, 301):
        run.log("train", step, loss=0.5, top1=0.25)
    with pytest.raises(OSError, match="No space left"):
        run.mark()
    with pytest.raises(SnvideoError) as error:
        run.write_results({"confusion": [0] * 5000})
    assert str(error.value) == (
        f"cannot write {disk}/results.json: No space left on device; free some space and run "
        "the same command again"
    )
    with pytest.raises(SnvideoError, match="free some space"), run.written("a.npz") as path:
        np.savez_compressed(path, random=np.random.rand(50_000))
    assert not (run.path / "results.json").exists()
    assert not {path.suffix for path in disk.iterdir()} & {".npz", ".tmp"}
    ballast.unlink()
    size = run.mark()
    run.log("train", 301, loss=0.5, top1=0.25)
    run.close()
    assert steps(run) == list(range(1, 302))
    assert size == (disk / "metrics.jsonl").stat().st_size - len(json.dumps(lines(run)[-1]) + "\n")
    messages = [record.getMessage() for record in caplog.records]
    assert sum("without TensorBoard" in message for message in messages) == 1
    assert sum("lines wait in memory" in message for message in messages) == 1
    assert len(messages) == 2


# TensorBoard ---------------------------------------------------------------------------------


def shown(path: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows of a run: (step, value) by name."""
    found = EventAccumulator(str(path / "tensorboard")).Reload()
    return {
        name: [(event.step, event.value) for event in found.Scalars(name)]
        for name in found.Tags()["scalars"]
    }


def test_tensorboard_hides_what_is_done_again_and_nothing_else(tmp_path):
    run = opened(tmp_path)
    for step in (1, 2, 3):
        run.log("train", step, loss=float(step))
        run.scalars(step, {"layers/first": step / 4})
        if step == 2:
            mark = run.mark()
            run.log("validate", 2, loss=0.5)
    run.close()
    run = opened(tmp_path, mark, 2)
    run.log("validate", 2, loss=0.5)
    run.log("train", 3, loss=30.0)
    run.close()
    found = shown(tmp_path)
    assert found["train/loss"] == [(1, 1.0), (2, 2.0), (3, 30.0)]
    assert found["layers/first"] == [(1, 0.25), (2, 0.5)]
    assert set(found["validate/loss"]) == {(2, 0.5)}
    assert not any("layers" in line for line in lines(run))
    run = opened(tmp_path)
    run.log("train", 1, loss=7.0)
    run.close()
    assert shown(tmp_path) == {"train/loss": [(1, 7.0)]}


def test_a_mark_puts_tensorboard_on_the_disk(tmp_path, monkeypatch):
    """What came before a checkpoint is not measured again, so a kill must not lose it."""
    write = RecordWriter.write
    monkeypatch.setattr(RecordWriter, "write", lambda *args: (time.sleep(0.005), write(*args)))
    run = opened(tmp_path)
    for step in range(1, 30):
        run.scalars(step, {"a": float(step)})
    run.mark()
    assert [step for step, _ in shown(tmp_path)["a"]] == list(range(1, 30))
    run.close()


# Sessions, preemption, config -----------------------------------------------------------------


def test_every_start_is_recorded(tmp_path, monkeypatch):
    assert sessions(tmp_path) == []
    opened(tmp_path).close()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    monkeypatch.setenv("WORLD_SIZE", "4")
    opened(tmp_path, 0, 12).close()
    found = json.loads((tmp_path / "environment.json").read_text())
    first, second = found["sessions"]
    assert (first["step"], second["step"]) == (0, 12)
    assert set(first) == {"step", "time", "threads", "processes", "host", "torch"}
    assert second["threads"] == found["threads"] == 7
    assert second["processes"] == found["processes"] == 4
    assert second["torch"] == found["packages"]["torch"]
    (tmp_path / "environment.json").write_text("")  # is begun anew
    opened(tmp_path, 0, 3).close()
    assert [session["step"] for session in sessions(tmp_path)] == [3]


def test_sessions_are_not_a_difference_between_runs(tmp_path):
    for path, starts in ((tmp_path / "a", 1), (tmp_path / "b", 2)):
        for start in range(starts):
            opened(path, 0, start).close()
    one, two = (run.environment for run in read_runs(tmp_path))
    assert one == two and "packages.torch" in one
    assert not any("sessions" in key for key in one)


def test_a_preempted_run_says_so_until_it_goes_on(tmp_path, caplog):
    run = opened(tmp_path)
    run.mark_preempted(40)
    run.close()
    text = (tmp_path / "preempted").read_text()
    assert text.startswith("step 40, 2") and text.count("\n") == 1
    run.clear_preempted()
    assert not (tmp_path / "preempted").exists()
    run.clear_preempted()  # there is none
    RunDir(tmp_path / "config.yaml" / "x").mark_preempted(1)
    assert "cannot write" in caplog.text


def changed(**sections: Any) -> RunConfig:
    values = CONFIG.model_dump(mode="json")
    for section, keys in sections.items():
        values[section] = values[section] | keys if isinstance(keys, dict) else keys
    return RunConfig.model_validate(values)


@pytest.mark.parametrize(
    ("sections", "keys"),
    [
        ({"speed": {"compile": True, "prefetch": False, "activation_checkpointing": True}}, []),
        ({"log": {"every_steps": 3}, "data": {"workers": 0}}, []),
        ({"batch": {"gpus_per_pass": 8}, "data": {"decoder": "decord", "timeout": 5}}, []),
        ({"data": {"start_method": "spawn", "root": "elsewhere"}, "test_batch": 3}, []),
        ({"statistics": {"batches": 3}}, ["statistics.batches"]),
        ({"data": {"train_split": "val"}}, ["data.train_split"]),
        ({"data": {"val_split": "train"}}, ["data.val_split"]),
        ({"data": {"test_split": "train"}}, ["data.test_split"]),
        ({"data": {"test_split": "train", "val_split": "val"}}, ["data.test_split"]),
        ({"speed": {"amp": "bf16", "compile": True}}, ["speed.amp"]),
        ({"optim": {"lr": 0.5}}, ["optim.lr"]),
    ],
)
def test_what_may_change_when_a_run_goes_on(tmp_path, sections, keys):
    opened(tmp_path).close()
    config = changed(**sections)
    old, new = (one.model_dump(mode="json") for one in (CONFIG, config))
    assert differences(old, new) == keys
    if keys:
        with pytest.raises(
            SnvideoError, match=rf"another config \({keys[0]}: [^,]* there, [^,]* now\)"
        ):
            RunDir(tmp_path).check(config)
    else:
        lines = RunDir(tmp_path).check(config)
        assert [line.partition(":")[0] for line in lines] == free_differences(old, new) != []
    assert RunDir(tmp_path / "new").check(config) == []


def test_longer_training_after_the_end_is_refused_with_the_way_to_it(tmp_path):
    opened(tmp_path).close()
    longer = changed(optim={"epochs": 300})
    with pytest.raises(SnvideoError) as error:
        RunDir(tmp_path).check(longer)
    assert "source" not in str(error.value)
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(SnvideoError) as error:
        RunDir(tmp_path).check(longer)
    assert str(error.value).endswith(
        f"output=ANOTHER model.weights.source={tmp_path}/model.safetensors"
    )
    assert "optim.epochs: 196 there, 300 now" in str(error.value)


def test_an_old_config_is_read_or_refused_in_one_line(tmp_path):
    opened(tmp_path).close()
    stored = tmp_path / "config.yaml"
    values = yaml.safe_load(stored.read_text())
    del values["speed"], values["log"]
    stored.write_text(yaml.safe_dump(values))
    RunDir(tmp_path).check(CONFIG)
    values["optim"] |= {"amp": "bf16", "nest": 1}
    for text, part in (
        (yaml.safe_dump(values), "does not take: optim.amp, optim.nest;"),
        ("", "does not hold keys and values;"),
        ("a: [", "is not YAML;"),
    ):
        stored.write_text(text)
        with pytest.raises(SnvideoError) as error:
            RunDir(tmp_path).check(CONFIG)
        assert part in str(error.value) and str(stored) in str(error.value)
        assert "\n" not in str(error.value)


def test_a_file_that_is_not_finished_leaves_the_one_before(tmp_path):
    run = RunDir(tmp_path)
    run.write_results({"a": 1})
    with pytest.raises(KeyboardInterrupt), run.written("results.json") as path:
        path.write_text("half")
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]
    assert json.loads((tmp_path / "results.json").read_text()) == {"a": 1}


def test_what_a_killed_process_had_begun_to_write_is_removed(tmp_path):
    """In any file of a run; what is not ours stays, and so do files of runs in folders below."""
    begun = [".trial.77-0", ".config.77-12.yaml", "checkpoints/.trial.77-0"]
    begun += ["checkpoints/.step_00000003.77-1.pt", "checkpoints/.best.pt.77-2.sha256"]
    others = [".notes.txt", "checkpoints/.mine.77.pt", "cells/one/.config.78-0.yaml"]
    for name in (*begun, *others):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with RunDir(tmp_path).locked():
        found = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert found == {".lock", *others}


def test_a_run_directory_has_one_writer(tmp_path):
    run = RunDir(tmp_path / "new/run")
    with run.locked():
        held = f"run {run.path}: in use by process {os.getpid()} on "
        with pytest.raises(SnvideoError, match=held), RunDir(run.path).locked():
            pass
        assert (run.path / ".lock").exists()
    assert not run.path.exists()  # nothing was written to it
    (tmp_path / "file").touch()
    with pytest.raises(SnvideoError, match="cannot write"), RunDir(tmp_path / "file/run").locked():
        pass


# Room ----------------------------------------------------------------------------------------

Usage = namedtuple("Usage", "total used free")


def test_room_is_asked_for_what_will_be_written(tmp_path, monkeypatch):
    """2 kept, the best and one being written, of 1 GB each; what is there already is replaced."""
    folder = tmp_path / "run/checkpoints"
    write_checkpoint(folder / BEST, {"model": {}})
    size = save_checkpoint(folder, 1, {"model": {}}, 2).stat().st_size
    free = 4 * 10**9 - 2 * size
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**12, 0, free))
    check_disk_space(folder, 10**9, 2)
    assert not list(folder.glob("trial"))
    free -= 1
    with pytest.raises(SnvideoError) as error:
        check_disk_space(folder, 10**9, 2)
    assert str(error.value) == (
        f"{folder} has 4.0 GB free and its checkpoints need 4.0 GB more (2 kept, the best and one "
        "being written, of 1.0 GB each): free some space, lower log.keep_checkpoints, or choose "
        "another output"
    )
    assert format_bytes(12_345_678) == "12.3 MB"


def test_a_file_in_the_way_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SnvideoError, match=f"cannot write {tmp_path}/file/run: Not a directory"):
        check_disk_space(tmp_path / "file/run", 1, 1)
