"""Batch, optimizer, schedule and statistics that a config of PySlowFast describes."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from math import isclose
from typing import Any

from snvideo.translation.keys import ForeignKeys

_LOSSES = {
    "cross_entropy": "cross_entropy",
    "soft_cross_entropy": "cross_entropy",  # the same, of mixed labels
    "bce": "bce",
    "bce_logit": "bce",
}


def pyslowfast_batch(keys: ForeignKeys, repeats: int) -> tuple[dict[str, int], str]:
    """Section `batch`, of the clips that share batch statistics there, and the norm.

    Args:
        keys: of the config.
        repeats: clips of each video in a step, by which its batch is so many times larger.

    Raises:
        SnvideoError: if the batch cannot be divided so.
    """
    gpus, machines = keys.count("NUM_GPUS", 1), keys.count("NUM_SHARDS", 1)
    total = keys.count("TRAIN.BATCH_SIZE", 64)  # of one machine
    kind = keys.text("BN.NORM_TYPE", "batchnorm")
    splits, synced = keys.count("BN.NUM_SPLITS", 1), keys.count("BN.NUM_SYNC_DEVICES", 1)
    if total % gpus:
        raise keys.error(f"TRAIN.BATCH_SIZE {total} cannot be divided by NUM_GPUS {gpus}")
    groups, clips, norm = gpus * machines, total // gpus * repeats, "bn"
    if kind == "sub_batchnorm":
        if clips % splits:
            raise keys.error(f"BN.NUM_SPLITS {splits} does not divide the {clips} clips of a GPU")
        groups, clips = groups * splits, clips // splits
    elif kind == "sync_batchnorm":
        if groups % synced:
            raise keys.error(f"BN.NUM_SYNC_DEVICES {synced} does not divide the {groups} GPUs")
        if synced == groups:
            norm = "syncbn"
        else:
            groups, clips = groups // synced, clips * synced
    elif kind != "batchnorm":
        raise keys.error(f"BN.NORM_TYPE {kind}: expected batchnorm, sub_ or sync_batchnorm")
    return {"gpus": groups, "clips_per_gpu": clips}, norm


def pyslowfast_optim(
    keys: ForeignKeys, batch: Mapping[str, int], repeats: int, train_views: Mapping[str, Any]
) -> dict[str, Any]:
    """Section `optim`.

    Args:
        keys: of the config.
        batch: section `batch`, to whose clips the learning rate belongs.
        repeats: clips of each video in a step. There an epoch has so many times more clips, here as
            many as before, so the run has so many times more epochs.
        train_views: section `data.train`; labels are smoothed there where clips are mixed.
    """
    lr = keys.number("SOLVER.BASE_LR", 0.1)
    start = keys.number("SOLVER.WARMUP_START_LR", 0.01)
    peak = lr
    if keys.flag("SOLVER.BASE_LR_SCALE_NUM_SHARDS", False):
        peak *= keys.whole("NUM_SHARDS", 1)
    loss = keys.text("MODEL.LOSS_FUNC", "cross_entropy")
    if loss not in _LOSSES:
        raise keys.error(f"MODEL.LOSS_FUNC {loss}: expected one of {', '.join(_LOSSES)}")
    labels_are_several = _LOSSES[loss] == "bce"
    keys.expect("DATA.MULTI_LABEL", labels_are_several, "as the loss says", default=False)
    activation = "sigmoid" if labels_are_several else "softmax"
    keys.expect("MODEL.HEAD_ACT", activation, f"{activation}, as the loss says", default="softmax")
    epochs = keys.count("SOLVER.MAX_EPOCH", 300)
    optim: dict[str, Any] = {
        "lr": float(peak),
        "lr_batch": batch["gpus"] * batch["clips_per_gpu"],
        **_optimizer(keys),
        "epochs": epochs * repeats,
        "warmup_epochs": float(keys.number("SOLVER.WARMUP_EPOCHS", 0.0)) * repeats,
        **_schedule(keys, epochs),
        "loss": _LOSSES[loss],
    }
    if optim["warmup_epochs"]:
        if not 0 < start <= lr:
            raise keys.error(
                f"SOLVER.WARMUP_START_LR is {start:g}, BASE_LR {lr:g}: here a warm-up begins above "
                "0 and rises"
            )
        optim["warmup_start"] = float(f"{start / lr:.12g}")
    if train_views.get("mixup") or train_views.get("cutmix"):
        optim["label_smoothing"] = keys.number("MIXUP.LABEL_SMOOTH_VALUE", 0.1)
    if (clip_norm := keys.take("SOLVER.CLIP_GRAD_L2NORM")) is not None:
        optim["clip_norm"] = clip_norm
    keys.expect("SOLVER.CLIP_GRAD_VAL", None, "gradients are clipped by their norm alone")
    return optim


def _optimizer(keys: ForeignKeys) -> dict[str, Any]:
    method = keys.text("SOLVER.OPTIMIZING_METHOD", "sgd")
    keys.expect("BN.WEIGHT_DECAY", 0.0, "norms have no weight decay")
    optim: dict[str, Any] = {
        "weight_decay": keys.number("SOLVER.WEIGHT_DECAY", 1e-4),
        "layer_decay": keys.number("SOLVER.LAYER_DECAY", 1.0),
    }
    keys.expect("SOLVER.ZERO_WD_1D_PARAM", False, "the biases of the classifier have weight decay")
    momentum, nesterov = keys.number("SOLVER.MOMENTUM", 0.9), keys.flag("SOLVER.NESTEROV", True)
    keys.expect("SOLVER.DAMPENING", 0.0, "no dampening")
    if method == "sgd":
        return {"name": "sgd", "momentum": momentum, "nesterov": nesterov, **optim}
    if method in ("adamw", "mt_adamw"):
        betas = keys.numbers("SOLVER.BETAS", (0.9, 0.999))
        return {"name": "adamw", "betas": betas, **optim}
    raise keys.error(f"SOLVER.OPTIMIZING_METHOD {method}: optimizers here are sgd and adamw")


def _schedule(keys: ForeignKeys, epochs: int) -> dict[str, Any]:
    policy = keys.text("SOLVER.LR_POLICY", "cosine")
    if policy == "cosine":
        keys.expect("SOLVER.COSINE_END_LR", 0.0, "it ends at 0")
        keys.expect("SOLVER.COSINE_AFTER_WARMUP", False, "the cosine begins with the run")
        return {"schedule": "cosine"}
    if policy != "steps_with_relative_lrs":
        raise keys.error(f"SOLVER.LR_POLICY {policy}: expected cosine, steps_with_relative_lrs")
    steps, factors = keys.numbers("SOLVER.STEPS"), keys.numbers("SOLVER.LRS")
    rates = factors[: len(steps)]  # those of later steps are never reached
    ratios = [after / before if before else 0.0 for before, after in pairwise(rates)]
    falls_evenly = bool(ratios) and all(isclose(ratio, ratios[0], rel_tol=1e-6) for ratio in ratios)
    if len(rates) < len(steps) or steps[:1] != [0] or rates[0] != 1 or not falls_evenly:
        raise keys.error(
            f"SOLVER.STEPS {steps} and LRS {factors}: the rate here falls by one factor at each "
            "step, beginning with 1 at 0"
        )
    milestones = [step / epochs for step in steps[1:]]
    return {"schedule": "step", "milestones": milestones, "gamma": ratios[0]}


def pyslowfast_statistics(keys: ForeignKeys) -> dict[str, int]:
    """Section `statistics`: precise BN, or moving averages."""
    keys.expect("BN.MOMENTUM", 0.1, "0.1, in all norms")
    batches = keys.whole("BN.NUM_BATCHES_PRECISE", 200)
    return {"batches": batches if keys.flag("BN.USE_PRECISE_STATS", False) else 0}
