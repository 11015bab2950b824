"""Runs that are killed or asked to stop at any moment end with the bits of one that was not.

Commands are run by forked processes, see `tests.engine.fork_server`, all with one thread.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from snvideo.config import load_config
from snvideo.engine.checkpoint import checkpoints, load_checkpoint, save_checkpoint
from snvideo.engine.train import train
from snvideo.engine.trainer import Trainer
from snvideo.errors import TEMPORARY_FAILURE, SnvideoError
from tests.engine.runs import (
    CPU,
    Job,
    assert_close,
    children,
    last_state,
    last_weights,
    metrics,
    results,
    run_config,
    start,
    take_steps,
)

EPOCHS, STEPS = 3, 18
"""Of all runs here."""

# All that has a state or draws numbers. Checkpoints come by the clock, in the middle of log
# windows, and a validation does, too.
OPTIONS = (
    f"optim.epochs={EPOCHS}",
    "optim.lr=0.02",
    "optim.warmup_epochs=1",
    "optim.ema=0.8",
    "optim.label_smoothing=0.1",
    "model.dropout=0.4",
    "model.drop_path=0.3",
    "data.train.flip=true",
    "data.train.mixup=0.4",
    "data.test.clips=5",
    "log.every_steps=4",
    "log.early_validation={step: 3, videos: 5}",
    "log.checkpoint_minutes=0.002",
)

WORKERS = ("data.workers=1", "data.start_method=fork")

BROKEN = "broken.mp4"

TORCHRUN = ("--standalone", "--nproc-per-node=2")


@pytest.fixture
def rng() -> random.Random:
    """Of a seed that is shown when the test fails; SEED in the environment repeats it."""
    seed = int(os.environ.get("SEED", random.SystemRandom().randrange(2**32)))
    print(f"SEED={seed}")
    return random.Random(seed)


@pytest.fixture(scope="module")
def videos(toy, tmp_path_factory) -> Path:
    """Folder of an index of the toy videos, and of one for training that cannot be read."""
    folder = tmp_path_factory.mktemp("videos")
    (folder / BROKEN).write_text("this is not a video")
    meta = json.loads((toy / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps({**meta, "root": str(toy)}))
    lines = (toy / "index.csv").read_text().splitlines()
    lines[2] = ",".join([str(folder / BROKEN), *lines[2].split(",")[1:]])
    (folder / "index.csv").write_text("\n".join([*lines, ""]))
    return folder


def undisturbed(norm: str, processes: int) -> Any:
    """A fixture: the folder of a finished run."""

    def whole(videos, tmp_path_factory) -> Path:
        output = tmp_path_factory.mktemp("whole") / "run"
        run_config(videos, output, *OPTIONS, f"model.norm.name={norm}")
        begin(output, processes).done()
        return output

    return pytest.fixture(whole, scope="module")


whole_sn, whole_bn = undisturbed("sn", 1), undisturbed("bn", 1)
whole_on_two = undisturbed("bn", 2)


def begin(output: Path, processes: int = 1, function: str = "command", *more: Any) -> Job:
    """The command of a run, for the first time or again."""
    log, call = output.with_suffix(".log"), ("train", f"{output}.yaml")
    return start(function, *more, *call, log=log, processes=processes)


def torchrun(output: Path, *options: str) -> Job:
    """The same on two processes under torchrun."""
    call = (*TORCHRUN, *options, "-m", "snvideo", "train", f"{output}.yaml")
    return start("torchrun", *call, log=output.with_suffix(".log"))


# What is compared -------------------------------------------------------------------------------


def assert_same(one: Any, two: Any, where: str = "state") -> None:
    """Two values are alike to the bit, and so are all that they hold."""
    assert type(one) is type(two), where
    if isinstance(one, dict):
        assert one.keys() == two.keys(), where
        for key in one:
            assert_same(one[key], two[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(two), where
        for number, pair in enumerate(zip(one, two, strict=True)):
            assert_same(*pair, f"{where}.{number}")
    elif isinstance(one, torch.Tensor):
        assert one.dtype == two.dtype and torch.equal(one, two), where
    else:
        assert one == two, where


def without_timings(state: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint but for seconds, and for where it ends the metrics, whose timings differ in
    length."""
    progress = {k: v for k, v in state["progress"].items() if k != "train_seconds"}
    return {k: v for k, v in {**state, "progress": progress}.items() if k != "metrics"}


