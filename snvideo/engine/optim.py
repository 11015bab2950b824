"""SGD with the same rules for every norm, and its learning rate as a function of the step."""

import math

import torch
from torch import nn

from snvideo.engine.config import OptimConfig
from snvideo.norm import SwitchNorm


def norm_parameters(model: nn.Module) -> set[nn.Parameter]:
    """Parameters of the layers that only rescale channels, whatever their class.

    A convolution or a classifier holds a matrix; a layer whose own parameters are all vectors is a
    norm. Asking for classes instead would leave out every norm that nobody thought of.
    """
    found: set[nn.Parameter] = set()
    for module in model.modules():
        own = list(module.parameters(recurse=False))
        if own and all(parameter.dim() <= 1 for parameter in own):
            found.update(own)
    return found


def parameter_groups(model: nn.Module, config: OptimConfig, lr: float) -> list[dict]:
    """Weights with decay, norms without, SN's logits without and at their own learning rate."""
    logits = {
        parameter
        for module in model.modules()
        if isinstance(module, SwitchNorm)
        for parameter in (module.mean_logits, module.var_logits)
    }
    norms = norm_parameters(model) - logits
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {
            "name": "weights",
            "params": [p for p in trained if p not in norms and p not in logits],
            "lr": lr,
            "weight_decay": config.weight_decay,
        },
        {
            "name": "norms",
            "params": [p for p in trained if p in norms],
            "lr": lr,
            "weight_decay": 0.0,
        },
        {
            "name": "logits",
            "params": [p for p in trained if p in logits],
            "lr": lr * config.logit_lr,
            "weight_decay": 0.0,
        },
    ]
    return [group for group in groups if group["params"]]


def learning_rate(config: OptimConfig, total_batch: int) -> float:
    """Peak learning rate: linear in the total batch (Goyal et al., arXiv 1706.02677)."""
    return config.lr * total_batch / config.lr_batch


def lr_factor(config: OptimConfig, steps_per_epoch: int, step: int) -> float:
    """Learning rate of an optimizer step as a fraction of its peak.

    Args:
        config: schedule, warm-up and length.
        steps_per_epoch: optimizer steps.
        step: number of the optimizer step, from 0.
    """
    warmup = config.warmup_epochs * steps_per_epoch
    progress = step / (config.epochs * steps_per_epoch)
    if config.schedule == "cosine":
        factor = 0.5 * (1 + math.cos(math.pi * progress))
    else:
        factor = config.gamma ** sum(progress >= milestone for milestone in config.milestones)
    if step < warmup:
        # From the start to where the schedule is when the warm-up ends, in a straight line.
        end = lr_factor(config, steps_per_epoch, math.ceil(warmup))
        return config.warmup_start + (end - config.warmup_start) * step / warmup
    return factor


def build_optimizer(
    model: nn.Module, config: OptimConfig, total_batch: int, steps_per_epoch: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """SGD over `parameter_groups` and the schedule that is stepped once per optimizer step."""
    optimizer = torch.optim.SGD(
        parameter_groups(model, config, learning_rate(config, total_batch)),
        momentum=config.momentum,
        nesterov=config.nesterov and config.momentum > 0,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: lr_factor(config, steps_per_epoch, step)
    )
    return optimizer, schedule
