"""Workers that hang, crash or are killed cost what they were reading, and nothing else."""

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

import pytest
import torch

from snvideo.data import sampling
from snvideo.data.config import ClipConfig, DataConfig, TestViewConfig, TrainViewConfig
from snvideo.data.dataset import EvalDataset, SampleKey
from snvideo.data.index import ClipIndex
from snvideo.data.loader import BatchLoader
from snvideo.data.quarantine import Quarantine
from snvideo.engine.batch_plan import BatchPlan
from snvideo.errors import SnvideoError
from tests.data.faults import Sabotaged

LIMIT = 3.0
"""Seconds: on a busy machine a sound video can take more than one."""


@pytest.fixture
def config(toy) -> DataConfig:
    return DataConfig(
        index=toy / "index.csv",
        workers=2,
        timeout=LIMIT,
        start_method="fork",
        clip=ClipConfig(frames=4, stride=3),
        train=TrainViewConfig(short_side=(32, 40), crop=32),
        test=TestViewConfig(short_side=32, crop=32, clips=3, crops=1),
    )


@pytest.fixture
def index(toy) -> ClipIndex:
    return ClipIndex.load(toy / "index.csv", "train")


def keys(index, epochs=1, seed=0):
    plan = BatchPlan(2, 4)
    for epoch, positions in plan.run(len(index), epochs * plan.steps(len(index))):
        order = sampling.epoch_order(seed, epoch, len(index))
        yield [SampleKey(sampling.TRAIN, epoch, p, int(order[p])) for p in positions]


def batches(index, config, fates, folder, quarantine=None, epochs=2, **changes):
    quarantine = quarantine or Quarantine()
    config = config.model_copy(update=changes)
    clips = Sabotaged(index, config, 0, quarantine, fates, folder)
    return BatchLoader(clips, keys(index, epochs), config)


def equal(found, expected):
    found, expected = list(found), list(expected)
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.clips, other.clips) and one.augmentation == other.augmentation
        assert torch.equal(one.labels, other.labels)
        assert [name for name, _ in one.unreadable] == [name for name, _ in other.unreadable]
    return [entry for batch in found for entry in batch.unreadable]


def unharmed(index, config, names, folder, epochs=2):
    """What all must come to: the batches of videos that simply cannot be read."""
    fates = dict.fromkeys(names, "raise")
    return batches(index, config, fates, folder, epochs=epochs, workers=0)


def names_of(index, *rows):
    return [index[row].name for row in rows]


@pytest.mark.parametrize(
    ("start_method", "workers", "fates"),
    [
        ("fork", 2, ("hang", "segv", "kill")),
        pytest.param("fork", 1, ("hang", "segv", "kill"), marks=pytest.mark.slow),
        ("forkserver", 1, ("hang",)),  # workers get all by pickle, as by spawn
        pytest.param("spawn", 2, ("hang", "segv", "kill"), marks=pytest.mark.slow),
        pytest.param("forkserver", 2, ("hang", "segv", "kill"), marks=pytest.mark.slow),
    ],
)
@pytest.mark.process
def test_hang_crash_and_kill(index, config, tmp_path, start_method, workers, fates):
    fates = dict(zip(names_of(index, 5, 20, 33), fates, strict=False))
    died = {"segv": "its reader died of SIGSEGV twice", "kill": "its reader died of SIGKILL twice"}
    if workers == 2 and start_method == "fork":
        fates |= dict(zip(names_of(index, 8, 41), ("raise", "vanish"), strict=True))
        fates[index[12].name] = "kill once"
    quarantine = Quarantine()
    found = batches(
        index,
        config,
        fates,
        tmp_path,
        quarantine,
        workers=workers,
        start_method=start_method,
        timeout=LIMIT if start_method == "fork" else 8.0,  # others first import decoders
    )
    lost = [name for name, fate in fates.items() if fate != "kill once"]
    epoch = [next(found) for _ in range(12)]
    expected = unharmed(index, config, lost, tmp_path)
    reasons = dict(equal(epoch, [next(expected) for _ in range(12)]))
    assert reasons.keys() == quarantine.found.keys() == set(lost)
    assert reasons[index[5].name].startswith("no answer for")
    for name, fate in fates.items():
        assert reasons.get(name) == died.get(fate, reasons.get(name))
    if len(fates) > 3:
        assert (tmp_path / "killed").exists()
        assert reasons[index[8].name] == "no good"
        assert "FileNotFoundError" in reasons[index[41].name]


