"""Runs of a study are started, repeated, refused and reported, with a stub for the child."""

import csv
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml

from snvideo.config import load_config
from snvideo.engine.run_dir import RunDir
from snvideo.errors import PreemptedError, SnvideoError
from snvideo.study import compare as module
from snvideo.study.compare import launch, run_study
from snvideo.study.config import Cell, cells
from snvideo.study.runs import read_runs
from snvideo.study.summary import comparison_csv
from tests.study.fakes import run_config, study_config, write_begun, write_finished


class Child:
    """Stands for the training process: writes a finished run, or fails, and keeps a record."""

    def __init__(self, failing: tuple[str, ...] = (), stop_at: str = "") -> None:
        self.failing, self.stop_at = failing, stop_at
        self.commands: list[list[str]] = []

    @property
    def names(self) -> list[str]:
        return [self._cell_file(command).parent.name for command in self.commands]

    def __call__(self, command: list[str]) -> int:
        self.commands.append(command)
        file = self._cell_file(command)
        config = load_config(file)
        name, batch = config.output.name, config.batch
        norm = name.rpartition(f"_{batch.gpus}x")[0]
        cell = Cell(name, norm, batch.gpus, batch.clips_per_gpu, config.seed, config)
        if name == self.stop_at:
            write_begun(cell)
            raise KeyboardInterrupt
        if name in self.failing:
            return 3
        write_finished(cell, 0.5)
        return 0

    def _cell_file(self, command: list[str]) -> Path:
        return Path(next(word for word in command if word.endswith("cell.yaml")))


def write_table(folder: Path) -> Path:
    """The report of these tests."""
    file = folder / "comparison.csv"
    file.write_text(comparison_csv(read_runs(folder)))
    return file


def _table(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "comparison.csv").open() as file:
        return {row["run"]: row for row in csv.DictReader(file)}


def test_every_cell_is_run_with_its_own_config(tmp_path: Path):
    child = Child()
    rows = run_study(run_config(tmp_path), study_config(norms=("sn", "bn")), write_table, child)
    assert child.names == ["sn_2x8_seed0", "bn_2x8_seed0"]
    folder = tmp_path / "bn_2x8_seed0"
    expected = [sys.executable, "-m", "snvideo", "train", str(folder / "cell.yaml")]
    assert child.commands[1] == expected
    stored = yaml.safe_load((folder / "cell.yaml").read_text())
    assert stored["model"]["norm"]["name"] == "bn"
    assert load_config(folder / "cell.yaml").output == folder
    assert [(row["norm"], row["status"], row["video_top1"]) for row in rows] == [
        ("sn", "finished", 0.5),
        ("bn", "finished", 0.5),
    ]


def test_processes_go_through_torchrun(tmp_path: Path):
    child = Child()
    run_study(run_config(tmp_path), study_config(norms=("sn",), processes=2), write_table, child)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    call = ["-m", "snvideo", "train", str(tmp_path / "sn_2x8_seed0" / "cell.yaml")]
    assert child.commands[0][1:] == torchrun + call


def test_a_finished_run_is_skipped_and_a_begun_one_resumed_wherever_they_are(tmp_path, caplog):
    study = study_config(norms=("sn", "bn"))
    sn, bn = cells(run_config(tmp_path / "old"), study)
    write_begun(sn)
    write_finished(bn, 0.41)
    (tmp_path / "old").rename(tmp_path / "new")
    child = Child()
    with caplog.at_level(logging.INFO):
        run_study(run_config(tmp_path / "new"), study, write_table, child)
    assert child.names == ["sn_2x8_seed0"]
    assert "[2/2] bn (2, 8) seed 0: already finished, video top-1 0.41" in caplog.messages


@pytest.mark.parametrize("write", [write_begun, write_finished])
def test_another_config_is_refused_before_anything_runs(tmp_path: Path, write):
    study = study_config(norms=("sn", "bn"))
    write(cells(run_config(tmp_path), study)[1])
    child = Child()
    changed = run_config(tmp_path, optim={"epochs": 12, "warmup_epochs": 1})
    with pytest.raises(SnvideoError, match=r"optim\.epochs: 8 there, 12 now") as caught:
        run_study(changed, study, write_table, child)
    message = str(caught.value)
    assert "bn_2x8_seed0" in message and "warmup" not in message and "\n" not in message
    assert child.commands == []


