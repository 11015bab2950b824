"""Dry run: needs and speed of a run, counted and timed before it begins.

Nothing is written, and without timed steps no weight gets any memory.
"""

import math
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch

from snvideo.engine.batch_plan import (
    SYNCHRONISED,
    BatchPlan,
    check_mixing,
    check_repeats,
    plan_batch,
)
from snvideo.engine.config import RunConfig, SpeedConfig
from snvideo.engine.distributed import World, init_world
from snvideo.engine.optim import (
    class_weights,
    freeze,
    learning_rate,
    lr_factor,
    optimizer_tensors,
    parameter_groups,
)
from snvideo.engine.performance import DTYPES, choose
from snvideo.engine.precheck import SplitSummary, check_index, load_splits, view_cost
from snvideo.engine.settings import settings_without_effect
from snvideo.engine.setup import build_network, open_start, resolve_config, start_from
from snvideo.engine.step_timer import waiting_share
from snvideo.engine.trackers import check_trackers
from snvideo.engine.trainer import Trainer
from snvideo.errors import SnvideoError
from snvideo.models.activation_checkpointing import enable_activation_checkpointing
from snvideo.models.cost import Cost, activation_bytes, count_parameters

WARM_UP = 2  # steps before the timed ones: workers start, memory is allocated, kernels are chosen
USABLE = 0.9  # part of the device's memory; the rest is for what is not counted


class Timing(NamedTuple):
    """Times of a few real optimizer steps."""

    steps: int
    seconds: float  # of one step
    waiting: float  # part of it that was spent waiting for data
    peak: int | None  # most bytes that were in use at a time, on a GPU


