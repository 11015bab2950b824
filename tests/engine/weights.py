"""Weight files of random networks that tell videos apart."""

from pathlib import Path

import torch

from snvideo.models.pretrained import (
    Preprocessing,
    WeightsMetadata,
    layer_strides,
    write_weights,
)
from snvideo.models.registry import create_model

CLASSES = tuple(f"class {number}" for number in range(8))


def random_weights(path: Path, name: str = "i3d_tiny") -> Path:
    """Weights of a backbone that sees 4 frames at 10 a second, 32 pixels square."""
    torch.manual_seed(0)
    model = create_model(name, len(CLASSES), "sn")
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.ndim == 1 and key.endswith("weight"):
                parameter.fill_(1.0)  # else every residual branch is zero
        list(model.parameters())[-2].mul_(30)
    looks = {"mean": (0.4, 0.45, 0.5), "std": (0.2, 0.225, 0.25), "target_fps": 10}
    seen = Preprocessing(**looks, frames=4, stride=3, short_side=36, crop=32)
    about = {"architecture": name, "strides": layer_strides(model), "norm": "sn"}
    metadata = WeightsMetadata(**about, statistics="moving", classes=CLASSES, preprocessing=seen)
    write_weights(path, model, metadata)
    return path
