"""Commands on networks and runs: train, evaluate, compare, report, predict, push."""

from pathlib import Path
from typing import Annotated

import typer

from snvideo.cli import timeline as timelines
from snvideo.cli.options import (
    INFERENCE_WORKERS,
    ConfigFile,
    Device,
    Fps,
    Overrides,
    Silence,
    Weights,
    Workers,
    given,
    refuse_options,
)
from snvideo.data.image_sequences import FPS
from snvideo.errors import SnvideoError


def train(
    context: typer.Context,
    config: ConfigFile,
    overrides: Overrides = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, time a few steps, and stop.")
    ] = False,
    timed_steps: Annotated[int, typer.Option(min=0, help="Steps that a dry run times.")] = 3,
    profile: Annotated[
        bool, typer.Option("--profile", help="Record some steps with torch's profiler.")
    ] = False,
) -> None:
    """Train one network and test it, or go on with what was interrupted.

    Under torchrun, on many processes.
    """
    from snvideo.config import load_config

    if dry_run and profile:
        raise SnvideoError("--profile records a run, and --dry-run is none: leave one out")
    if not dry_run:
        timed = {"--timed-steps": given(context, "timed_steps")}
        refuse_options(timed, "is about a dry run: add --dry-run")
    run = load_config(config, overrides or ())
    if dry_run:
        from snvideo.engine import dry_run as dry_runs
        from snvideo.report.dry_run_table import print_dry_run

        print_dry_run(dry_runs.dry_run(run, timed_steps))
        return
    from snvideo.engine.train import train

    train(run, profile)


def evaluate(
    run: Annotated[
        Path, typer.Argument(help="A run's folder; or a config, for the weights it starts from.")
    ],
    overrides: Overrides = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Weights, such as best.pt; the newest by default.")
    ] = None,
) -> None:
    """Test a run's weights again, or published ones on your videos.

    With the run's own config or with changes, such as other views or another index.
    """
    from snvideo.config import check_effect, load_config, overridden_keys
    from snvideo.engine.evaluate import evaluate

    check_effect(overrides or (), dict.fromkeys(("optim", "log"), "of training alone"))
    if not run.is_dir():
        if checkpoint is not None:
            raise SnvideoError("--checkpoint is for a run's folder: set model.weights.source")
        evaluate(load_config(run, overrides or ()))
        return
    if not (run / "config.yaml").exists():
        raise SnvideoError(f"{run} is neither the folder of a run nor a config")
    keys = [key for override in overrides or () for key in overridden_keys(override)]
    if any(f"{key}.".startswith("model.weights.") for key in keys):
        raise SnvideoError(f"{run} is tested with its own weights: name others by --checkpoint")
    evaluate(load_config(run, overrides or ()), run, checkpoint)


def compare(
    config: ConfigFile,
    overrides: Overrides = None,
    parallel: Annotated[
        int, typer.Option(min=1, help="Runs at once, which share cores and GPUs.")
    ] = 1,
) -> None:
    """Run norms x batch geometries x seeds and put them side by side. Repeats nothing finished."""
    from snvideo.config import load_study
    from snvideo.report.study_report import write_report
    from snvideo.study.compare import run_study
    from snvideo.study.parallel import parallel_calls

    run, study = load_study(config, overrides or ())
    call = ["compare", config, *(overrides or ())]
    others = parallel_calls(call, parallel, study.processes, run.output)
    rows = run_study(run, study, write_report, others=others)
    if any(row["status"] != "finished" for row in rows):
        raise typer.Exit(1)


def report(folder: Annotated[Path, typer.Argument(help="Folder of a study.")]) -> None:
    """Write a study's tables, figures and report.html anew from its runs."""
    from snvideo.report.study_report import write_report

    typer.echo(f"report: {write_report(folder)}")


def track(
    run: Annotated[Path, typer.Argument(help="A run's folder.")],
    to: Annotated[
        list[str] | None,
        typer.Option(help="wandb, mlflow or trackio; by default those of the run's config."),
    ] = None,
) -> None:
    """Send to trackers what they have not got of a run: its metrics, config and results."""
    from snvideo.engine.run_dir import RunDir
    from snvideo.engine.tracking import track_run

    run_dir = RunDir(run)
    if (config := run_dir.stored_config()) is None:
        raise SnvideoError(f"{run} is not the folder of a run: it has no config.yaml")
    with run_dir.locked():
        for tracker, lines in track_run(run, to or config.log.trackers):
            typer.echo(f"{tracker}: {lines} lines of metrics sent")


