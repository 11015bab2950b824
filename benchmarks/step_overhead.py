"""What `Trainer.step` costs beyond the bare step of the same network, and where that goes."""

from collections.abc import Callable
from itertools import cycle
from statistics import median

import numpy as np
import torch
from rival_steps import Setting, Variant, Work, make_batches, make_trainer, several, trainer_turn
from sheets import Row
from timing import seconds, set_libraries_aside
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from snvideo.data.augmentation import train_input
from snvideo.data.dataset import Batch
from snvideo.engine.loop import TrainingLoop
from snvideo.engine.performance import algorithms, autocast, memory_format
from snvideo.engine.preemption import Preemption
from snvideo.engine.run_dir import RunDir
from snvideo.engine.trainer import Trainer
from snvideo.engine.turns import ratio, take_turns
from snvideo.models.dropout import ClipDropout
from snvideo.norm import one_update

WHOLE, BARE, BARE_BYTES = "Trainer.step", "bare step", "bare step, from bytes"
REST, LOG_LINE = "the rest", "log line"
OVERHEAD_TARGET = 1.03
LOG_STEPS = 10
"""Steps between two log lines, as by default."""


def network_input(trainer: Trainer, batch: Batch) -> Tensor:
    """A batch as the trainer's network takes it."""
    layout = memory_format(trainer.config.speed)
    return train_input(batch, trainer.config.data, trainer.device, layout)


def bare_turn(trainer: Trainer, inputs: list[Tensor] | None, batches: list[Batch]) -> Callable:
    """Forward, loss, backward and update alone, of a trainer's network by its optimizer.

    Args:
        trainer: with the settings of its own.
        inputs: what the network takes; None: to be made of the bytes.
        batches: the same clips as bytes, on the device, and their labels.
    """
    numbers = cycle(range(len(batches)))

    def step() -> None:
        number = next(numbers)
        batch = batches[number]
        clips = inputs[number] if inputs else network_input(trainer, batch)
        with autocast(trainer.config.speed, trainer.device):
            logits = trainer.network(clips)
        cross_entropy(logits.float(), batch.labels).backward()
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()

    return step


def pieces(trainer: Trainer, batch: Batch, setting: Setting) -> dict[str, Callable[[], float]]:
    """What `Trainer.step` does beside the bare step, each by itself, to be timed."""
    device = trainer.device
    norm = torch.ones((), device=device)
    losses = torch.ones(len(batch.labels), device=device)
    correct = losses > 0
    gradients = [torch.randn_like(parameter) for parameter in trainer.parameters]

    def statistics() -> None:
        with one_update(trainer.tracking) as found:
            found.collect()

    def clock() -> None:
        trainer.timer.begin()
        for phase in ("data", "forward", "backward", "data"):
            trainer.timer.lap(phase)
        trainer.timer.lap("update")

    def masks() -> None:
        trainer.masks.draw(0)
        trainer.masks.give(range(len(losses)))

    def switches() -> None:
        with algorithms(trainer.speed, device):
            pass

    works = {
        "input from bytes": lambda: network_input(trainer, batch),
        "statistics": statistics,
        "gradient norm": lambda: nn.utils.get_total_norm(gradients),
        "guard": lambda: trainer.finite_check.accepts(0, losses, batch.rows, norm),
        "tally": lambda: trainer.metrics.add(losses, correct, norm, 0),
        "dropout masks": masks,
        "clock": clock,
        "algorithms": switches,
        "schedule": trainer.schedule.step,
    }
    turns = {name: lambda work=work: seconds(work, device) for name, work in works.items()}
    return turns | {f"{LOG_LINE} / {LOG_STEPS}": log_turn(trainer, clock, setting)}


def log_turn(trainer: Trainer, clock: Callable[[], None], setting: Setting) -> Callable[[], float]:
    """A step's part in a log line of a run, which reads the sums, writes and prints."""
    folder = RunDir(setting.folder / f"run{id(trainer)}")
    folder.open(trainer.config, 0, 0)
    run = TrainingLoop(trainer, folder, Preemption())

    def turn() -> float:
        trainer.timer.take()
        for _ in range(LOG_STEPS):
            clock()
        run.first = trainer.progress.step - LOG_STEPS
        return seconds(run._log, trainer.device) / LOG_STEPS

    return turn


def overhead_rows(work: Work, norm: str, setting: Setting) -> list[Row]:
    """`Trainer.step` by default against the bare step of the same network and optimizer."""
    set_libraries_aside()
    device, batches = setting.device, make_batches(work, setting)
    trainer = make_trainer(work, norm, Variant({}), setting)
    there = [
        batch._replace(clips=batch.clips.to(device), labels=batch.labels.to(device))
        for batch in batches
    ]
    inputs = [network_input(trainer, batch) for batch in there]

    def bare(inputs: list[Tensor] | None) -> Callable[[], float]:
        step = bare_turn(trainer, inputs, there)

        def run() -> float:
            for layer in trainer.model.modules():
                if isinstance(layer, ClipDropout):
                    layer.mask = None  # it draws by itself
            with algorithms(trainer.speed, device):
                return several(step, setting)

        return run

    steps = {
        WHOLE: trainer_turn(trainer, batches, setting).run,
        BARE: bare(inputs),
        BARE_BYTES: bare(None),
    }
    parts = pieces(trainer, there[0], setting)
    times = take_turns(steps | parts, setting.repeats)
    known = [times[BARE], *(times[name] for name in parts if not name.startswith(LOG_LINE))]
    times[REST] = (np.array(times[WHOLE]) - np.sum(known, axis=0)).tolist()
    rows = []
    for name, spent in times.items():
        row = work.about() | {"norm": norm, "rival": name, "base": BARE, "ms": 1e3 * median(spent)}
        row |= {"speed": str(trainer.speed), **ratio(spent, times[BARE])._asdict()}
        if name == WHOLE:
            row |= {"target": OVERHEAD_TARGET, "met": row["median"] <= OVERHEAD_TARGET}
            row["over_bytes"] = ratio(spent, times[BARE_BYTES])._asdict()
        rows.append(row)
    return rows
