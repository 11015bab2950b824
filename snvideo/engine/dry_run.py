"""What a run will need and how long it will take, found out before it begins.

Everything is counted on the run's own parts: its index, geometry, network and schedule. Nothing is
written, and without timed steps no weight gets any memory.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from snvideo.data.config import ClipConfig
from snvideo.data.dataset import Batch
from snvideo.data.index import ClipIndex
from snvideo.data.sampling import frame_step
from snvideo.engine.batch_plan import SYNCHRONISED, BatchPlan, check_mixing, plan_batch
from snvideo.engine.config import RunConfig
from snvideo.engine.distributed import World, init_world
from snvideo.engine.optim import freeze, learning_rate, lr_factor, parameter_groups
from snvideo.engine.performance import DTYPES, Speed, choose, keep_freed_memory
from snvideo.engine.setup import open_start, resolve_config, start_from
from snvideo.engine.trainer import Trainer, build
from snvideo.errors import SnvideoError
from snvideo.models.activation_checkpointing import enable_activation_checkpointing
from snvideo.models.cost import Cost, cost, multiply_adds

FILES = 5
"""Video files of each split that are looked for."""

SAMPLE = 1000
"""Videos of each split, spread evenly, whose length is compared with a clip."""

WARM_UP = 2
"""Steps before those that are timed: workers start, memory is found, kernels are chosen."""

USABLE = 0.9
"""Part of the device's memory that a run may plan with; the rest is for what is not counted."""


class Split(NamedTuple):
    """The usable videos of a split."""

    name: str
    videos: int
    short: float
    """Part of them that is shorter than a clip, whose last frame is then repeated."""
    missing: list[str]
    """Names of those among the first few that have no file."""


class Memory(NamedTuple):
    """Bytes that training takes in each process, but for what passes by: gradients of activations,
    workspaces, the inside of one block where blocks are computed again."""

    weights: int
    """With running statistics."""
    gradients: int
    """Twice on several processes, which send them in buckets."""
    optimizer: int
    average: int
    """Weights averaged over steps."""
    activations: int
    """Kept by one pass for backward."""
    available: int | None
    """Of the device's free memory, this process's share; None if it cannot be told."""

    @property
    def needed(self) -> int:
        return sum(self[:5])

    @property
    def fits(self) -> bool:
        return self.available is None or self.needed <= USABLE * self.available


class Timing(NamedTuple):
    """What a few real steps took."""

    steps: int
    seconds: float
    """Of one step."""
    waiting: float
    """Part of it that was spent waiting for data."""
    peak: int | None
    """Most bytes that were in use at a time, on a GPU."""


@dataclass(frozen=True)
class DryRun:
    """What a run will need."""

    config: RunConfig
    main: bool
    """Whether this process is the one to speak."""
    device: torch.device
    plan: BatchPlan
    speed: Speed
    classes: int
    splits: list[Split]
    """Training, then test."""
    cost: Cost
    """Of a training view, and of one pass."""
    test_multiply_adds: int
    """Of a test view."""
    steps_per_epoch: int
    peaks: dict[str, float]
    """The peak learning rate of each group of parameters."""
    factors: dict[int, float]
    """Step -> learning rate as a fraction of its peak, where the schedule turns."""
    memory: Memory
    timing: Timing | None

    @property
    def total_steps(self) -> int:
        return self.config.optim.epochs * self.steps_per_epoch

    @property
    def forwards(self) -> int:
        """A training step in forward passes: backward is two, and computing again is one."""
        return 4 if self.speed.activation_checkpointing else 3

    @property
    def epoch_multiply_adds(self) -> int:
        """Of training, over all processes."""
        clips = self.steps_per_epoch * self.plan.total_batch
        return self.forwards * self.cost.multiply_adds * clips


