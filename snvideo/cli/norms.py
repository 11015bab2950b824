"""Commands on the norms of a network."""

from pathlib import Path
from typing import Annotated

import typer

from snvideo.cli.options import ConfigFile, Overrides

app = typer.Typer(
    help="Diagnose the norms of a network: how noisy their batch statistics are.",
    no_args_is_help=True,
)


@app.callback()
def norms() -> None:
    """Diagnose the norms of a network: how noisy their batch statistics are."""


@app.command()
def doctor(
    config: ConfigFile,
    overrides: Overrides = None,
    weights: Annotated[
        Path | None, typer.Option(help="A run's folder or a file to take the weights from.")
    ] = None,
    clips: Annotated[
        int, typer.Option(min=2, help="Training clips to pass, at most an epoch.")
    ] = 512,
    out: Annotated[Path | None, typer.Option(help="A .json to write, too.")] = None,
) -> None:
    """Measure the noise of batch statistics in each layer, and advise on norms, without training.

    The network is that which a training would begin with, or has come to (--weights).
    """
    from snvideo.config import load_config
    from snvideo.engine.norm_diagnosis import diagnose_run
    from snvideo.report import norm_diagnosis as output
    from snvideo.report.console import progress

    run = load_config(config, overrides or ())
    if out is not None:
        output.check_json(out)
    with progress(transient=True) as show:
        found = diagnose_run(run, weights, clips, show)
    output.print_diagnosis(found)
    if out is not None:
        output.write_diagnosis(out, found)
        typer.echo(out)
