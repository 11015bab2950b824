"""Diagnosis of the norms of a run's network on its training clips, before or after training."""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from snvideo.base_config import expand_user
from snvideo.data.augmentation import mix, train_input
from snvideo.data.index import ClipIndex
from snvideo.data.loader import train_loader
from snvideo.engine.batch_plan import check_mixing, plan_batch
from snvideo.engine.checkpoint import checkpoints
from snvideo.engine.config import RunConfig
from snvideo.engine.distributed import World, init_world
from snvideo.engine.losses import check_labelled, check_labels
from snvideo.engine.optim import freeze
from snvideo.engine.performance import algorithms, autocast, choose, memory_format
from snvideo.engine.run_dir import RunDir
from snvideo.engine.setup import (
    build_network,
    open_start,
    read_quarantine,
    resolve_config,
    start_from,
)
from snvideo.errors import SnvideoError
from snvideo.models.config import WeightsConfig
from snvideo.models.pretrained import WEIGHTS_FILE
from snvideo.models.pretrained.name_mapping import canonical_layers
from snvideo.norm import advice, convert_norm
from snvideo.norm.diagnosis import Diagnosis, diagnose

log = logging.getLogger(__name__)

LARGE_GROUP = 32
"""Clips, at least, over which the norms of the second diagnosis take their statistics."""

OnPass = Callable[[str, int, int], None]
"""Called with the name of a diagnosis, the passes that are done, and how many there are."""


@dataclass(frozen=True)
class RunDiagnosis:
    """Noise of the batch statistics in a run's network."""

    config: RunConfig
    group: int
    """Clips of a group."""
    training: Diagnosis
    """Of the network as it is trained, in its groups."""
    batch: Diagnosis
    """Of the network with Batch Normalization over `large_group` clips in the place of every norm,
    whose inputs have kept the differences between clips. Advice goes by it."""
    large_group: int
    labels: dict[str, str]
    """Name of each norm as in papers, such as res2.0.norm_a; the module's where it has none."""
    stages: dict[str, str]
    """Stage of each norm."""
    advice: list[advice.Advice]

    @property
    def noise(self) -> float:
        """`network_noise` of groups of `group` independent clips."""
        return advice.network_noise(self.batch.layers)

    def stored(self) -> dict[str, Any]:
        """All figures for JSON; an infinite number of effective samples is null."""
        parts = {"in_training": self.training, "batch_norm": self.batch}
        return {
            "model": self.config.model.name,
            "norm": self.config.model.norm.name,
            "weights": None
            if self.config.model.weights is None
            else self.config.model.weights.source,
            "batch": self.config.batch.model_dump(include={"gpus", "clips_per_gpu"}),
            "group": self.group,
            "large_group": self.large_group,
            "network_noise": self.noise,
            "limits": {"fine": advice.FINE, "mixed": advice.MIXED},
            "stages": [
                {**one._asdict(), "noise": one.noise, "advice": str(one)} for one in self.advice
            ],
            **{name: [self._row(layer) for layer in part.layers] for name, part in parts.items()},
            "left_out": self.training.left_out | self.batch.left_out,
        }

    def _row(self, layer: Any) -> dict[str, Any]:
        row = asdict(layer)
        if not math.isfinite(layer.effective_samples):
            row["effective_samples"] = None
        return {"label": self.labels[layer.layer], "stage": self.stages[layer.layer], **row}


