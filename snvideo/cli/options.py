"""Arguments and options that several commands have."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from snvideo.errors import SnvideoError

ConfigFile = Annotated[str, typer.Argument(help="A YAML file, or a name: see `snvideo configs`.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="Changes to the config: key.sub=value ...")
]
WEIGHTS = "A run's folder; a .safetensors or checkpoint of snvideo; or hf:USER/NAME@REVISION."
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
Fps = Annotated[
    float, typer.Option(min=0.01, help="Frames a second of folders of images, which state none.")
]
Workers = Annotated[int, typer.Option(min=1, help="Processes that read or write videos.")]
Timeout = Annotated[
    float,
    typer.Option(
        "--timeout", "--limit", min=1, help="Seconds without progress before a video is given up."
    ),
]


def refuse_options(options: Mapping[str, object], why: str) -> None:
    """Refuse options (name -> value, None: not given) that mean nothing without another one."""
    for name, value in options.items():
        if value is not None:
            raise SnvideoError(f"{name} {why}")


def given(context: typer.Context, name: str) -> object:
    """Value of a parameter that the command line has, else None."""
    source = context.get_parameter_source(name)
    return context.params[name] if source is not None and source.name == "COMMANDLINE" else None


def _check_part(context: typer.Context, value: str | bool | None) -> str | bool | None:
    """Refuse a bad part, or one with `--merge`, before anything is read."""
    if value and (context.params.get("part") or context.params.get("merge")):
        raise SnvideoError("--part and --merge: give one of them, --merge once all parts are there")
    if isinstance(value, str):
        from snvideo.data.indexing.parts import Part

        Part.parse(value)
    return value


Ray = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="ADDRESS",
        help="Work on the nodes of a Ray cluster: auto, local, host:port or ray://host:port. "
        "--workers is then that of each task.",
    ),
]
PartOf = Annotated[
    str | None,
    typer.Option(
        "--part",
        metavar="I/N",
        callback=_check_part,
        help="Do part I of N alone, from 1/N to N/N, say on N machines.",
    ),
]
Merge = Annotated[
    bool,
    typer.Option("--merge", callback=_check_part, help="Put the parts of --part together."),
]
