"""Small runs on the toy data set, in this process and under torchrun."""

from pathlib import Path
from typing import Any

import yaml

from snvideo.config import Config, load_config


def run_config(toy: Path, output: Path, *overrides: str) -> Config:
    """A run of a few seconds: 48 videos, tiny clips, no workers."""
    values: dict[str, Any] = {
        "output": str(output),
        "model": {"name": "i3d_tiny", "norm": {"name": "sn"}, "dropout": 0.0},
        "data": {
            "index": str(toy / "index.csv"),
            "workers": 0,
            "clip": {"frames": 4, "stride": 4},
            "train": {"short_side": [32, 36], "crop": 32, "flip": False},
            "test": {"short_side": 32, "crop": 32, "clips": 2, "crops": 1},
        },
        "batch": {"gpus": 4, "clips_per_gpu": 2},
        "optim": {"lr": 0.1, "epochs": 1, "warmup_epochs": 0},
        "statistics": {"batches": 3},
        "log": {"every_steps": 2},
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    path = output.parent / f"{output.name}.yaml"
    path.write_text(yaml.safe_dump(values))
    return load_config(path, overrides)