def dry_run(config: RunConfig, timed_steps: int = 3) -> DryRun:
    """Check a run and count what it needs, on as many processes as it has been started on.

    Args:
        config: of the run; its output is not touched.
        timed_steps: optimizer steps to time, after some that are not, by the run's own loader on
            its own device; 0: none. A run whose memory does not fit is not tried. The loader works
            ahead, so a few steps may not have to wait for it, where many would.

    Raises:
        SnvideoError: if config, index, videos, hardware and network do not fit together.
    """
    with init_world() as world:
        found = count(config, world)
        if not timed_steps or not all(world.gather(found.memory.fits)):
            return found
        return DryRun(**{**vars(found), "timing": _timed(config, world, timed_steps)})


def count(config: RunConfig, world: World) -> DryRun:
    """What can be said of a run without computing anything.

    Raises:
        SnvideoError: as `dry_run`.
    """
    data, optim, norm = config.data, config.optim, config.model.norm.name
    train = ClipIndex.load(data.index, data.train_split, data.root)
    test = ClipIndex.load(data.index, data.test_split, data.root)
    plan = plan_batch(config.batch, norm, world.size, world.rank, len(train))
    check_mixing(config, plan)
    steps_per_epoch = plan.steps(len(train))
    speed = choose(config.speed, world.device, optim.epochs * steps_per_epoch)
    source = open_start(config, world)
    if source is not None:  # would they fit?
        start_from(build(config, len(train.labels)), source, config, train.labels, world)
    config = resolve_config(config, source, world)
    model = _outline(config, len(train.labels))
    spent, test_multiply_adds = _costs(model, config, plan, speed, world.device)
    groups = parameter_groups(model, optim, learning_rate(optim, plan.total_batch))
    return DryRun(
        config=config,
        main=world.is_main,
        device=world.device,
        plan=plan,
        speed=speed,
        classes=len(train.labels),
        splits=[_split(index, data.clip) for index in (train, test)],
        cost=spent,
        test_multiply_adds=test_multiply_adds,
        steps_per_epoch=steps_per_epoch,
        peaks={group["name"]: group["lr"] for group in groups},
        factors=_factors(config, steps_per_epoch),
        memory=_memory(model, config, world, spent),
        timing=None,
    )


def _outline(config: RunConfig, classes: int) -> nn.Module:
    """The network as it is trained, without memory behind its tensors."""
    with torch.device("meta"):
        model = build(config, classes)
    for module in freeze(model, config.optim.freeze):
        module.eval()
    if config.speed.activation_checkpointing:
        enable_activation_checkpointing(model)
    return model


