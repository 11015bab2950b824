"""The finished weights of a run, as a file that says what it is, and a card for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml
from torch import nn

from snvideo.engine.config import RunConfig
from snvideo.engine.run_dir import RunDir
from snvideo.models.pretrained import (
    WEIGHTS_FILE,
    Preprocessing,
    WeightsMetadata,
    has_batch_part,
    layer_strides,
    write_weights,
)
from snvideo.models.pretrained.model_card import model_card
from snvideo.norm import tracking_layers

CARD = "model_card.md"
"""In the run's folder."""


def describe_weights(
    model: nn.Module,
    config: RunConfig,
    classes: Sequence[str],
    statistics: str,
    started_from: dict[str, Any] | None = None,
    results: dict[str, Any] | None = None,
) -> WeightsMetadata:
    """What the weights of a run are of.

    Args:
        model: that holds them.
        config: of the run, settled.
        classes: in the order of the logits.
        statistics: kind of batch statistics, if the network has any.
        started_from: the weights that training started from.
        results: of the last test.
    """
    data = config.data
    return WeightsMetadata(
        architecture=config.model.name,
        strides=layer_strides(model),
        norm=config.model.norm.name,
        use_batch=has_batch_part(model),
        statistics=statistics if tracking_layers(model) else None,
        classes=tuple(classes),
        preprocessing=Preprocessing(
            mean=data.mean,
            std=data.std,
            **data.clip.model_dump(),
            short_side=data.test.short_side,
            crop=data.test.crop,
        ),
        started_from=started_from,
        results=results,
    )


def publish(folder: RunDir, model: nn.Module, about: WeightsMetadata, config: RunConfig) -> None:
    """Write weights and card of a finished run.

    Raises:
        SnvideoError: if the disk does not take them.
    """
    with folder.written(WEIGHTS_FILE) as path:
        write_weights(path, model, about)
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    with folder.written(CARD) as path:
        path.write_text(model_card(about, WEIGHTS_FILE, text), encoding="utf-8")
