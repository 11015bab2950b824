"""The command line: parse, call, print."""

from __future__ import annotations

import atexit
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from snvideo.errors import TEMPORARY_FAILURE, PreemptedError, ReportedError, SnvideoError

# OpenMP's threads spin while they wait for one another. Beside the loader's workers, which need the
# same cores, that was seen to make a training step on two cores ten times slower. It is read when
# torch is first imported: here is the last chance.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Of pytorchvideo, at every start; nothing that a user could do about it.
warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)

app = typer.Typer(
    help="Video action recognition on Kinetics with Switchable Normalization.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ConfigFile = Annotated[Path, typer.Argument(help="YAML config.", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="Changes to the config: key.sub=value ...", show_default=False),
]

_WORKERS = min(4, os.cpu_count() or 1)


@app.command()
def train(
    config: ConfigFile,
    overrides: Overrides = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, time a few steps, and stop.")
    ] = False,
    timed_steps: Annotated[
        int, typer.Option(min=0, help="Steps that a dry run times; 0: nothing is computed.")
    ] = 3,
    profile: Annotated[
        bool, typer.Option("--profile", help="Record some steps with torch's profiler.")
    ] = False,
) -> None:
    """Train one network and test it, or go on with what was interrupted.

    Under torchrun, on many processes.
    """
    from snvideo.config import load_config

    run = load_config(config, overrides or ()).run()
    if dry_run:
        from snvideo.engine.dry_run import dry_run as rehearse
        from snvideo.report.dry_run_table import show

        show(rehearse(run, timed_steps))
        return
    from snvideo.engine.train import train

    train(run, profile)


@app.command()
def evaluate(
    run: Annotated[
        Path,
        typer.Argument(
            help="Folder of a run; or a config, to test the weights that it starts from.",
            show_default=False,
        ),
    ],
    overrides: Overrides = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="Weights to test, such as best.pt; the newest of the run otherwise."),
    ] = None,
) -> None:
    """Test a run's weights again, or published ones on your videos.

    With the run's own config or with changes, such as other views or another index.
    """
    from snvideo.config import load_config
    from snvideo.engine.evaluate import evaluate

    if run.is_file():
        if checkpoint is not None:
            raise SnvideoError("--checkpoint is for a run's folder: set model.weights.source")
        evaluate(load_config(run, overrides or ()).run())
        return
    if not (run / "config.yaml").exists():
        raise SnvideoError(f"{run} is neither the folder of a run nor a config")
    if any(override.startswith("model.weights") for override in overrides or ()):
        raise SnvideoError(f"{run} is tested with its own weights: name others by --checkpoint")
    config = load_config(run / "config.yaml", overrides or ()).run()
    evaluate(config, run, checkpoint)


@app.command()
def compare(config: ConfigFile, overrides: Overrides = None) -> None:
    """Run norms x batch geometries x seeds and put them side by side. Repeats nothing finished."""
    from snvideo.config import load_config
    from snvideo.report.study_report import write_report
    from snvideo.study.compare import compare

    loaded = load_config(config, overrides or ())
    if loaded.study is None:
        raise SnvideoError(f"{config} has no 'study' section: add study.batches to compare runs")
    rows = compare(loaded.run(), loaded.study, write_report)
    if any(row["status"] != "finished" for row in rows):
        raise typer.Exit(1)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="Folder of a study.", show_default=False)],
) -> None:
    """Redraw a study's tables, figures and report.html from its runs."""
    from snvideo.report.study_report import write_report

    typer.echo(f"report: {write_report(folder)}")


@app.command()
def predict(
    videos: Annotated[
        list[str],
        typer.Argument(
            help="Files, folders (all videos below), quoted patterns such as 'x/**/*.mp4'.",
            metavar="VIDEO",
            show_default=False,
        ),
    ],
    weights: Annotated[
        Path,
        typer.Option(
            help="A run's folder, or weights of ours: .safetensors, a checkpoint.",
            show_default=False,
        ),
    ],
    clips: Annotated[int, typer.Option(min=1, help="Clips, spread evenly over a video.")] = 10,
    crops: Annotated[int, typer.Option(min=1, max=3, help="Of each clip: 1 or 3.")] = 3,
    top: Annotated[int, typer.Option(min=1, help="Classes of an answer.")] = 5,
    workers: Annotated[int, typer.Option(min=1, help="Processes that read videos.")] = _WORKERS,
    batch: Annotated[int, typer.Option(min=1, help="Views (clips x crops) in one pass.")] = 16,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, or cuda:1.")] = "auto",
    timeout: Annotated[
        float,
        typer.Option(
            "--timeout", "--limit", min=1, max=300, help="Seconds before a stuck video is given up."
        ),
    ] = 60.0,
    out: Annotated[Path | None, typer.Option(help="A .csv or .json to write, too.")] = None,
    contact_sheets: Annotated[
        Path | None,
        typer.Option(
            "--contact-sheets", "--strips", help="Folder for frames and prediction of each video."
        ),
    ] = None,
) -> None:
    """Say what videos show: the most probable classes of each, averaged over clips and crops."""
    from snvideo.data.files import find_videos
    from snvideo.engine.predict import predict
    from snvideo.report.predictions import ContactSheets, check_out, show, write

    found = find_videos(videos)
    if out is not None:
        check_out(out)
    sheets = None if contact_sheets is None else ContactSheets(contact_sheets)
    predictions = predict(
        found,
        weights,
        clips=clips,
        crops=crops,
        top=top,
        workers=workers,
        batch=batch,
        device=device,
        timeout=timeout,
        keep_frames=sheets is not None,
    )
    shown = show(predictions, len(found), sheets)
    if out is not None:
        write(out, shown)
    if not all(prediction.classes for prediction in shown):
        raise typer.Exit(1)


