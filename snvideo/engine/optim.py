"""Optimizers and learning rates, with the same rules for every norm, and the EMA of weights."""

import copy
import difflib
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from snvideo.data.index import ClipIndex
from snvideo.engine.config import OptimConfig
from snvideo.errors import SnvideoError
from snvideo.models.depth import layers_to_head
from snvideo.norm import SwitchNorm


def norm_parameters(model: nn.Module) -> set[nn.Parameter]:
    """Parameters of norms of any class: layers whose own parameters are all vectors."""
    layers = (list(module.parameters(recurse=False)) for module in model.modules())
    return {p for own in layers if all(p.dim() <= 1 for p in own) for p in own}


def freeze(model: nn.Module, names: Sequence[str]) -> list[nn.Module]:
    """Switch off the gradients of modules by name, as in `blocks.0`, and return these modules, to
    be kept in evaluation mode so that norms keep their statistics, too.

    Raises SnvideoError if the network has no such module, or nothing would be left to train.
    """
    known = {name: module for name, module in model.named_modules() if name}
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1) or [next(iter(known))]
            raise SnvideoError(
                f"optim.freeze: the network has no '{name}'; did you mean '{near[0]}'?"
            )
        known[name].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise SnvideoError("optim.freeze leaves nothing to train: name fewer parts")
    return [known[name] for name in names]


def parameter_groups(model: nn.Module, config: OptimConfig, lr: float) -> list[dict]:
    """Parameter groups: weights and classifier with decay, norms and SN's logits without; logits
    and classifier at learning rates of their own.

    With `layer_decay` each has one group a layer, of the same name, whose learning rate contains
    its `lr_scale`.
    """
    switch_norms = [module for module in model.modules() if isinstance(module, SwitchNorm)]
    logits = {p for module in switch_norms for p in (module.mean_logits, module.var_logits)}
    norms = norm_parameters(model) - logits
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    head = {p for module in linear for p in module.parameters()}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    rest = set(trained) - norms - logits - head
    to_head = layers_to_head(model) if config.layer_decay != 1 else {}

    def groups(
        name: str, members: set[nn.Parameter], factor: float, decay: float
    ) -> Iterator[dict[str, Any]]:
        by_layer: dict[int, list[nn.Parameter]] = defaultdict(list)
        for parameter in trained:
            if parameter in members:
                by_layer[to_head[parameter] if to_head else 0].append(parameter)
        for distance, parameters in by_layer.items():
            scale = config.layer_decay**distance
            rates = {"lr": lr * factor * scale, "lr_scale": scale, "weight_decay": decay}
            yield {"name": name, "params": parameters, **rates}

    return [
        *groups("weights", rest, 1.0, config.weight_decay),
        *groups("norms", norms, 1.0, 0.0),
        *groups("logits", logits, config.logit_lr, 0.0),
        *groups("head", head, config.head_lr, config.weight_decay),
    ]


def class_weights(
    chosen: Literal["none", "balanced"] | Sequence[float], index: ClipIndex
) -> Tensor | None:
    """Weights of the losses by class, float32 (classes,); None if all count alike.

    Balanced ones are N / (K n) for a class that n of N labels of videos are, K classes having some
    (King & Zeng 2001): their mean over labels is 1, so that the learning rate keeps its meaning.

    Raises SnvideoError if a number is given, but not for each class.
    """
    if chosen == "none":
        return None
    classes = len(index.labels)
    if chosen == "balanced":
        videos = torch.from_numpy(index.label_counts()).float()
        return videos.sum() / (videos.count_nonzero() * videos.clamp_min(1))
    if len(chosen) != classes:
        raise SnvideoError(
            f"optim.class_weights has {len(chosen)} numbers, the index {classes} classes: "
            "give one for each, in the order of the label ids"
        )
    return torch.tensor(chosen, dtype=torch.float32)


def learning_rate(config: OptimConfig, total_batch: int) -> float:
    """Peak learning rate: linear in the total batch (Goyal et al., arXiv 1706.02677)."""
    return config.lr * total_batch / config.lr_batch


def lr_factor(config: OptimConfig, steps_per_epoch: int, step: int) -> float:
    """Learning rate of an optimizer step, counted from 0, as a fraction of its peak."""
    total = config.total_steps(steps_per_epoch)
    warmup = min(config.total_warmup(steps_per_epoch), total)
    if step < warmup:
        # Linear from the start to the schedule's value at the end of the warm-up.
        end = _scheduled(config, math.ceil(warmup) / total)
        return config.warmup_start + (end - config.warmup_start) * step / warmup
    return _scheduled(config, step / total)


def _scheduled(config: OptimConfig, progress: float) -> float:
    """The schedule's factor after a fraction of the run, without warm-up."""
    if config.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    if config.schedule == "step":
        return config.gamma ** sum(progress >= milestone for milestone in config.milestones)
    return 1.0


def optimizer_tensors(config: OptimConfig) -> int:
    """Tensors of a parameter's size that the optimizer keeps for it."""
    return 2 if config.name == "adamw" else int(config.momentum > 0)


def build_optimizer(
    model: nn.Module,
    config: OptimConfig,
    total_batch: int,
    steps_per_epoch: int,
    kind: str = "foreach",
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """The optimizer over `parameter_groups`, and the schedule that is stepped once per step."""
    groups = parameter_groups(model, config, learning_rate(config, total_batch))
    fused, foreach = kind == "fused", kind == "foreach"
    optimizer: torch.optim.Optimizer
    if config.name == "adamw":
        optimizer = torch.optim.AdamW(groups, betas=config.betas, fused=fused, foreach=foreach)
    else:
        nesterov = config.nesterov and config.momentum > 0
        optimizer = torch.optim.SGD(
            groups, momentum=config.momentum, nesterov=nesterov, fused=fused, foreach=foreach
        )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: lr_factor(config, steps_per_epoch, step)
    )
    return optimizer, schedule


def ema_decay(decay: float, step: int) -> float:
    """Decay of the average in a step, counted from 0: at first it follows the weights closely, or a
    short run would be tested with what it began with."""
    return min(decay, (1 + step) / (10 + step))


_Tensors = tuple[list[Tensor], list[Tensor]]


class EMA:
    """Exponential moving average of a network's weights; statistics are those of the last step.

    Each step keeps `ema_decay` of the average; the first is taken as it is. Unlike torch's
    AveragedModel, it counts on the host, so that no GPU is waited for.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(model)  # the network with averaged weights
        self.updates = 0
        self._decay = decay
        self._new: _Tensors = [*model.parameters()], [*model.buffers()]
        self._own: _Tensors = [*self.module.parameters()], [*self.module.buffers()]

    @torch.no_grad()
    def update(self) -> None:
        """Average in the model's present weights."""
        (weights, buffers), (new_weights, new_buffers) = self._own, self._new
        if self.updates:
            torch._foreach_lerp_(weights, new_weights, 1 - ema_decay(self._decay, self.updates))
        else:
            torch._foreach_copy_(weights, new_weights)
        if buffers:
            torch._foreach_copy_(buffers, new_buffers)
        self.updates += 1