def untimed(folder: Path) -> dict[str, Any]:
    return {key: value for key, value in results(folder).items() if not key.endswith("_seconds")}


def names(folder: Path) -> set[str]:
    """Files of a run but for what depends on how often, and when, it was begun or saved."""
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return {
        name for name in found if not name.startswith(("tensorboard", "checkpoints/step_", "."))
    }


def kinds(folder: Path) -> list[tuple[str, int]]:
    return [(line["kind"], line["step"]) for line in metrics(folder)]


def assert_ended_alike(run: Path, whole: Path) -> None:
    """A finished run has the bits of one that was not disturbed."""
    assert names(run) == names(whole)
    assert not list((run / "checkpoints").glob(".step_*"))
    assert checkpoints(run / "checkpoints")[-1].name == f"step_{STEPS:08d}.pt"
    assert_same(without_timings(last_state(run)), without_timings(last_state(whole)))
    best = [load_checkpoint(folder / "checkpoints/best.pt") for folder in (run, whole)]
    assert_same(*map(without_timings, best), "best")
    assert kinds(run) == kinds(whole)
    lines = [
        [
            line
            for line in (folder / "metrics.jsonl").read_text().splitlines()
            if '"time"' not in line
        ]
        for folder in (run, whole)
    ]
    assert lines[0] == lines[1]
    assert_same(untimed(run), untimed(whole), "results")
    one, two = (np.load(folder / "predictions.npz") for folder in (run, whole))
    assert one.files == two.files
    assert all(np.array_equal(one[name], two[name]) for name in one.files)


def test_whole_runs_are_what_is_wanted(whole_sn):
    """Log windows and a validation that end inside an epoch, and all that there is to compare."""
    lines = metrics(whole_sn)
    steps = {kind: [m["step"] for m in lines if m["kind"] == kind] for kind in set(kinds_of(lines))}
    assert steps["train"] == steps["time"] == [4, 6, 8, 12, 16, 18]
    assert steps["validate"] == steps["importance"] == [6, 12, 18]
    assert steps["early_validation"] == [3]
    unreadable = [(m["replaced"], m["closed"]) for m in lines if m["kind"] == "unreadable"]
    assert unreadable == [(1, 1)] * EPOCHS
    state = last_state(whole_sn)
    assert state["averaged"] == state["progress"]["step"] == STEPS
    assert not all(torch.equal(state["ema"][n], state["model"][n]) for n in state["ema"])
    assert np.load(whole_sn / "predictions.npz")["probabilities"].dtype == np.float32


def kinds_of(lines: list[dict[str, Any]]) -> list[str]:
    return [line["kind"] for line in lines]


# In this process --------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["sn", "bn"])
def test_a_state_is_all_that_a_trainer_goes_on_from(videos, tmp_path, norm):
    """In the middle of a log window: after 5 of 6 steps of an epoch, on into the next one."""
    config = run_config(videos, tmp_path / "run", *OPTIONS, f"model.norm.name={norm}")
    first = Trainer(config, CPU)
    batches = take_steps(first, 5)
    path = save_checkpoint(tmp_path, 5, first.state(), keep=1)
    saved = load_checkpoint(path)
    assert_same(saved, first.state())
    second = Trainer(config, CPU)
    second.load_state(load_checkpoint(path), path)
    assert_same(saved, second.state())
    assert saved["processes"][0]["tally"][3:5] == (5, 5 * 8)  # steps and clips
    take_steps(first, 3, batches)
    take_steps(second, 3)
    assert_same(first.state(), second.state())
    # Statistics of the average are those of the whole step, not of its last pass.
    averaged = dict(first.evaluated.named_buffers())
    assert_same(dict(first.model.named_buffers()), averaged)
    assert len(averaged) > 0
    assert not torch.equal(
        saved["model"]["blocks.0.conv.weight"], first.model.blocks[0].conv.weight
    )
    found = [trainer.test(clips=2, crops=1) for trainer in (first, second)]
    assert np.array_equal(found[0].probabilities, found[1].probabilities)
    assert found[0].loss == found[1].loss


