"""Arguments and options that several commands have."""

import os
from pathlib import Path
from typing import Annotated

import typer

ConfigFile = Annotated[str, typer.Argument(help="A YAML file, or a name: see `snvideo configs`.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="Changes to the config: key.sub=value ...")
]
WEIGHTS = "A run's folder; a .safetensors or checkpoint of snvideo; or hf:USER/NAME[@REVISION]."
Weights = Annotated[Path, typer.Option(help=WEIGHTS)]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, or cuda:1.")]
Silence = Annotated[
    float,
    typer.Option(
        "--timeout",
        "--limit",
        min=1,
        max=300,
        help="Seconds without a frame before a video is given up.",
    ),
]
INFERENCE_WORKERS = min(4, os.cpu_count() or 1)
"""Workers of inference on files, if none are named."""
Workers = Annotated[int, typer.Option(min=1, help="Processes that read or write videos.")]
Timeout = Annotated[
    float,
    typer.Option(
        "--timeout", "--limit", min=1, help="Seconds without progress before a video is given up."
    ),
]