def diagnose_run(
    config: RunConfig,
    weights: Path | None = None,
    clips: int = 512,
    on_pass: OnPass | None = None,
) -> RunDiagnosis:
    """Diagnose the norms of a config's network on clips of its training split.

    The clips are those that training begins with, with its augmentation and mixing; its output is
    not touched. They pass twice: through the network in training mode, in groups as in training,
    and through the same with Batch Normalization over large groups for every norm.

    Args:
        config: of a run.
        weights: a run's folder (its final weights, else its newest checkpoint) or a file to take
            the network from in place of the config's start.
        clips: to pass, at most one epoch.
        on_pass: see `OnPass`.

    Raises:
        SnvideoError: if config, index and weights do not fit together, there are less than two
            groups of clips, or several processes.
    """
    pretrained = config.model.weights is not None and config.model.weights.norms == "keep"
    if weights is not None:
        source = WeightsConfig(source=str(_weights_file(expand_user(weights))))
        model_config = config.model.model_copy(update={"weights": source})
        config = config.model_copy(update={"model": model_config})
    with init_world() as world:
        if world.size > 1:
            raise SnvideoError("norms are diagnosed by one process: start it without torchrun")
        config, index, model = _network(config, world)
        plan = plan_batch(config.batch, config.model.norm.name, 1, 0, len(index))
        check_mixing(config, plan)
        group = plan.clips_per_gpu
        clips = min(clips, len(index)) // group * group
        if clips < 2 * group:
            raise SnvideoError(
                f"noise is measured between groups, and {clips} clips are less than two of "
                f"{group}: take more clips or videos, or smaller groups"
            )
        large = min(-(-LARGE_GROUP // group) * group, clips)
        if large < LARGE_GROUP:
            log.warning(
                "%d clips are few: figures are rough, and norms over so few hide a part of the "
                "noise behind them; take %d clips or more",
                *(clips, LARGE_GROUP),
            )
        batched = deepcopy(model)
        convert_norm(batched, "bn", dims=3, group_size=None)
        step = group * max(1, min(plan.groups_per_pass, clips // group))
        found = []
        try:
            for title, network, size in (
                ("as trained", model, step),
                ("with batch norm", batched, large),
            ):
                inputs = _inputs(config, index, world, clips, size, title, on_pass)
                speed = choose(config.speed, world.device, 1)
                with algorithms(speed, world.device), autocast(config.speed, world.device):
                    found.append(diagnose(network, inputs, group))
        except ValueError as error:
            raise SnvideoError(str(error)) from None
        except torch.OutOfMemoryError:
            raise SnvideoError(
                f"a pass of {large} clips does not fit in the memory of {world.device}: make "
                "data.train.crop smaller, or hide the GPU with CUDA_VISIBLE_DEVICES="
            ) from None
    if not found[1].layers:
        name, reason = next(iter(found[1].left_out.items()))
        raise SnvideoError(f"no norm of {config.model.name} can be diagnosed, as {name}: {reason}")
    return _with_advice(config, group, large, found, model, pretrained)


def _weights_file(path: Path) -> Path:
    """Weights in a run's folder, or the file itself."""
    if not path.is_dir():
        return path
    if (path / WEIGHTS_FILE).exists():
        return path / WEIGHTS_FILE
    found = checkpoints(RunDir(path).checkpoints)
    if not found:
        raise SnvideoError(f"{path} has neither {WEIGHTS_FILE} nor a checkpoint: train it first")
    return found[-1]


def _network(config: RunConfig, world: World) -> tuple[RunConfig, ClipIndex, nn.Module]:
    """The resolved config, the training split, and the network as training begins with it."""
    data = config.data
    index = ClipIndex.load(data.index, data.train_split, data.root)
    check_labels(config, index)
    check_labelled(index)
    source = open_start(config, world)
    config = resolve_config(config, source, world)
    model = build_network(config, len(index.labels))
    if source is not None:
        start_from(model, source, config, index.labels, world)
    model.to(world.device).to(memory_format=memory_format(config.speed))
    model.train()
    for module in freeze(model, config.optim.freeze):
        module.eval()
    return config, index, model


def _inputs(
    config: RunConfig,
    index: ClipIndex,
    world: World,
    clips: int,
    size: int,
    title: str,
    on_pass: OnPass | None,
) -> Iterator[Tensor]:
    """Inputs of passes of `size` clips, as in training; what fills no pass is left out."""
    passes = clips // size
    places = [(0, range(number * size, (number + 1) * size)) for number in range(passes)]
    quarantine = read_quarantine(config)
    batches = train_loader(index, config.data, config.seed, iter(places), quarantine=quarantine)
    layout = memory_format(config.speed)
    for number, batch in enumerate(batches):
        if on_pass is not None:
            on_pass(title, number, passes)
        inputs = train_input(batch, config.data, world.device, layout)
        labels = batch.labels.to(world.device)
        classes, group = len(index.labels), config.batch.clips_per_gpu
        yield mix(inputs, labels, batch.augmentation, classes, group)[0]
    if on_pass is not None:
        on_pass(title, passes, passes)


def _with_advice(
    config: RunConfig,
    group: int,
    large: int,
    found: list[Diagnosis],
    model: nn.Module,
    pretrained: bool,
) -> RunDiagnosis:
    training, batch = found
    names = [layer.layer for diagnosis in found for layer in diagnosis.layers]
    labels, stages = norm_labels(model, names)
    most = config.batch.gpus * config.batch.clips_per_gpu
    found_advice = advice.advise(batch.layers, stages, pretrained=pretrained, most_clips=most)
    return RunDiagnosis(config, group, training, batch, large, labels, stages, found_advice)


def norm_labels(model: nn.Module, names: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Label and stage of each norm by its module name: res2.0.norm_a and res2, where there are.

    A norm without a label, as those inside of X3D's blocks, has its module's name, and the stage of
    the others in the same part of the network.
    """
    canonical = {module: label for label, module in canonical_layers(model).items()}
    labels = {name: canonical.get(name, name) for name in names}
    parts = advice.stages_of(names)
    stages: dict[str, str] = {}
    of_part: dict[str, set[str]] = {}
    for name in canonical.keys() & labels.keys():
        words = labels[name].split(".")
        stages[name] = ".".join(words[: 2 if words[0] in ("slow", "fast") else 1])
        of_part.setdefault(parts[name], set()).add(stages[name])
    for name in labels.keys() - stages.keys():
        known = of_part.get(parts[name], set())
        stages[name] = next(iter(known)) if len(known) == 1 else parts[name]
    return labels, stages