def test_a_hang_costs_the_limit_and_a_few_seconds(index, config, tmp_path):
    (name,) = names_of(index, 5)
    times = []
    for fates in ({}, {name: "hang"}):
        begun = time.monotonic()
        assert len(list(batches(index, config, fates, tmp_path, epochs=1))) == 12
        times.append(time.monotonic() - begun)
    assert times[1] > LIMIT and times[1] - times[0] < LIMIT + 5  # the other worker goes on


def test_what_is_closed_is_not_opened_again(index, config, tmp_path):
    """From the next epoch on, whatever workers had prepared before."""
    hang, bad = names_of(index, 5, 20)
    quarantine = Quarantine()
    found = batches(index, config, {hang: "hang", bad: "raise"}, tmp_path, quarantine)
    taken = [next(found) for _ in range(12)]
    assert quarantine.close([quarantine.found, {"of another process": "x"}]) == 3
    opened = tmp_path / "opened"
    opened.unlink()
    taken += list(found)
    reasons = equal(taken, unharmed(index, config, [hang, bad], tmp_path))
    assert len(reasons) == 4 and quarantine.found == {}
    # Given the same list, a run repeats exactly, and opens none of these.
    again = batches(index, config, {hang: "hang"}, tmp_path, Quarantine(quarantine.closed))
    equal(again, taken)
    assert not opened.exists()


def test_a_flaky_video_stays_out_once_it_is_closed(index, config, tmp_path):
    (name,) = names_of(index, 7)
    quarantine = Quarantine({name: "it was broken yesterday"})
    entries = [e for b in batches(index, config, {}, tmp_path, quarantine) for e in b.unreadable]
    assert entries == [(name, "it was broken yesterday")] * 2


def test_test_videos_are_left_out_and_named(toy, config, tmp_path):
    index = ClipIndex.load(toy / "index.csv", "val")

    class Hanging(EvalDataset):
        def read(self, key, *rest):
            if not key.failed and key.video == 3:
                time.sleep(600)
            return super().read(key, *rest)

    quarantine = Quarantine({index[9].name: "known"})
    views = Hanging(index, config, 3, 1, quarantine)
    order = ([SampleKey(sampling.TEST, 0, i, i)] for i in range(len(index)))
    found = list(BatchLoader(views, order, config))
    unreadable = dict(entry for views in found for entry in views.unreadable)
    assert unreadable == {index[3].name: "no answer for 3 s", index[9].name: "known"}
    assert [int(v) for views in found for v in views.videos] == [
        i for i in range(len(index)) if i not in (3, 9)
    ]
    assert quarantine.found.keys() == {index[3].name}


class DiesIdle(Sabotaged):
    @staticmethod
    def collate(samples):
        os.kill(os.getpid(), signal.SIGBUS)


def test_workers_that_die_without_a_video_end_the_run_in_one_line(index, config, tmp_path):
    clips = DiesIdle(index, config, 0, Quarantine(), {}, tmp_path)
    found = BatchLoader(clips, keys(index), config)
    message = r"one died of SIGBUS, 3 times without having begun a task: use fewer of them"
    with pytest.raises(SnvideoError, match=message):
        next(found)


class Stuck(Sabotaged):
    how = "sleep"

    def steps(self, key):
        yield from super().steps(key)
        self.collate = self._collate  # once all videos of the batch are read

    def _collate(self, samples):
        mark = self.folder / "stuck"
        if not mark.exists():
            mark.touch()
            if self.how == "stop":
                os.kill(os.getpid(), signal.SIGSTOP)
            time.sleep(600)
        return Sabotaged.collate(samples)


@pytest.mark.parametrize("how", ["sleep", "stop"])
def test_a_worker_that_stands_still_outside_of_files_is_found(
    index, config, tmp_path, monkeypatch, caplog, how
):
    monkeypatch.setattr("snvideo.data.workers.GRACE", 1.0)
    clips = Stuck(index, config, 0, Quarantine(), {}, tmp_path)
    clips.how = how
    with caplog.at_level(logging.WARNING):
        found = list(BatchLoader(clips, keys(index), config))
    assert "another one is started" in caplog.text
    expected = batches(index, config, {}, tmp_path, workers=0)
    assert equal(found, [next(expected) for _ in range(12)]) == []


def wait_until_idle(processes):
    """Wait for processes to sleep, as those do that wait for a task."""
    idle = 0
    while idle < 10:
        time.sleep(0.1)
        stats = [Path(f"/proc/{process}/stat").read_text() for process in processes]
        asleep = all(stat.rpartition(")")[2].split()[0] == "S" for stat in stats)
        idle = idle + 1 if asleep else 0