def test_a_run_goes_on_with_less_memory_and_its_index_elsewhere(toy, tmp_path, caplog):
    """What decides no result may change: all that is wanted are the weights up to rounding."""
    caplog.set_level("INFO")
    run = tmp_path / "run"
    more = ("log.keep_checkpoints=9", "log.checkpoint_minutes=1e-6", "data.test.clips=1")
    config = run_config(toy, run, *more, "batch.gpus_per_pass=4", "log.validate_epochs=0")
    train(config)
    whole = last_weights(run)
    for path in [run / "results.json", *checkpoints(run / "checkpoints")[3:]]:
        path.unlink()
    run.rename(tmp_path / "moved")
    run = tmp_path / "moved"
    for name in ("index.csv", "index.json"):
        text = (toy / name).read_text().replace('"root": "."', f'"root": "{toy}"')
        (tmp_path / name).write_text(text)
    # Wherever it is now: by its folder, or by the config in it.
    options = ["batch.gpus_per_pass=1", "data.timeout=9"]
    config = load_config(run / "config.yaml", [*options, f"data.index={tmp_path / 'index.csv'}"])
    assert config == load_config(run, [*options, f"data.index={tmp_path / 'index.csv'}"])
    assert config.output == run
    train(config)
    assert_close(last_weights(run), whole, Trainer(config, CPU).model.state_dict())
    assert any(
        "goes on with other settings, which decide no result: data.index: " in message
        and "batch.gpus_per_pass: 4 -> 1" in message
        for message in caplog.messages
    )
    assert load_config(run).batch.gpus_per_pass == 1  # stored
    assert not (tmp_path / "run").exists()
    # Another index is another run.
    lines = (tmp_path / "index.csv").read_text().splitlines()
    (tmp_path / "other.csv").write_text("\n".join([*lines[:-1], ""]))
    (tmp_path / "index.json").rename(tmp_path / "other.json")
    with pytest.raises(SnvideoError, match=r"another config \(data\.index: "):
        train(load_config(run, [f"data.index={tmp_path / 'other.csv'}"]))


# SIGKILL ----------------------------------------------------------------------------------------


def until(condition: Callable[[], Any], job: Job, tick: float = 0.002) -> None:
    """Wait for something to be, or for the job's end."""
    limit = time.monotonic() + 150
    while not condition() and not job.over():
        assert time.monotonic() < limit, job.log.read_text()
        time.sleep(tick)


def lines_in(folder: Path) -> int:
    path = folder / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def saved(folder: Path) -> int:
    """The step of the newest checkpoint."""
    found = checkpoints(folder / "checkpoints")
    return int(found[-1].stem.removeprefix("step_")) if found else 0


PHASES = ("start-up", "steps", "validation", "checkpoint", "final test")


def wait_for(
    phase: str, job: Job, run: Path, rng: random.Random, haste: float, start_up: float
) -> None:
    """Let the job come to a random moment in a phase of the run."""
    lines, steps = rng.randrange(12), rng.randrange(13)
    reached: dict[str, Callable[[], Any]] = {
        "start-up": lambda: True,
        "steps": lambda: lines_in(run) >= lines,
        "validation": lambda: saved(run) >= [3, 6, 12][lines % 3],
        "checkpoint": lambda: saved(run) >= steps,
        "final test": lambda: saved(run) == STEPS,
    }
    until(reached[phase], job)
    if phase == "checkpoint":
        until(lambda: list((run / "checkpoints").glob(".step_*")), job, tick=0)
    seconds = {"start-up": start_up, "steps": 0.3, "checkpoint": 0.01, "final test": 0.4}
    time.sleep(rng.uniform(0, seconds.get(phase, 0.2)) * haste)


