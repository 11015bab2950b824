"""What a run starts from: weights of others, and what they say that the network is to see."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from torch import nn

from snvideo.data.config import MEAN, STD, DataConfig
from snvideo.engine.config import RunConfig
from snvideo.engine.distributed import World
from snvideo.errors import ReportedError, SnvideoError
from snvideo.models.pretrained import LoadReport, WeightsSource, load_weights_into, open_weights

log = logging.getLogger(__name__)


def open_start(config: RunConfig, world: World) -> WeightsSource | None:
    """The weights that a config names; None if it names none.

    The main process goes first: what has to be downloaded, it does alone.

    Raises:
        SnvideoError: on all processes, if one of them cannot have or read them.
    """
    named = config.model.weights
    if named is None:
        return None
    opened: list[WeightsSource] = []
    world.on_main(lambda: opened.append(open_weights(named.source)))
    error = None
    if not opened:
        try:
            opened.append(open_weights(named.source))
        except SnvideoError as caught:  # as where folders are not shared
            error = caught
    failed = any(world.gather(error is not None))
    if error is not None:
        raise error
    if failed:
        raise ReportedError("another process says why")
    return opened[0]


def resolve_config(config: RunConfig, source: WeightsSource | None, world: World) -> RunConfig:
    """A config that leaves nothing open: the input is normalized as the weights are used to.

    Whatever else the weights say of their input, and the config otherwise, is a warning.
    """
    mean, std = source.mean_std if source is not None else (MEAN, STD)
    data = config.data.model_copy(
        update={"mean": config.data.mean or mean, "std": config.data.std or std}
    )
    if source is not None and world.is_main:
        for key, ours, theirs in _otherwise(data, source):
            log.warning("%s is %s, %s was trained with %s", key, ours, source.origin, theirs)
    return config.model_copy(update={"data": data})


def _otherwise(data: DataConfig, source: WeightsSource) -> list[tuple[str, object, object]]:
    """Where a config and weights disagree on the input: key, value, theirs."""
    mean, std = source.mean_std
    pairs: list[tuple[str, object, object]] = [
        ("data.mean", data.mean, mean),
        ("data.std", data.std, std),
    ]
    if source.metadata is not None:
        seen = source.metadata.preprocessing
        for key in ("frames", "stride", "target_fps"):
            pairs.append((f"data.clip.{key}", getattr(data.clip, key), getattr(seen, key)))
        for key in ("short_side", "crop"):
            pairs.append((f"data.test.{key}", getattr(data.test, key), getattr(seen, key)))
    return [pair for pair in pairs if pair[1] != pair[2]]


def start_from(
    model: nn.Module,
    source: WeightsSource,
    config: RunConfig,
    classes: Sequence[str],
    world: World,
) -> LoadReport:
    """Put weights into the network of a run, and say what became of them.

    Raises:
        SnvideoError: on all processes, if they do not fit; the network is then as it was.
    """
    weights = config.model.weights
    assert weights is not None

    def put() -> LoadReport:
        return load_weights_into(model, source, weights, classes, config.model.name)

    report = world.on_main(put)
    if not world.is_main:
        put()
    for line in report.table():
        log.info(line)
    return report
