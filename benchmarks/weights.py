"""Weight files of networks that were never trained."""

from pathlib import Path

import torch

from snvideo.models.pretrained import Preprocessing, WeightsMetadata, layer_strides, write_weights
from snvideo.models.registry import BACKBONES, create_model


def write_random_weights(path: Path, name: str, norm: str) -> None:
    """Write weights that were never trained, of the view that the backbone was published with."""
    torch.manual_seed(0)
    model, backbone = create_model(name, 400, norm).eval(), BACKBONES[name]
    seen = Preprocessing(
        mean=(0.45,) * 3,
        std=(0.225,) * 3,
        frames=backbone.frames,
        stride=backbone.stride,
        short_side=backbone.crop,
        crop=backbone.crop,
    )
    metadata = WeightsMetadata(
        architecture=name,
        strides=layer_strides(model),
        norm=norm,
        statistics="moving",
        classes=tuple(f"class {number}" for number in range(400)),
        preprocessing=seen,
    )
    write_weights(path, model, metadata)
