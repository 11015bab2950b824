"""Arguments and options that several commands have."""

from typing import Annotated

import typer

ConfigFile = Annotated[str, typer.Argument(help="A YAML file, or a name: see `snvideo configs`.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="Changes to the config: key.sub=value ...")
]
Workers = Annotated[int, typer.Option(min=1, help="Processes that read or write videos.")]
Timeout = Annotated[
    float,
    typer.Option(
        "--timeout", "--limit", min=1, help="Seconds without progress before a video is given up."
    ),
]