def kill_in(
    phase: str,
    again: Callable[[Path], Job],
    run: Path,
    rng: random.Random,
    start_up: float = 0.5,
) -> None:
    """Kill a run in a phase.

    Where a phase is shorter than it was thought to be, the run may be over before the moment comes;
    then all is put back, and a moment is drawn that comes sooner.

    Args:
        phase: of `PHASES`.
        again: begins the run, or goes on with it.
        run: its folder.
        rng: draws the moment.
        start_up: seconds that the run may take to begin.
    """
    before = run.with_suffix(".before")
    if run.exists():
        shutil.copytree(run, before)
    for haste in (1, 0.5, 0.25, 0.1, 0):
        job = again(run)
        wait_for(phase, job, run, rng, haste, start_up)
        job.kill()
        codes = job.wait()
        if set(codes) == {-signal.SIGKILL} and not (run / "results.json").exists():
            break
        assert set(codes) <= {0, -signal.SIGKILL}, job.log.read_text()
        shutil.rmtree(run)
        if before.exists():
            shutil.copytree(before, run)
    else:
        pytest.fail(f"never killed in its {phase}: {job.log.read_text()}")
    shutil.rmtree(before, ignore_errors=True)
    print(f"killed in its {phase}: {lines_in(run)} lines, a checkpoint of step {saved(run)}")


@pytest.mark.process
@pytest.mark.parametrize(
    ("norm", "more", "times"),
    [
        ("sn", (), 2),
        pytest.param("sn", WORKERS, 5, marks=pytest.mark.slow),
        pytest.param("bn", ("log.checkpoint_minutes=null", *WORKERS), 5, marks=pytest.mark.slow),
    ],
)
def test_killed(videos, tmp_path, request, rng, norm, more, times):
    """In some phases or all, with a process that reads videos, without checkpoints by the clock."""
    run = tmp_path / "run"
    run_config(videos, run, *OPTIONS, f"model.norm.name={norm}", *more)
    for number in sorted(rng.sample(range(len(PHASES)), times)):
        kill_in(PHASES[number], begin, run, rng)
    begin(run).done()
    assert_ended_alike(run, request.getfixturevalue(f"whole_{norm}"))


@pytest.mark.process
def test_one_process_writes_a_run_and_the_others_are_told_so(videos, tmp_path, whole_sn):
    """Of two with the same command, and of one that is left over when its launcher is killed."""
    run = tmp_path / "run"
    run_config(videos, run, *OPTIONS)
    job = begin(run)
    until(lambda: lines_in(run) >= 3, job)
    other = start("command", "train", f"{run}.yaml", log=tmp_path / "other.log")
    assert other.wait() == [2]
    assert f"in use by process {job.pids[0]} on " in (tmp_path / "other.log").read_text()
    job.kill()
    assert (run / ".lock").exists()
    begin(run).done()
    assert_ended_alike(run, whole_sn)
    assert not (run / ".lock").exists()


@pytest.mark.process
def test_what_torchrun_leaves_behind_holds_the_run(videos, tmp_path):
    run = tmp_path / "run"
    run_config(videos, run, *OPTIONS, "model.norm.name=bn", "optim.epochs=40")
    job = torchrun(run)
    until(lambda: lines_in(run) >= 3, job)
    orphans = children(job.pids[0])
    os.kill(job.pids[0], signal.SIGKILL)
    job.wait()
    try:
        other = start("command", "train", f"{run}.yaml", log=tmp_path / "other.log")
        assert other.wait() == [2]
        told = (tmp_path / "other.log").read_text()
        assert any(f"in use by process {pid} on " in told for pid in orphans)
    finally:
        for pid in orphans:
            os.kill(pid, signal.SIGKILL)


# Asked to stop ----------------------------------------------------------------------------------


