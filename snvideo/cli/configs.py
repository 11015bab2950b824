"""Commands on configs: those that come with the package, and those of other libraries."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="List the configs of snvideo, copy one to edit, or translate one of another library.",
    invoke_without_command=True,
)


@app.callback()
def listed(ctx: typer.Context) -> None:
    """List the configs of snvideo, copy one to edit, or translate one of another library."""
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


@app.command()
def translate(
    file: Annotated[Path, typer.Argument(help="Config of PySlowFast (.yaml) or mmaction2 (.py).")],
    out: Annotated[Path | None, typer.Option(help="File to write; else it is shown.")] = None,
) -> None:
    """Translate a config of PySlowFast or mmaction2; what has no equivalent is named."""
    from snvideo.translation import translate_config

    found = translate_config(file)
    if out is None:
        typer.echo(found.text(), nl=False)
        return
    found.write(out)
    for remark in found.different:
        typer.echo(f"different here: {remark.key}: {remark.value!r}  ({remark.why})")
    batch = found.config.batch
    typer.echo(
        f"{out}: {found.config.model.name}, {batch.gpus} x {batch.clips_per_gpu} clips; "
        f"{found.translated} keys translated, {len(found.different)} different here, "
        f"{len(found.without_effect)} left out without effect; all stand in its comments"
    )
    typer.echo(
        "Index your videos (snvideo index build list VIDEOS --train ... --val ... --out "
        f"{found.config.data.index}), then: snvideo train {out} --dry-run"
    )