def test_stopped_workers_are_found_even_with_batches_ready(index, config, tmp_path, monkeypatch):
    """Fetching a batch from a stopped process has no timeout of its own."""
    monkeypatch.setattr("snvideo.data.workers.GRACE", 1.0)
    before = set(multiprocessing.active_children())
    found = batches(index, config, {}, tmp_path, epochs=1)
    taken = [next(found)]
    workers = [worker.pid for worker in set(multiprocessing.active_children()) - before]
    wait_until_idle(workers)  # others are ready now, and no video is being read
    for worker in workers:
        os.kill(worker, signal.SIGSTOP)
    taken += list(found)
    assert equal(taken, batches(index, config, {}, tmp_path, epochs=1, workers=0)) == []


PAUSED = """
import sys
from pathlib import Path
from snvideo.data.config import ClipConfig, DataConfig, TrainViewConfig
from snvideo.data.index import ClipIndex
from snvideo.data.quarantine import Quarantine
from snvideo.data.sampling import epoch_order
from tests.data.test_loader import batches

path, folder = map(Path, sys.argv[1:])
index = ClipIndex.load(path, "train")
view = TrainViewConfig(short_side=(32, 40), crop=32)
config = DataConfig(
    index=path, workers=2, timeout=2, start_method="fork", clip=ClipConfig(frames=4), train=view
)
quarantine = Quarantine()
fates = {index[int(row)].name: "slow" for row in epoch_order(0, 0, len(index))[:16]}
found = batches(index, config, fates, folder, quarantine, epochs=1)
next(found)
print("begun", flush=True)
print(1 + len(list(found)), quarantine.found, flush=True)
"""


@pytest.mark.process
def test_a_pause_of_the_whole_job_is_no_fault_of_the_videos(toy, tmp_path):
    """Ctrl-Z, or a cluster that suspends jobs: timers run out while everybody stands still."""
    call = [sys.executable, "-c", PAUSED, str(toy / "index.csv"), str(tmp_path)]
    job = subprocess.Popen(
        call,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
    )
    assert job.stdout.readline() == "begun\n"
    for _ in range(2):  # the same video more than once
        os.killpg(job.pid, signal.SIGSTOP)
        time.sleep(4)
        os.killpg(job.pid, signal.SIGCONT)
        time.sleep(0.4)
    out, error = job.communicate(timeout=120)
    assert out == "12 {}\n", error
    assert "the job was suspended for a while" in error


def test_an_abandoned_loader_ends_its_workers(index, config, tmp_path):
    before = set(multiprocessing.active_children())
    found = batches(index, config, {}, tmp_path)
    next(found)
    workers = set(multiprocessing.active_children()) - before
    begun = time.monotonic()
    del found
    assert time.monotonic() - begun < 1
    for worker in workers:
        worker.join(2)
        assert not worker.is_alive()


def test_an_exit_is_no_timeout(index, config, tmp_path):
    (name,) = names_of(index, 5)
    found = batches(index, config, {name: "exit"}, tmp_path, epochs=1, timeout=30)
    assert equal(found, unharmed(index, config, [name], tmp_path, epochs=1)) == [
        (name, "its reader ended with code 1 twice")
    ]


def test_errors_of_the_user_come_in_one_line(index, config, tmp_path):
    every = dict.fromkeys(names_of(index, *range(48)), "raise")
    with pytest.raises(SnvideoError) as error:
        next(batches(index, config, every, tmp_path))
    assert str(error.value).startswith("10 videos in a row could not be read")
    assert "\n" not in str(error.value)


class Buggy(Sabotaged):
    def steps(self, key):
        raise ValueError("a bug")


@pytest.mark.parametrize("workers", [0, 2])
def test_bugs_keep_their_traceback(index, config, tmp_path, workers):
    config = config.model_copy(update={"workers": workers})
    clips = Buggy(index, config, 0, Quarantine(), {}, tmp_path)
    with pytest.raises(ValueError, match="a bug") as error:
        next(BatchLoader(clips, keys(index), config))
    assert "in steps" in "".join(traceback.format_exception(error.value))


def test_quarantine_file_there_and_back(tmp_path):
    quarantine = Quarantine({"b/a, c.mp4": "no answer for 60 s", "a\udcff.mp4": 'said "no"'})
    quarantine.write(tmp_path / "quarantine.csv")
    assert Quarantine.read(tmp_path / "quarantine.csv").closed == quarantine.closed
    for text in ("", "path\na.mp4\n", "path,reason\na.mp4\n"):
        (tmp_path / "bad.csv").write_text(text)
        with pytest.raises(SnvideoError, match=r"quarantine .*bad.csv: expected"):
            Quarantine.read(tmp_path / "bad.csv")
    with pytest.raises(SnvideoError, match="cannot read quarantine"):
        Quarantine.read(tmp_path / "none.csv")