def signalled(job: Job, number: int, everybody: bool) -> None:
    """Send a signal to the run alone or, as a terminal does, to its workers too."""
    workers = [child for pid in job.pids for child in children(pid)] if everybody else []
    job.signal(number)
    for worker in workers:
        with suppress(ProcessLookupError):
            os.kill(worker, number)


def stopped_at(run: Path) -> int:
    """The step after which a run was stopped, which left word and is whole."""
    step = saved(run)
    assert (run / "preempted").read_text().startswith(f"step {step}, ")
    assert last_state(run)["progress"]["step"] == step
    assert not list((run / "checkpoints").glob(".step_*"))
    assert not (run / "results.json").exists()
    return step


@pytest.mark.parametrize(
    ("number", "workers"), [(signal.SIGTERM, 4), (signal.SIGINT, 0)], ids=["SIGTERM", "SIGINT"]
)
@pytest.mark.process
def test_asked_to_stop_between_steps(videos, tmp_path, whole_sn, number, workers):
    run = tmp_path / "run"
    run_config(videos, run, *OPTIONS, "log.checkpoint_minutes=null", f"data.workers={workers}")
    job = begin(run)
    until(lambda: lines_in(run) >= 10, job)  # of steps 3, 4, 6 and 8
    signalled(job, number, everybody=workers > 0)
    assert job.wait() == [TEMPORARY_FAILURE], job.log.read_text()
    assert stopped_at(run) >= 9
    assert "stopped as asked; the same command goes on" in job.log.read_text()
    begin(run).done()
    assert_ended_alike(run, whole_sn)


@pytest.mark.parametrize(
    ("number", "workers", "everybody"),
    [
        (signal.SIGTERM, 1, True),
        (signal.SIGINT, 0, False),
        pytest.param(signal.SIGTERM, 1, False, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, 1, True, marks=pytest.mark.slow),
    ],
)
@pytest.mark.process
def test_a_validation_is_broken_off(videos, tmp_path, whole_sn, number, workers, everybody):
    """Of videos that take a minute each."""
    run = tmp_path / "run"
    run_config(videos, run, *OPTIONS, *WORKERS[:1] * workers)
    job = begin(run, 1, "slow_command", 60, str(tmp_path / "begun"), [0])
    until((tmp_path / "begun").exists, job)
    signalled(job, number, everybody)
    assert job.wait(timeout=30) == [TEMPORARY_FAILURE], job.log.read_text()
    assert stopped_at(run) == 3
    assert last_state(run)["processes"][0]["found"].keys() == {str(videos / BROKEN)}
    assert "early_validation" not in kinds_of(metrics(run))
    begin(run).done()
    assert_ended_alike(run, whole_sn)


def test_a_process_that_waits_for_others_stops_with_them(videos, tmp_path):
    """One is done with its part of a validation when both are asked to stop."""
    run = tmp_path / "run"
    run_config(videos, run, *OPTIONS)
    job = begin(run, 2, "slow_command", 60, str(tmp_path / "begun"), [1])
    until((tmp_path / "begun").exists, job)
    time.sleep(1)
    signalled(job, signal.SIGTERM, everybody=False)
    assert job.wait(timeout=30) == [TEMPORARY_FAILURE] * 2, job.log.read_text()
    assert stopped_at(run) == 3


# Under torchrun ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_torchrun_is_asked_to_stop_and_killed(videos, tmp_path, whole_on_two, rng):
    run = tmp_path / "run"
    run_config(videos, run, *OPTIONS, "model.norm.name=bn", *WORKERS)
    job = torchrun(run)
    wanted = rng.randrange(1, 5)
    until(lambda: lines_in(run) >= wanted, job)
    job.signal(signal.SIGTERM)
    assert job.wait() != [0]
    assert stopped_at(run) < STEPS
    for number in sorted(rng.sample(range(len(PHASES)), 3)):
        kill_in(PHASES[number], torchrun, run, rng, start_up=8)
    torchrun(run).done()
    assert_ended_alike(run, whole_on_two)


