"""Batch, optimizer and schedule that a config of mmaction2 describes."""

from __future__ import annotations

import re
from typing import Any

from snvideo.translation.keys import ForeignKeys

_WRAPPER = "optim_wrapper"
_OPTIMIZER = "optim_wrapper.optimizer"
_NAMED_BATCH = re.compile(r"(?:^|[_-])(\d+)xb(\d+)(?=[_-])")
"""GPUs and clips of each, in the names of its files."""


def mmaction_batch(keys: ForeignKeys) -> dict[str, int]:
    """Section `batch`, of the clips that a GPU has in one pass.

    Raises:
        SnvideoError: if the file does not say how many GPUs its learning rate is for.
    """
    clips = keys.count("train_dataloader.batch_size", 1)
    base = keys.whole("auto_scale_lr.base_batch_size", 0)
    named = _NAMED_BATCH.search(keys.path.stem)
    passes = keys.whole(f"{_WRAPPER}.accumulative_counts", 1)
    if base and base % clips == 0:
        gpus = base // clips
    elif named and not base:
        gpus = int(named[1])
    else:
        raise keys.error(
            "it does not say for how many GPUs its learning rate is: write "
            f"auto_scale_lr = dict(base_batch_size=GPUs x {clips}) into it"
        )
    return {"gpus": gpus * passes, "clips_per_gpu": clips}


def mmaction_optim(keys: ForeignKeys, batch: dict[str, int]) -> dict[str, Any]:
    """Section `optim`.

    Raises:
        SnvideoError: for optimizers and schedules that are not here.
    """
    kind = keys.text(f"{_OPTIMIZER}.type", "SGD")
    if f"{_OPTIMIZER}.lr" not in keys:
        raise keys.error(f"{_OPTIMIZER}.lr is missing")
    decay = keys.number(f"{_OPTIMIZER}.weight_decay", 0.0 if kind == "SGD" else 0.01)
    optim: dict[str, Any] = {
        "lr": float(keys.number(f"{_OPTIMIZER}.lr", 0.0)),
        "lr_batch": batch["gpus"] * batch["clips_per_gpu"],
        "weight_decay": decay,
    }
    if decay and keys.take(f"{_WRAPPER}.paramwise_cfg.norm_decay_mult", 1) != 0:
        keys.add(f"{_OPTIMIZER}.weight_decay", decay, "but norms have none")
    if kind == "SGD":
        momentum = keys.number(f"{_OPTIMIZER}.momentum", 0.0)
        nesterov = keys.flag(f"{_OPTIMIZER}.nesterov", False)
        optim |= {"name": "sgd", "momentum": momentum, "nesterov": nesterov}
    elif kind == "AdamW":
        optim |= {"name": "adamw", "betas": keys.numbers(f"{_OPTIMIZER}.betas", (0.9, 0.999))}
    else:
        raise keys.error(f"{_OPTIMIZER}.type {kind}: optimizers here are SGD and AdamW")
    if (clip_norm := keys.take(f"{_WRAPPER}.clip_grad.max_norm")) is not None:
        optim["clip_norm"] = clip_norm
    keys.expect(f"{_WRAPPER}.clip_grad.norm_type", 2, "the length of the gradient")
    return optim | _length(keys) | _loss(keys)


def _loss(keys: ForeignKeys) -> dict[str, Any]:
    kind = keys.text("model.cls_head.loss_cls.type", "CrossEntropyLoss")
    losses = {"CrossEntropyLoss": "cross_entropy", "BCELossWithLogits": "bce"}
    if kind not in losses:
        raise keys.error(f"model.cls_head.loss_cls.type {kind}: expected {', '.join(losses)}")
    several = losses[kind] == "bce"
    places = ("model.cls_head", "train_dataloader.dataset", "test_dataloader.dataset")
    for place in places:
        keys.expect(f"{place}.multi_class", several, "as the loss says", default=False)
    smoothing = keys.number("model.cls_head.label_smooth_eps", 0.0)
    return {"loss": losses[kind], "label_smoothing": smoothing}


def _length(keys: ForeignKeys) -> dict[str, Any]:
    """Epochs or steps, warm-up and schedule."""
    ends = {"epochs": "train_cfg.max_epochs", "steps": "train_cfg.max_iters"}
    unit = next((unit for unit, key in ends.items() if keys.take(key) is not None), None)
    if unit is None:
        raise keys.error("train_cfg states neither max_epochs nor max_iters")
    length = keys.count(ends[unit], 1)
    passes = keys.whole(f"{_WRAPPER}.accumulative_counts", 1)
    if unit == "steps" and passes > 1:
        raise keys.error(
            f"{ends[unit]} counts passes, of which {_WRAPPER}.accumulative_counts={passes} make "
            "one step: state the length and the schedule in epochs"
        )
    keys.take("train_cfg.type")
    keys.take("train_cfg.by_epoch")
    found: dict[str, Any] = {unit: length, f"warmup_{unit}": 0, "schedule": "constant"}
    keys.take("param_scheduler")  # a list of code is an error; of sections there is no such key
    kinds = [k.split(".")[1] for k in keys.values if re.fullmatch(r"param_scheduler\.\w+\.type", k)]
    for kind in kinds:
        place = f"param_scheduler.{kind}"
        keys.take(f"{place}.type")
        by_epoch = keys.flag(f"{place}.by_epoch", True)
        if by_epoch != (unit == "epochs"):
            raise keys.error(f"{place}.by_epoch is {by_epoch} in a run of {unit}: use one of both")
        begin, end = keys.whole(f"{place}.begin", 0), keys.number(f"{place}.end", length)
        if kind == "LinearLR" and begin == 0:
            found |= {f"warmup_{unit}": end, "warmup_start": _start(keys, place)}
        elif kind == "CosineAnnealingLR":
            found |= {"schedule": "cosine"} | _cosine(keys, place, begin, length)
        elif kind == "MultiStepLR":
            # They count from its beginning.
            fractions = [(begin + at) / length for at in keys.numbers(f"{place}.milestones")]
            gamma = keys.number(f"{place}.gamma", 0.1)
            found |= {"schedule": "step", "milestones": fractions, "gamma": gamma}
        else:
            raise keys.error(
                f"{place} from {begin}: schedules here are LinearLR from 0 as a warm-up, and "
                "CosineAnnealingLR or MultiStepLR"
            )
    return found


def _start(keys: ForeignKeys, place: str) -> float:
    keys.require(f"{place}.end_factor", 1.0)
    by_step = keys.take(f"{place}.by_epoch", True)
    if by_step:
        keys.expect(
            f"{place}.convert_to_iter_based", True, "the rate rises in every step", default=False
        )
    return float(keys.number(f"{place}.start_factor", 1 / 3))


def _cosine(keys: ForeignKeys, place: str, begin: int, length: int) -> dict[str, Any]:
    keys.require(f"{place}.T_max", length - begin)
    for key in ("eta_min", "eta_min_ratio"):
        keys.expect(f"{place}.{key}", 0, "it ends at 0")
    if begin:
        keys.add(f"{place}.begin", begin, "the cosine begins with the run")
    return {}
