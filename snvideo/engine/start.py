"""What a run starts from: weights of others, and what they say that the network is to see."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from torch import nn

from snvideo.data.config import MEAN, STD
from snvideo.engine.config import RunConfig
from snvideo.engine.processes import Processes
from snvideo.models.weights import Report, Source, open_weights, transfer

log = logging.getLogger(__name__)


def open_start(config: RunConfig, processes: Processes) -> Source | None:
    """The weights that a config names; None if it names none.

    The main process goes first: what has to be downloaded is, once.

    Raises:
        SnvideoError: on all processes, if they cannot be had or read.
    """
    named = config.model.weights
    if named is None:
        return None
    opened: list[Source] = []
    processes.by_main(lambda: opened.append(open_weights(named.source)))
    return opened[0] if opened else open_weights(named.source)


def settled(config: RunConfig, source: Source | None) -> RunConfig:
    """A config that leaves nothing open: the input is normalized as the weights are used to."""
    mean, std = source.mean_std if source is not None else (MEAN, STD)
    data = config.data
    own = (data.mean or mean, data.std or std)
    if source is not None and own != (mean, std):
        log.warning(
            "data.mean and data.std are %s and %s, %s was trained with %s and %s",
            *own,
            source.origin,
            mean,
            std,
        )
    changed = data.model_copy(update={"mean": own[0], "std": own[1]})
    return config.model_copy(update={"data": changed})


def start_from(
    model: nn.Module, source: Source, config: RunConfig, classes: Sequence[str]
) -> Report:
    """Put weights into the network of a run, and say what became of them.

    Raises:
        SnvideoError: if they do not fit; the network is then as it was.
    """
    assert config.model.weights is not None
    report = transfer(model, source, config.model.weights, classes, config.model.name)
    for line in report.lines():
        log.info(line)
    return report