@app.command()
def export(
    model: Annotated[
        Path,
        typer.Argument(
            help="A run's folder, or weights of ours: .safetensors, a checkpoint.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Argument(
            help="To write: .onnx, .pt2 (torch.export) or .safetensors.", show_default=False
        ),
    ],
) -> None:
    """Write a network for other programs, and check that it gives the same logits."""
    from snvideo import load_model
    from snvideo.models.export import export

    written = export(load_model(model), out)
    how = "" if written.difference is None else f": logits agree to {written.difference:.1e}"
    typer.echo(f"{written.path}{how}")


@app.command()
def clips(
    config: ConfigFile,
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path(),
    video: Annotated[
        int, typer.Option(min=0, help="Row of the test split whose views to show.")
    ] = 0,
) -> None:
    """Draw what the network sees: train_clips.png and test_views.png."""
    from snvideo.atomic import write_atomic
    from snvideo.config import load_config
    from snvideo.report.preview import test_views_png, train_clips_png

    run = load_config(config, overrides or ()).run()
    for name, content in (
        ("train_clips.png", train_clips_png(run)),
        ("test_views.png", test_views_png(run, video)),
    ):
        write_atomic(out / name, content)
        typer.echo(out / name)


@app.command()
def index(
    index: Annotated[Path, typer.Argument(help="An index, a .csv.", show_default=False)],
    out: Annotated[Path | None, typer.Option(help="Draw it too: a .png to write.")] = None,
    frames: Annotated[int, typer.Option(min=1, help="Frames of a clip.")] = 8,
    stride: Annotated[int, typer.Option(min=1, help="And their stride.")] = 8,
) -> None:
    """Report what an index holds: classes, durations, sizes, what is broken and why."""
    from rich.console import Console

    from snvideo.atomic import write_atomic
    from snvideo.data.config import ClipConfig
    from snvideo.data.indexing.summary import summarize_index
    from snvideo.report.index_report import index_png, index_tables

    found = summarize_index(index, ClipConfig(frames=frames, stride=stride))
    console = Console() if sys.stdout.isatty() else Console(width=100)
    for table in index_tables(found):
        console.print(table)
    if out is not None:
        write_atomic(out, index_png(found))
        typer.echo(out)


@app.command()
def models(
    names: Annotated[
        list[str] | None, typer.Argument(help="Backbones; all by default.", show_default=False)
    ] = None,
    norm: Annotated[str, typer.Option(help="Normalization of every layer.")] = "bn",
    classes: Annotated[int, typer.Option(min=1, help="Classes to tell apart.")] = 400,
) -> None:
    """List the backbones: the view of a video that each was published with, size and cost."""
    from snvideo.models.listing import list_costs
    from snvideo.report.models import show_models

    show_models(list_costs(names or (), norm, classes))


def main() -> NoReturn:
    """Run the command line, and end with its exit code."""
    code = run()
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        sys.exit(code)
    # Threads of a process group may still ask for the interpreter's lock when it shuts down, which
    # aborts the process: it was seen in one of 45 runs on two processes, with all their work done.
    atexit._run_exitfuncs()  # children of the loader end with us
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def run() -> int:
    """Run the command line, and return its exit code.

    An error that the user can mend is one line and exit code 2; a run that was asked to stop, and
    can go on, is exit code 75 (under torchrun, which has codes of its own, a file `preempted` in
    the run's folder).
    """
    logging.basicConfig(format="%(asctime)s  %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    logging.getLogger("snvideo").setLevel(logging.INFO)  # of libraries, warnings alone
    try:
        app()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except PreemptedError:
        print("snvideo: stopped as asked; the same command goes on", file=sys.stderr)
        return TEMPORARY_FAILURE
    except ReportedError:
        return 2
    except SnvideoError as error:
        print(f"snvideo: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    main()