def test_a_failed_run_is_noted_and_the_others_go_on(tmp_path: Path):
    config, study = run_config(tmp_path), study_config()
    rows = run_study(config, study, write_table, Child(failing=("bn_2x8_seed0",)))
    assert [row["status"] for row in rows] == ["finished", "failed (exit 3)", "finished"]
    assert rows[1]["video_top1"] is None
    assert _table(tmp_path)["bn_2x8_seed0"]["status"] == "failed (exit 3)"

    again = Child()
    rows = run_study(config, study, write_table, again)
    assert again.names == ["bn_2x8_seed0"]
    assert [row["status"] for row in rows] == ["finished"] * 3


def test_a_child_that_ends_well_without_results_has_failed(tmp_path: Path):
    rows = run_study(
        run_config(tmp_path), study_config(norms=("sn",)), write_table, lambda command: 0
    )
    assert rows[0]["status"] == "failed (no results)"


def test_a_run_that_is_asked_to_stop_stops_the_study_and_has_not_failed(tmp_path: Path):
    study = study_config(norms=("sn", "bn"))
    called = []

    def preempted(command: list[str]) -> int:
        called.append(command)
        return 75

    with pytest.raises(PreemptedError):
        run_study(run_config(tmp_path), study, write_table, preempted)
    assert len(called) == 1

    def under_torchrun(command: list[str]) -> int:  # which answers 1 whatever a worker's code
        called.append(command)
        (tmp_path / "sn_2x8_seed0" / "preempted").write_text("step 3\n")
        return 1

    with pytest.raises(PreemptedError):
        run_study(run_config(tmp_path), study, write_table, under_torchrun)
    assert len(called) == 2
    assert not list(tmp_path.rglob("failure*"))


def test_an_interrupted_study_keeps_its_table_and_repeats_nothing(tmp_path: Path):
    config, study = run_config(tmp_path), study_config()
    with pytest.raises(KeyboardInterrupt):
        run_study(config, study, write_table, Child(stop_at="bn_2x8_seed0"))
    assert list(_table(tmp_path)) == ["sn_2x8_seed0"]

    again = Child()
    run_study(config, study, write_table, again)
    assert again.names == ["bn_2x8_seed0", "gn_2x8_seed0"]
    assert len(_table(tmp_path)) == 3


def _stop_after_start(marker: Path, signum: int) -> None:
    while not marker.exists():
        time.sleep(0.01)
    os.kill(os.getpid(), signum)


_CHILD = """
import os, pathlib, signal, sys, time
if sys.argv[2] == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
path = pathlib.Path(sys.argv[1])
path.with_suffix(".part").write_text(str(os.getpid()))
path.with_suffix(".part").rename(path)
time.sleep(60)
"""


@pytest.mark.parametrize(
    ("signum", "mode"),
    [(signal.SIGINT, "polite"), (signal.SIGTERM, "polite"), (signal.SIGTERM, "stubborn")],
)
def test_being_stopped_ends_the_child(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signum: int, mode: str
):
    monkeypatch.setattr(module, "TERMINATE_TIMEOUT", 0.5)
    marker = tmp_path / "pid"
    stopper = threading.Thread(target=_stop_after_start, args=(marker, signum))
    stopper.start()
    with pytest.raises(PreemptedError):
        run_study(
            run_config(tmp_path / "study"),
            study_config(norms=("sn",)),
            write_table,
            lambda command: launch([sys.executable, "-c", _CHILD, str(marker), mode]),
        )
    stopper.join()
    with pytest.raises(ProcessLookupError):
        os.kill(int(marker.read_text()), 0)


