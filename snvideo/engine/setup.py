"""Set-up that training, evaluation and dry runs share: config, network, starting weights."""

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from snvideo.data.config import MEAN, STD, DataConfig
from snvideo.data.quarantine import Quarantine
from snvideo.engine.config import RunConfig
from snvideo.engine.distributed import World
from snvideo.errors import SnvideoError
from snvideo.models import create_model
from snvideo.models.pretrained import LoadReport, WeightsSource, load_weights_into, open_weights
from snvideo.norm import fold_weight_standardization, standardize_weights

log = logging.getLogger(__name__)

GHOST_NORMS = ("sn", "bn", "brn")  # norms whose batch statistics may be those of ghost groups

QUARANTINE = "quarantine.csv"  # name of a run's own quarantine in its directory


def open_start(config: RunConfig, world: World) -> WeightsSource | None:
    """Open the weights that a config names, if any, on the main process (a download) first."""
    named = config.model.weights
    return None if named is None else world.main_first(lambda: open_weights(named.source))


def resolve_config(
    config: RunConfig, source: WeightsSource | None, world: World, stored: RunConfig | None = None
) -> RunConfig:
    """Fill in mean and std of the input where a config leaves them open.

    They are those of the stored config, where a run is resumed, of the weights it starts from, or
    the default. Warns of a config whose input differs from that of the weights.
    """
    mean, std = source.mean_std if source is not None else (MEAN, STD)
    if stored is not None:
        mean, std = stored.data.mean or mean, stored.data.std or std
    changed = {"mean": config.data.mean or mean, "std": config.data.std or std}
    data = config.data.model_copy(update=changed)
    if source is not None and world.is_main:
        _warn_of_differences(data, source)
    return config.model_copy(update={"data": data})


def _warn_of_differences(data: DataConfig, source: WeightsSource) -> None:
    mean, std = source.mean_std
    values = [("data.mean", data.mean, mean), ("data.std", data.std, std)]
    if source.metadata is not None:
        seen = source.metadata.preprocessing
        for part, section, keys in (
            ("clip", data.clip, ("frames", "stride", "target_fps")),
            ("test", data.test, ("short_side", "crop")),
        ):
            values += [(f"data.{part}.{k}", getattr(section, k), getattr(seen, k)) for k in keys]
    for key, value, of_weights in values:
        if value != of_weights:
            log.warning("%s is %s, %s was trained with %s", key, value, source.origin, of_weights)


def start_from(
    model: nn.Module,
    source: WeightsSource,
    config: RunConfig,
    classes: Sequence[str],
    world: World,
) -> LoadReport:
    """Load weights into the network of a run, or raise SnvideoError and leave it as it was."""
    weights = config.model.weights
    assert weights is not None
    fold_weight_standardization(model)  # weights have the names of plain convolutions
    report = world.main_first(
        lambda: load_weights_into(model, source, weights, classes, config.model.name)
    )
    if config.model.norm.weight_standardization:
        standardize_weights(model)
    for line in report.table():
        log.info(line)
    return report


def build_network(config: RunConfig, classes: int) -> nn.Module:
    """The network of a config, initialised from its seed alone: the same for every norm."""
    norm, clips = config.model.norm, config.batch.clips_per_gpu
    weights = config.model.weights
    if norm.name == "frozen_bn" and (weights is None or weights.norms == "new"):
        raise SnvideoError(
            "model.norm.name=frozen_bn trains no norm: give it trained ones with "
            "model.weights.source and model.weights.norms=keep"
        )
    if norm.name == "brn" and config.speed.activation_checkpointing:
        raise SnvideoError(
            "model.norm.name=brn corrects by its running statistics, which have moved when a "
            "block is computed again: set speed.activation_checkpointing=false"
        )
    options = norm.options(clips)
    if norm.drops_batch_part(clips):
        log.info("one clip per GPU: SN runs without its batch part, which equals the instance part")
    if norm.name in GHOST_NORMS:
        options["group_size"] = clips
    torch.manual_seed(config.seed)
    model = create_model(
        config.model.name,
        classes,
        norm.name,
        config.model.dropout,
        drop_path=config.model.drop_path,
        weight_standardization=norm.weight_standardization,
        zero_init_last=config.model.zero_init_last,
        **options,
    )
    _warn_of_narrow_groups(model, norm.name)
    return model


def _warn_of_narrow_groups(model: nn.Module, norm: str) -> None:
    """Say where group statistics are those of single channels."""
    if norm != "gn":
        return
    layers = [layer for layer in model.modules() if isinstance(layer, nn.GroupNorm)]
    narrow = [layer.num_channels for layer in layers if layer.num_groups == layer.num_channels]
    if narrow:
        log.info(
            "%d of %d GN layers, up to %d channels, have one channel a group, which is instance "
            "normalization: model.norm.groups or model.norm.channels_per_group choose others",
            *(len(narrow), len(layers), max(narrow)),
        )


def read_quarantine(config: RunConfig, folder: Path | None = None) -> Quarantine:
    """Videos that a run does not open: those it is given, or those it found itself in `folder`."""
    own = folder and folder / QUARANTINE
    path = own if own and own.exists() else config.data.quarantine
    return Quarantine.read(path) if path else Quarantine()