def _costs(
    model: nn.Module, config: RunConfig, plan: BatchPlan, speed: Speed, device: torch.device
) -> tuple[Cost, int]:
    """Cost of training, and multiply-adds of a test view."""
    frames, crop = config.data.clip.frames, config.data.train.crop
    clips = (plan.groups_per_pass * plan.clips_per_gpu, 3, frames, crop, crop)
    try:
        spent = cost(model, clips, DTYPES[speed.amp], device)
        crop = config.data.test.crop
        return spent, multiply_adds(model, frames, crop)
    except (ValueError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise SnvideoError(
            f"{config.model.name} cannot take clips of {frames} frames, {crop} x {crop} pixels: "
            f"{reason}: change data.clip.frames or the crop"
        ) from error


# Videos -----------------------------------------------------------------------------------------


def _split(index: ClipIndex, clip: ClipConfig) -> Split:
    return Split(index.split, len(index), _short(index, clip), missing_files(index))


def missing_files(index: ClipIndex) -> list[str]:
    """Names of those of the first few videos of a split that have no file.

    Raises:
        SnvideoError: if none has: the root must be wrong.
    """
    first = [index[row] for row in range(min(FILES, len(index)))]
    missing = [video for video in first if not video.path.is_file()]
    if len(missing) == len(first):
        raise SnvideoError(
            f"split {index.split!r}: none of its first {len(first)} videos is there, as "
            f"{missing[0].path}: set data.root to where the videos are (now {index.root})"
        )
    return [video.name for video in missing]


def _short(index: ClipIndex, clip: ClipConfig) -> float:
    """Part of the videos of a split that are shorter than a clip; estimated if there are many."""
    looked = min(SAMPLE, len(index))
    rows = (number * len(index) // looked for number in range(looked))
    return sum(_is_short(clip, index[row].fps, index[row].frames) for row in rows) / looked


def _is_short(clip: ClipConfig, fps: float, frames: int) -> bool:
    """Whether a clip that begins with frame 0 goes on, rounded to frames, beyond the last."""
    return math.floor((clip.frames - 1) * frame_step(clip, fps) + 0.5) >= frames


# Schedule and memory ----------------------------------------------------------------------------


def _factors(config: RunConfig, steps_per_epoch: int) -> dict[int, float]:
    """The schedule at its turns: start, end of warm-up, milestones or half-way, last step."""
    optim = config.optim
    total = optim.epochs * steps_per_epoch
    warmed = math.ceil(optim.warmup_epochs * steps_per_epoch)
    if optim.schedule == "step":
        turns = [math.ceil(milestone * total) for milestone in optim.milestones]
    else:
        turns = [(warmed + total) // 2]
    steps = {step for step in (0, warmed, *turns, total - 1) if 0 <= step < total}
    return {step: lr_factor(optim, steps_per_epoch, step) for step in sorted(steps)}


def _memory(model: nn.Module, config: RunConfig, world: World, spent: Cost) -> Memory:
    weights = sum(tensor.nbytes for tensor in model.state_dict().values())
    trained = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    return Memory(
        weights=weights,
        gradients=trained * (1 if world.size == 1 else 2),
        optimizer=trained if config.optim.momentum else 0,
        average=weights if config.optim.ema else 0,
        activations=spent.activation_bytes,
        available=available_memory(world.device),
    )


def available_memory(device: torch.device) -> int | None:
    """Free bytes of a device; of the machine's memory, the share of this process. None if the
    system does not tell."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        (free,) = [int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable")]
    except (OSError, ValueError):
        try:
            free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (AttributeError, OSError, ValueError):
            return None
    return free // int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # as torchrun says it


# Time -------------------------------------------------------------------------------------------


def _timed(config: RunConfig, world: World, steps: int) -> Timing:
    """Time real optimizer steps, and forget what they did."""
    device = world.device
    try:
        trainer = Trainer(config, world)
        if trainer.speed.keep_memory:
            keep_freed_memory()
        warm_up = min(WARM_UP, trainer.total_steps - 1)
        steps = min(steps, trainer.total_steps - warm_up)
        batches = trainer.batches()
        _take(trainer, batches, warm_up)
        trainer.clock.take()
        begun = time.perf_counter()
        _take(trainer, batches, steps)
        seconds = (time.perf_counter() - begun) / steps
    except torch.OutOfMemoryError:
        raise SnvideoError(
            f"a training step does not fit in the memory of {device}: {remedies(config)}"
        ) from None
    laps = trainer.clock.take()
    return Timing(
        steps=steps,
        seconds=seconds,
        waiting=sum(lap["data"] for lap in laps) / sum(sum(lap.values()) for lap in laps),
        peak=torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
    )


def _take(trainer: Trainer, batches: Iterator[Batch], steps: int) -> None:
    """So many steps, until the device is done with them."""
    for _ in range(steps):
        trainer.step(batches)
    if trainer.device.type == "cuda":
        torch.cuda.synchronize(trainer.device)


def remedies(config: RunConfig) -> str:
    """The switches that make a training pass smaller."""
    switches = []
    if config.batch.gpus_per_pass > 1 and config.model.norm.name not in SYNCHRONISED:
        switches.append(f"a batch.gpus_per_pass below {config.batch.gpus_per_pass}")
    if not config.speed.activation_checkpointing:
        switches.append("speed.activation_checkpointing=true")
    if config.speed.amp == "none":
        switches.append("speed.amp=bf16")
    switches.append(
        "more processes"
        if config.model.norm.name in SYNCHRONISED
        else "fewer batch.clips_per_gpu, which is another experiment"
    )
    return "try " + ", ".join(switches)
