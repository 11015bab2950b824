"""Commands on the configs that come with the package."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="List the configs that come with snvideo, or copy one to edit.",
    invoke_without_command=True,
)


@app.callback()
def listed(ctx: typer.Context) -> None:
    """List the configs that come with snvideo, or copy one to edit."""
    from snvideo.shipped_configs import config_description, config_names

    if ctx.invoked_subcommand is None:
        names = config_names()
        width = max(map(len, names))
        for name in names:
            typer.echo(f"{name:{width}}  {config_description(name)}".rstrip())


@app.command()
def copy(
    name: Annotated[str, typer.Argument(help="A name that `snvideo configs` lists.")],
    out: Annotated[Path, typer.Argument(help="File to write, or a folder for it.")] = Path(),
) -> None:
    """Copy a config, to edit; its `base:` goes on naming the one that comes with snvideo."""
    from snvideo.shipped_configs import copy_config

    path = copy_config(name, out)
    typer.echo(f"{path}: edit it, then run snvideo train {path}")