@dataclass(frozen=True)
class DryRun:
    """Needs of a run."""

    config: RunConfig
    is_main: bool  # process
    device: torch.device
    plan: BatchPlan
    speed: SpeedConfig
    classes: int
    splits: list[SplitSummary]  # training, validation if it has its own, test
    cost: Cost  # of a training view, and of one pass
    test_multiply_adds: int  # of a test view
    steps_per_epoch: int
    peaks: dict[str, float]  # the peak learning rate of each group of parameters
    layer_scales: list[float]  # of the learning rate, one a layer, from the stem to the head
    factors: dict[int, float]  # learning rate as a fraction of its peak, where the schedule turns
    memory: dict[str, int]  # bytes of training in each process, but for gradients of activations
    memory_free: int | None  # this process's share of the device's bytes; None if unknown
    without_effect: list[str]  # settings, a line each
    timing: Timing | None = None

    @property
    def memory_needed(self) -> int:
        """Sum of `memory`."""
        return sum(self.memory.values())

    @property
    def fits(self) -> bool:
        """False if the device is known to have too little free memory."""
        return self.memory_free is None or self.memory_needed <= USABLE * self.memory_free

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the run."""
        return self.config.optim.total_steps(self.steps_per_epoch)

    @property
    def forwards(self) -> int:
        """A training step in forward passes: backward is two, and computing again is one."""
        return 4 if self.speed.activation_checkpointing else 3

    @property
    def epoch_multiply_adds(self) -> int:
        """Multiply-adds of training for an epoch, over all processes."""
        views = self.steps_per_epoch * self.plan.total_batch
        return self.forwards * self.cost.multiply_adds * views


def dry_run(config: RunConfig, timed_steps: int = 3) -> DryRun:
    """Check a run and count what it needs, on as many processes as it has been started on.

    Args:
        config: of the run; its output is not touched.
        timed_steps: optimizer steps to time after a warm-up, with the run's own loader, which works
            ahead: a few steps may not have to wait for it, where many would. None are timed if
            memory does not fit.

    Raises:
        SnvideoError: if config, index, videos, hardware and network do not fit together.
    """
    with init_world() as world:
        found = estimate(config, world)
        if not timed_steps or not all(world.gather(found.fits)):
            return found
        return replace(found, timing=_time_steps(config, world, timed_steps))


def estimate(config: RunConfig, world: World) -> DryRun:
    """The part of a dry run that computes nothing; raises as `dry_run`."""
    data, optim = config.data, config.optim
    check_trackers(config.log.trackers)
    loaded = load_splits(config)
    train, splits = loaded.train, check_index(loaded, data.clip)
    class_weights(optim.class_weights, train)  # is there one for each class?
    plan = plan_batch(config.batch, config.model.norm.name, world.size, world.rank, len(train))
    check_mixing(config, plan)
    check_repeats(config, plan)
    steps_per_epoch = plan.steps(len(train))
    total_steps = optim.total_steps(steps_per_epoch)
    speed = choose(config.speed, world.device, total_steps)
    source = open_start(config, world)
    if source is not None:  # would they fit?
        start_from(build_network(config, len(train.labels)), source, config, train.labels, world)
    config = resolve_config(config, source, world)
    with torch.device("meta"):
        model = build_network(config, len(train.labels))
    for module in freeze(model, optim.freeze):
        module.eval()
    if speed.activation_checkpointing:
        enable_activation_checkpointing(model)
    frames, crop = data.clip.frames, data.train.crop
    clips = (plan.groups_per_pass * plan.clips_per_gpu, 3, frames, crop, crop)
    training, testing = view_cost(model, config)
    spent = Cost(
        count_parameters(model),
        count_parameters(model, trainable=True),
        training,
        activation_bytes(model, clips, DTYPES[speed.amp], world.device),
    )
    peak = learning_rate(optim, plan.total_batch)
    scales = {group["lr_scale"] for group in parameter_groups(model, optim, peak)}
    undecayed = parameter_groups(model, optim.model_copy(update={"layer_decay": 1.0}), peak)
    weights = sum(tensor.nbytes for tensor in model.state_dict().values())
    trained = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    return DryRun(
        config=config,
        is_main=world.is_main,
        device=world.device,
        plan=plan,
        speed=speed,
        classes=len(train.labels),
        splits=splits,
        cost=spent,
        test_multiply_adds=testing,
        steps_per_epoch=steps_per_epoch,
        peaks={group["name"]: group["lr"] for group in undecayed},
        layer_scales=sorted(scales),
        factors=_factors(config, steps_per_epoch),
        memory={
            "weights": weights,
            "gradients": trained * min(world.size, 2),  # several processes send them in buckets
            "optimizer": trained * optimizer_tensors(optim),
            "averaged weights": weights if optim.ema else 0,
            "activations of a pass": spent.activation_bytes,
        },
        memory_free=free_memory(world.device),
        without_effect=settings_without_effect(config, plan, train, total_steps, world.device),
    )


def _factors(config: RunConfig, steps_per_epoch: int) -> dict[int, float]:
    """The schedule at its turns: start, end of warm-up, milestones or half-way, last step."""
    optim = config.optim
    total = optim.total_steps(steps_per_epoch)
    warmed = math.ceil(optim.total_warmup(steps_per_epoch))
    turns = [math.ceil(milestone * total) for milestone in optim.milestones]
    if optim.schedule == "cosine":
        turns = [(warmed + total) // 2]
    steps = {step for step in (0, warmed, *turns, total - 1) if 0 <= step < total}
    return {step: lr_factor(optim, steps_per_epoch, step) for step in sorted(steps)}


def free_memory(device: torch.device) -> int | None:
    """Free bytes of a GPU, or this process's share of the machine's; None if unknown."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    table = Path("/proc/meminfo")  # of Linux
    found = re.search(r"MemAvailable: +(\d+) kB", table.read_text() if table.exists() else "")
    return int(found[1]) * 1024 // int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if found else None


def _time_steps(config: RunConfig, world: World, steps: int) -> Timing:
    """Time real optimizer steps of a trainer that is then thrown away."""
    try:
        trainer = Trainer(config, world)
        warm_up = min(WARM_UP, trainer.total_steps - 1)
        steps = min(steps, trainer.total_steps - warm_up)
        batches = trainer.batches()
        for number in (warm_up, steps):
            for _ in range(number):
                trainer.step(batches)
            timed = trainer.timer.take()
    except torch.OutOfMemoryError:
        raise SnvideoError(
            f"a training step does not fit in the memory of {world.device}: {remedies(config)}"
        ) from None
    gpu = world.device.type == "cuda"
    peak = torch.cuda.max_memory_allocated(world.device) if gpu else None
    seconds = sum(sum(step.values()) for step in timed) / steps
    return Timing(steps, seconds, waiting_share(timed), peak)


def remedies(config: RunConfig) -> str:
    """The options that make a training pass smaller."""
    together, synchronised = config.batch.gpus_per_pass, config.model.norm.name in SYNCHRONISED
    options = {
        f"a batch.gpus_per_pass below {together}": together > 1 and not synchronised,
        "speed.activation_checkpointing=true": not config.speed.activation_checkpointing,
        "speed.amp=bf16": config.speed.amp == "none",
        "more processes": synchronised,
        "fewer batch.clips_per_gpu, which is another experiment": not synchronised,
    }
    return "try " + ", ".join(option for option, helps in options.items() if helps)