def test_two_studies_at_once_share_the_runs(tmp_path: Path, monkeypatch, caplog):
    """While the first runs a cell, the second runs the others, and waits for it last."""
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(module, "POLL", 0.01)
    grid = cells(run_config(tmp_path), study_config())
    begun, over = threading.Event(), threading.Event()
    first, second = Child(), Child(failing=("gn_2x8_seed0",))

    def run(launch) -> None:
        module._run_all(grid, 1, lambda: tmp_path, launch)

    def launch_slowly(command: list[str]) -> int:
        begun.set()
        if first.commands:
            return first(command)
        assert over.wait(20)
        return first(command)

    threads = [threading.Thread(target=run, args=(launch,)) for launch in (launch_slowly, second)]
    threads[0].start()
    assert begun.wait(20)
    threads[1].start()
    while not any("sn (2, 8) seed 0: waiting for" in line for line in caplog.messages):
        time.sleep(0.01)
    assert second.names == ["bn_2x8_seed0", "gn_2x8_seed0"]
    over.set()
    for thread in threads:
        thread.join(20)
    assert first.names == ["sn_2x8_seed0", "gn_2x8_seed0"]  # the last has failed over there
    assert second.names == ["bn_2x8_seed0", "gn_2x8_seed0"]
    assert any("sn (2, 8) seed 0: left to another process" in line for line in caplog.messages)
    assert not list(tmp_path.rglob(".*lock"))


def test_a_study_runs_what_another_has_left_unfinished(tmp_path: Path, monkeypatch):
    """Its training process goes on alone for a while, and is killed."""
    (cell,) = cells(run_config(tmp_path), study_config(norms=("sn",)))
    orphan = RunDir(cell.folder).locked()
    orphan.__enter__()
    slept = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            orphan.__exit__(None, None, None)

    monkeypatch.setattr(module.time, "sleep", sleep)
    child = Child()
    reported = []
    module._run_all([cell], 1, lambda: reported.append(tmp_path) or tmp_path, child)
    assert len(reported) == 1
    assert child.names == ["sn_2x8_seed0"] and slept == [module.POLL] * 3


SPLITS = ((8, 2), (4, 4), (16, 1), (4, 2))  # the last of another total batch


def test_what_does_not_see_the_split_is_run_once(tmp_path: Path, caplog):
    caplog.set_level(logging.INFO)
    variants = {"sn_clip": {"name": "sn", "parts": ["instance", "layer"]}}
    study = study_config(SPLITS, ("bn", "gn", "syncbn", "sn_clip"), variants=variants)
    child = Child()
    rows = run_study(run_config(tmp_path), study, write_table, child)
    once = [f"{norm}_{split}_seed0" for split in ("8x2", "4x2") for norm in ("gn", "syncbn")]
    once += ["sn_clip_8x2_seed0", "sn_clip_4x2_seed0"]
    every = [f"bn_{gpus}x{clips}_seed0" for gpus, clips in SPLITS]
    assert sorted(child.names) == sorted(once + every)
    assert len(rows) == 16 and all(row["status"] == "finished" for row in rows)
    assert [row["run"] for row in rows if (row["norm"], row["total_batch"]) == ("gn", 16)] == [
        "gn_8x2_seed0"
    ] * 3
    line = "gn (4, 4) seed 0: the same computation as gn (8, 2) seed 0, which is run once"
    assert line in caplog.messages
    with (tmp_path / "comparison.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 16
    again = Child()
    assert run_study(run_config(tmp_path), study, write_table, again) == rows
    assert again.commands == []


def test_mixed_clips_see_the_split(tmp_path: Path):
    data = {"index": "toy/index.csv", "train": {"mixup": 0.8}}
    child, study = Child(), study_config(SPLITS[:2], ("gn",))
    run_study(run_config(tmp_path, data=data), study, write_table, child)
    assert child.names == ["gn_8x2_seed0", "gn_4x4_seed0"]


def test_what_was_begun_at_several_splits_is_left_as_it_is(tmp_path: Path):
    study = study_config(SPLITS[:3], ("gn",))
    _, second, third = cells(run_config(tmp_path), study)
    write_begun(second)
    write_finished(third, 0.7)
    child = Child()
    rows = run_study(run_config(tmp_path), study, write_table, child)
    assert child.names == [second.name]
    found = {(row["gpus"], row["run"], row["video_top1"]) for row in rows}
    names = (second.name, third.name)
    assert found == {(8, names[1], 0.7), (4, names[0], 0.5), (16, names[1], 0.7)}


def test_two_settings_under_one_name_are_refused_by_their_folder(tmp_path: Path):
    for groups in (8, 4):
        study = study_config(norms=("mine",), variants={"mine": {"name": "gn", "groups": groups}})
        if groups == 4:
            with pytest.raises(SnvideoError, match=r"model\.norm\.groups: 8 there, 4 now"):
                run_study(run_config(tmp_path), study, write_table, Child())
        else:
            run_study(run_config(tmp_path), study, write_table, Child())
