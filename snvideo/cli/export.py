"""Command on programs for other runtimes: export."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from snvideo.cli.options import (
    INFERENCE_WORKERS,
    WEIGHTS,
    Silence,
    Workers,
    given,
    refuse_options,
)
from snvideo.errors import SnvideoError

if TYPE_CHECKING:
    from snvideo.engine.inference import Inference
    from snvideo.engine.int8 import CalibrationClips, Int8Program


def export(
    context: typer.Context,
    model: Annotated[Path, typer.Argument(help=WEIGHTS)],
    out: Annotated[
        Path, typer.Argument(help="To write: .onnx, .pt2 (torch.export) or .safetensors.")
    ],
    calibration: Annotated[
        Path | None, typer.Option(help="An index, a .csv: write OUT in int8, too, as .int8.onnx.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Of the index: train.")] = None,
    videos: Annotated[
        int | None,
        typer.Option(min=1, help="To calibrate on, and as many others to compare logits on: 64."),
    ] = None,
    benchmark: Annotated[
        bool, typer.Option("--benchmark", help="Measure it beside the network itself.")
    ] = False,
    batch: Annotated[
        list[int] | None, typer.Option(min=1, help="Clips in one pass, again for more: 1 and 8.")
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Times that each is measured: 20.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Of torch and onnxruntime, both: torch's default.")
    ] = None,
    workers: Workers = INFERENCE_WORKERS,
    timeout: Silence = 60.0,
) -> None:
    """Write a network for other programs, and check that it gives the same logits.

    In int8 it is written where its logits are near enough to the network's.
    """
    if calibration is None:
        read = {f"--{name}": given(context, name) for name in ("workers", "timeout")}
        of_int8 = {"--split": split, "--videos": videos, **read}
        refuse_options(of_int8, "is about int8: add --calibration INDEX")
    elif out.suffix != ".onnx":
        raise SnvideoError(f"{out}: int8 (--calibration) is for .onnx alone")
    if not benchmark:
        measured = {"--batch": batch or None, "--rounds": rounds, "--threads": threads}
        refuse_options(measured, "is about measuring: add --benchmark")
    from snvideo import load_model
    from snvideo.engine.inference import open_inference
    from snvideo.engine.int8 import make_int8, read_calibration, write_int8
    from snvideo.models.export import export_model
    from snvideo.models.int8 import INT8_SUFFIX

    check = export_model(load_model(model), out)
    if check is None:
        typer.echo(out)
    else:
        typer.echo(f"{out}: logits agree to {check.difference:.1e}; takes {check.lengths}")
    if calibration is None and not benchmark:
        return
    inference = open_inference(
        model, clips=1, crops=1, workers=workers, batch=1, device="cpu", timeout=timeout
    )
    clips, int8 = None, None
    if calibration is not None:
        clips = read_calibration(inference, calibration, split or "train", videos or 64)
        int8 = make_int8(out, clips)
    if benchmark:
        _benchmark(inference, out, clips, int8, tuple(batch or (1, 8)), rounds or 20, threads)
    if int8 is not None:
        path = out.with_suffix(INT8_SUFFIX)
        write_int8(path, int8)
        typer.echo(f"{path}: {int8.agreement}")


def _benchmark(
    inference: "Inference",
    out: Path,
    clips: "CalibrationClips | None",
    int8: "Int8Program | None",
    batches: tuple[int, ...],
    rounds: int,
    threads: int | None,
) -> None:
    """Measure and print."""
    from tempfile import TemporaryDirectory

    import torch

    from snvideo.engine.export_benchmark import Source, benchmark_export
    from snvideo.extras import MissingExtraError
    from snvideo.models.export import export_model, random_clips
    from snvideo.report.console import progress
    from snvideo.report.export_benchmark import print_benchmark

    uncalibrated = "it needs videos (--calibration INDEX): random clips are no calibration"
    with progress() as show, TemporaryDirectory(prefix="snvideo-export-") as folder:
        program: Source = out
        if out.suffix != ".onnx":
            program = Path(folder) / "network.onnx"
            try:
                export_model(inference.network, program)
            except MissingExtraError as error:
                program = str(error)
        found = benchmark_export(
            inference.network.model,
            program,
            uncalibrated if int8 is None else int8.content,
            random_clips(inference.network, 8) if clips is None else clips.other_inputs,
            batches=batches,
            rounds=rounds,
            threads=threads or torch.get_num_threads(),
            progress=lambda done, total: show("turns", done, total),
        )
    print_benchmark(found, "random clips" if clips is None else "videos outside the calibration")
