"""Published weights of a finished run: a .safetensors file with metadata, and a model card."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml
from torch import nn

from snvideo.data.config import MEAN, STD
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


def describe_weights(
    model: nn.Module,
    config: RunConfig,
    classes: Sequence[str],
    statistics: str,
    started_from: dict[str, Any] | None,
    results: dict[str, Any] | None,
) -> WeightsMetadata:
    """Metadata of the weights that a run has trained.

    Args:
        model: that holds them.
        config: of the run, resolved.
        classes: in the order of the logits.
        statistics: kind of batch statistics, if the network has any.
        started_from: summary of the weights that training began from.
        results: of the final evaluation.
    """
    data, test = config.data, config.data.test
    mean, std = data.mean or MEAN, data.std or STD
    sizes = {"short_side": test.short_side, "crop": test.crop}
    return WeightsMetadata(
        architecture=config.model.name,
        strides=layer_strides(model),
        norm=config.model.norm.name,
        use_batch=has_batch_part(model),
        statistics=statistics if tracking_layers(model, frozen=False) else None,
        classes=tuple(classes),
        preprocessing=Preprocessing(mean=mean, std=std, **data.clip.model_dump(), **sizes),
        started_from=started_from,
        results=results,
    )


def publish(folder: RunDir, model: nn.Module, metadata: WeightsMetadata, config: RunConfig) -> None:
    """Write weights and model card of a finished run.

    Raises:
        SnvideoError: if the disk does not take them.
    """
    with folder.written(WEIGHTS_FILE) as path:
        write_weights(path, model, metadata)
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    with folder.written(CARD) as path:
        path.write_text(model_card(metadata, WEIGHTS_FILE, text), encoding="utf-8")