@pytest.mark.process
def test_a_lost_process_is_started_again(videos, tmp_path, whole_on_two, rng):
    run = tmp_path / "run"
    run_config(videos, run, *OPTIONS, "model.norm.name=bn")
    job = torchrun(run, "--max-restarts=1")
    wanted = rng.randrange(1, 12)
    until(lambda: lines_in(run) >= wanted, job)
    time.sleep(rng.uniform(0, 0.2))
    victim = rng.choice(sorted(children(job.pids[0])))
    os.kill(victim, signal.SIGKILL)
    job.done()
    log = job.log.read_text()
    assert "exitcode: -9) local_rank: " in log and f"(pid: {victim})" in log
    assert_ended_alike(run, whole_on_two)


# On two nodes, which are two agents on this machine ---------------------------------------------


@pytest.fixture
def node(videos, tmp_path) -> Callable[[str], Job]:
    """A function that starts one of two agents of a run, of one process each."""
    run = tmp_path / "run"
    run_config(videos, run, *OPTIONS, "model.norm.name=bn")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{free.getsockname()[1]}"

    def agent(name: str) -> Job:
        call = ["--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", "--rdzv-id=run"]
        call += [f"--rdzv-endpoint={endpoint}", "--max-restarts=3", "--local-addr=127.0.0.1"]
        call += [f"--rdzv-conf=is_host={int(name == 'first')},join_timeout=60,read_timeout=20"]
        call += ["-m", "snvideo", "train", f"{run}.yaml"]
        return start("torchrun_of_nodes", *call, log=tmp_path / f"{name}.log")

    return agent


@pytest.mark.process
def test_a_lost_node_is_replaced(node, tmp_path, whole_on_two, rng):
    """Agent and process are killed, the other agent waits for a new one, and both go on."""
    run = tmp_path / "run"
    first, second = node("first"), node("second")
    wanted = rng.randrange(1, 12)
    until(lambda: lines_in(run) >= wanted, first)
    second.kill()
    node("third").done()
    first.done()
    assert_ended_alike(run, whole_on_two)


@pytest.mark.process
def test_without_the_first_node_the_run_ends_and_goes_on_later(node, tmp_path, whole_on_two, rng):
    """The first agent keeps the store by which all find one another."""
    run = tmp_path / "run"
    first, second = node("first"), node("second")
    wanted = rng.randrange(1, 12)
    until(lambda: lines_in(run) >= wanted, first)
    first.kill()
    assert second.wait(timeout=120) != [0]
    for job in [node("first"), node("second")]:
        job.done()
    assert_ended_alike(run, whole_on_two)


# Another number of processes --------------------------------------------------------------------


@pytest.mark.parametrize("processes", [(1, 2), (2, 1)])
@pytest.mark.process
def test_going_on_with_another_number_of_processes(videos, tmp_path, whole_sn, processes, rng):
    """Not with bn: small groups amplify what is rounding at first to a percent in a dozen steps."""
    run = tmp_path / "run"
    config = run_config(videos, run, *OPTIONS)
    before, after = processes
    kill_in("steps", lambda run: begin(run, before), run, rng)
    begin(run, after).done()
    assert names(run) == names(whole_sn)
    assert kinds(run) == kinds(whole_sn)
    for one, two in zip(metrics(run), metrics(whole_sn), strict=True):
        if one.pop("kind") != "time":
            assert one == pytest.approx({name: two[name] for name in one}, rel=1e-3)
    initial = Trainer(config, CPU).model.state_dict()
    assert_close(last_weights(run), last_weights(whole_sn), initial)
    averaged = [last_state(folder)["ema"] for folder in (run, whole_sn)]
    assert_close(*averaged, initial)
    assert untimed(run).keys() == untimed(whole_sn).keys()
    assert untimed(run)["confusion"] == untimed(whole_sn)["confusion"]
    assert untimed(run)["replaced_samples"] == EPOCHS
