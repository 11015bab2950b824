"""Settings that have no effect in a run, to be said before its first step."""

from collections.abc import Iterator

import torch

from snvideo.base_config import Section
from snvideo.data.config import DataConfig, TrainViewConfig
from snvideo.data.index import ClipIndex
from snvideo.engine.batch_plan import BatchPlan
from snvideo.engine.config import LogConfig, OptimConfig, RunConfig, StatisticsConfig
from snvideo.engine.optim import ema_decay
from snvideo.norm.batch_renorm import SCHEDULE


def settings_without_effect(
    config: RunConfig, plan: BatchPlan, index: ClipIndex, steps: int, device: torch.device
) -> list[str]:
    """One line for every setting that has no effect, or not the whole one, and why.

    Args:
        config: of the run.
        plan, index: its batches and training videos.
        steps: its optimizer steps.
        device: that it trains on.
    """
    parts = (
        _batch(config, plan),
        _norm(config, steps),
        _optim(config, steps),
        _data(config, index),
        _validation(config),
        _statistics(config.statistics),
        _log(config.log, -(-steps // plan.steps(len(index))), steps),
        _speed(config, device),
    )
    return [line for part in parts for line in part]


def _is_set(section: Section, name: str) -> bool:
    """True if a key has another value than by default."""
    return getattr(section, name) != type(section).model_fields[name].default


def _batch(config: RunConfig, plan: BatchPlan) -> Iterator[str]:
    asked, key = config.batch.gpus_per_pass, "batch.gpus_per_pass"
    if plan.joint:
        if asked > 1:
            yield f"{key}={asked}: {config.model.norm.name} takes the whole batch in one pass"
        return
    share = plan.gpus // plan.processes
    if asked > config.batch.gpus:
        yield f"{key}={asked} beyond batch.gpus={config.batch.gpus}"
    elif asked < share and asked != plan.groups_per_pass:
        yield (
            f"{key}={asked}: it does not divide {share} groups of a process, so a pass has "
            f"{plan.groups_per_pass}"
        )


def _norm(config: RunConfig, steps: int) -> Iterator[str]:
    norm, clips = config.model.norm, config.batch.clips_per_gpu
    if norm.start != "equal" and not norm.has_logits:
        yield f"model.norm.start={norm.start}: {norm.name} has no importance logits"
    weights = config.model.weights
    if not config.model.zero_init_last and weights is not None and weights.norms == "keep":
        yield "model.zero_init_last=false: the scales are those of model.weights.source"
    if norm.start == "batch" and norm.drops_batch_part(clips):
        yield "model.norm.start=batch: one clip per GPU leaves out the batch part, start is equal"
    begins = (norm.schedule or SCHEDULE)[0]
    if norm.name == "brn" and begins >= steps:
        yield (
            f"model.norm.name=brn: it is Batch Normalization for {begins} steps, the run has "
            f"{steps}: set model.norm.schedule"
        )


def _optim(config: RunConfig, steps: int) -> Iterator[str]:
    optim, norm = config.optim, config.model.norm
    if optim.name == "adamw":
        if _is_set(optim, "momentum"):
            yield f"optim.momentum={optim.momentum:g}: that of adamw is the first of optim.betas"
    elif _is_set(optim, "betas"):
        yield "optim.betas: they are those of optim.name=adamw"
    elif optim.nesterov and not optim.momentum:
        yield "optim.nesterov: optim.momentum is 0"
    if optim.logit_lr != 1 and not norm.has_logits:
        yield f"optim.logit_lr={optim.logit_lr:g}: {norm.name} has no importance logits"
    if _is_set(optim, "warmup_start") and not optim.warmup:
        key = "warmup_epochs" if optim.steps is None else "warmup_steps"
        yield f"optim.warmup_start={optim.warmup_start:g}: optim.{key} is 0"
    if optim.schedule == "step":
        yield from _milestones(optim, steps)
    elif optim.milestones or _is_set(optim, "gamma"):
        key = "milestones" if optim.milestones else "gamma"
        yield f"optim.{key}: they are those of optim.schedule=step, not of {optim.schedule}"
    if steps * (1 - optim.ema) < 1:  # an average over more steps than there are
        yield (
            f"optim.ema={optim.ema:g}: the decay rises by (1 + t) / (10 + t), in {steps} steps to "
            f"{ema_decay(optim.ema, steps):.3g}"
        )


def _milestones(optim: OptimConfig, steps: int) -> Iterator[str]:
    if optim.gamma == 1:
        yield "optim.milestones: optim.gamma is 1"
    for milestone in optim.milestones:
        if milestone * steps > steps - 1:
            yield f"optim.milestones: no step of {steps} comes after {milestone:g}"


def _data(config: RunConfig, index: ClipIndex) -> Iterator[str]:
    data = config.data
    if data.clip.frames == 1 and _is_set(data.clip, "stride"):
        yield f"data.clip.stride={data.clip.stride}: clips have one frame"
    yield from _view(data.train)
    if not data.workers:
        yield from _workers(data)
    if not index.trusting(data.decoder):
        yield f"data.decoder={data.decoder}: the index trusts it with no training video"


def _view(view: TrainViewConfig) -> Iterator[str]:
    color = view.color
    strengths = [color.brightness, color.contrast, color.saturation, color.hue]
    if any(strengths) and not color.probability:
        yield "data.train.color: its probability is 0"
    if not any(strengths) and _is_set(color, "probability"):
        yield f"data.train.color.probability={color.probability:g}: no strength is set"
    if view.rand_augment is not None and not view.rand_augment.probability:
        yield "data.train.rand_augment: its probability is 0"
    if view.random_erasing is not None and not view.random_erasing.probability:
        yield "data.train.random_erasing: its probability is 0"
    mixed = [name for name in ("mixup", "cutmix") if getattr(view, name)]
    if mixed and not view.mix_probability:
        yield f"data.train.{mixed[0]}: data.train.mix_probability is 0"
    if not mixed and _is_set(view, "mix_probability"):
        yield f"data.train.mix_probability={view.mix_probability:g}: mixup and cutmix are off"


def _workers(data: DataConfig) -> Iterator[str]:
    for name in ("timeout", "start_method"):
        if _is_set(data, name):
            yield f"data.{name}={getattr(data, name)}: data.workers is 0"


def _validation(config: RunConfig) -> Iterator[str]:
    log, split = config.log, config.data.val_split
    if split is not None and not log.validate_epochs and log.early_validation is None:
        yield f"data.val_split={split}: log.validate_epochs is 0, so that nothing is validated"


def _statistics(statistics: StatisticsConfig) -> Iterator[str]:
    if _is_set(statistics, "kind") and not statistics.batches:
        yield f"statistics.kind={statistics.kind}: statistics.batches is 0, which keeps averages"


def _log(log: LogConfig, epochs: int, steps: int) -> Iterator[str]:
    early = log.early_validation
    if early is not None and early.step >= steps:
        yield f"log.early_validation: step {early.step} does not come before the end ({steps})"
    for name in ("validate_epochs", "checkpoint_epochs"):
        if getattr(log, name) > epochs:
            had = "1 epoch" if epochs == 1 else f"{epochs} epochs"
            yield f"log.{name}={getattr(log, name)}: the run has {had}"
    if not log.checkpoint_epochs and log.checkpoint_minutes is None and log.keep_checkpoints > 1:
        yield "log.keep_checkpoints: checkpoints come neither by epochs nor by minutes"


def _speed(config: RunConfig, device: torch.device) -> Iterator[str]:
    if config.speed.prefetch and device.type != "cuda":
        yield f"speed.prefetch: batches are copied to GPUs, not to {device}"