def predict(
    context: typer.Context,
    videos: Annotated[
        list[str],
        typer.Argument(metavar="VIDEO", help="Files, folders, quoted patterns: 'x/**/*.mp4'."),
    ],
    weights: Weights,
    clips: Annotated[
        int | None, typer.Option(min=1, help="Clips, spread evenly: 10; of a window 1.")
    ] = None,
    crops: Annotated[
        int | None, typer.Option(min=1, max=3, help="Of each clip, 1 or 3: 3; of a window 1.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Classes of an answer.")] = 5,
    workers: Workers = INFERENCE_WORKERS,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Views in one pass: 16; of windows 1.")
    ] = None,
    device: Device = "auto",
    timeout: Silence = 60.0,
    fps: Fps = FPS,
    out: Annotated[Path | None, typer.Option(help="A .csv or .json to write, too.")] = None,
    contact_sheets: Annotated[
        Path | None,
        typer.Option("--contact-sheets", "--strips", help="Folder for a PNG of each video."),
    ] = None,
    explain: Annotated[
        Path | None, typer.Option(help="Folder for Grad-CAM of each video: a PNG and an MP4.")
    ] = None,
    window: Annotated[
        float | None, typer.Option(help="Seconds of a window: answers along long videos.")
    ] = None,
    step: Annotated[
        float | None, typer.Option(help="Seconds from one window to the next: half of one.")
    ] = None,
    smooth: Annotated[
        float | None, typer.Option(help="Seconds that windows are averaged over for events: 0.")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Least probability in an event: 0.5.")
    ] = None,
    events: Annotated[
        Path | None, typer.Option(help="A .csv or .json for events: windows in a row.")
    ] = None,
    delay: Annotated[
        float | None, typer.Option(help="Seconds of a stream that may wait before frames drop: 2.")
    ] = None,
    pictures: Annotated[
        Path | None, typer.Option(help="Folder for a PNG of each video's timeline.")
    ] = None,
) -> None:
    """Name the most probable classes of videos, or of windows of time along them."""
    of_windows = {
        **{"--step": step, "--smooth": smooth, "--threshold": threshold},
        **{"--events": events, "--pictures": pictures, "--delay": delay},
    }
    if window is None:
        refuse_options(of_windows, "is about windows of time: add --window SECONDS")
    elif contact_sheets is not None or explain is not None:
        option = "--explain is" if contact_sheets is None else "--contact-sheets are"
        raise SnvideoError(f"{option} of whole videos: with --window use --pictures")
    else:
        of_views = {f"--{name}": given(context, name) for name in ("workers", "fps")}
        refuse_options(of_views, "is not for windows, whose videos are read one by one as files")
        timelines.predict_windows(
            videos,
            weights,
            window,
            step,
            out=out,
            events=events,
            pictures=pictures,
            smooth=smooth,
            threshold=threshold,
            clips=clips,
            crops=crops,
            top=top,
            batch=batch,
            device=device,
            timeout=timeout,
            delay=delay,
        )
        return
    from snvideo.data.files import find_videos
    from snvideo.engine.predict import predict
    from snvideo.report import predictions as output

    found = find_videos(videos)
    if out is not None:
        output.check_output(out)
    writers: list[output.Pictures] = []
    if contact_sheets is not None:
        writers.append(output.ContactSheets(contact_sheets))
    if explain is not None:
        writers.append(output.Explanations(explain))
    predictions = predict(
        found,
        weights,
        clips=10 if clips is None else clips,
        crops=3 if crops is None else crops,
        top=top,
        workers=workers,
        batch=16 if batch is None else batch,
        device=device,
        timeout=timeout,
        fps=fps,
        keep_frames=contact_sheets is not None,
        explained=explain is not None,
    )
    printed = output.print_predictions(predictions, len(found), writers)
    if out is not None:
        output.write_predictions(out, printed)
    if not all(prediction.classes for prediction in printed):
        raise typer.Exit(1)


def push(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    repo: Annotated[str, typer.Argument(help="USER/NAME; it is made if it is not there.")],
    private: Annotated[
        bool | None,
        typer.Option(
            "--private/--public", help="Of a new repository; else as your account makes them."
        ),
    ] = None,
) -> None:
    """Publish a run on the Hugging Face Hub: weights, model card, config, preprocessing."""
    from snvideo.engine.push import push

    typer.echo(push(run, repo, private))


def clips(
    config: ConfigFile,
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path(),
    video: Annotated[int, typer.Option(min=0, help="Row of the test split to show.")] = 0,
) -> None:
    """Write what the network sees: train_clips.png and test_views.png."""
    from snvideo.atomic import write_atomic
    from snvideo.config import load_config
    from snvideo.extras import require

    require("report", "contact sheets")
    from snvideo.report.preview import train_clips_png, views_png

    run = load_config(config, overrides or ())
    sheets = {"train_clips.png": train_clips_png(run), "test_views.png": views_png(run, video)}
    for name, content in sheets.items():
        write_atomic(out / name, content)
        typer.echo(out / name)


def models(
    names: Annotated[list[str] | None, typer.Argument(help="Backbones; all by default.")] = None,
    norm: Annotated[str, typer.Option(help="Normalization of every layer.")] = "bn",
    classes: Annotated[int, typer.Option(min=1, help="Classes to tell apart.")] = 400,
) -> None:
    """List the backbones: the view of a video that each was published with, size and cost."""
    from snvideo.report.models import print_models

    print_models(names or (), norm, classes)
