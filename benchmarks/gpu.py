"""Everything that is to be measured on a GPU, part by part, each written when it is there.

    python benchmarks/gpu.py [--minutes 8] [--small] [--again]

A part whose results are there is left out, so that what was interrupted goes on. A part that fails
or takes too long is named at the end, and the others are run. Results go to benchmarks/results/ and
docs/results/ as gpu_*; with --small, to a folder of their own, as a try without a GPU.
"""

import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

ROOT = Path(__file__).parents[1]

TESTS = (
    "tests/engine/test_cuda.py",
    "tests/norm/kernels/test_cuda.py",
    "tests/norm/kernels/test_triton.py",
)


class Part(NamedTuple):
    """One measurement."""

    name: str
    command: tuple[str, ...]
    """Of Python, from the root of the repository."""
    options: tuple[str, ...] = ()
    small: tuple[str, ...] = ()
    """Options of a try on a small scale, in place of the others."""
    written: bool = True
    """It writes results; otherwise its output is kept."""


QUICK = ("--scale", "7", "--repeats", "3")
LARGE = ("--network", "i3d_r50_8x8")
TINY = ("--network", "i3d_tiny", "--repeats", "3")

PARTS = (
    Part("tests", ("-m", "pytest", "-q", "-m", "not slow", *TESTS), written=False),
    Part("conv3d", ("benchmarks/conv3d.py",), small=(*QUICK, "--clips", "1")),
    Part("norm", ("benchmarks/norm.py",), small=(*QUICK, "--clips", "2", "--no-compiled")),
    Part("norm_evaluation", ("benchmarks/norm.py", "--evaluate"), small=(*QUICK, "--no-compiled")),
    Part("train_step", ("benchmarks/train_step.py", "--part", "plain"), LARGE, TINY),
    Part("ghost_groups", ("benchmarks/train_step.py", "--part", "ghost"), LARGE, TINY),
)


def run_part(part: Part, json_file: Path, markdown_file: Path, small: bool, limit: float) -> str:
    """Run a part and write its results; its outcome in words."""
    command = [sys.executable, *part.command, *(part.small if small else part.options)]
    if part.written:
        # Moved when complete: what was cut off is to be run again.
        command += ["--json", f"{json_file}.part", "--markdown", str(markdown_file)]
    start = time.monotonic()
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            timeout=limit,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
    except subprocess.TimeoutExpired:
        return f"stopped after {limit:.0f} s"
    print(done.stdout[-4000:], flush=True)
    if done.returncode:
        return f"failed with exit code {done.returncode}"
    if part.written:
        Path(f"{json_file}.part").replace(json_file)
    else:
        json_file.with_suffix(".txt").write_text(done.stdout)
    return f"done in {time.monotonic() - start:.0f} s"


def main(
    minutes: Annotated[float, typer.Option(min=0.1, help="For all parts together.")] = 8,
    small: Annotated[bool, typer.Option("--small", help="A try, without a GPU too.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Measure what is there, too.")] = False,
    folder: Annotated[Path, typer.Option(help="Of a try's results.")] = Path("runs/gpu_small"),
) -> None:
    """Run the parts in order until the time is up; exit code 1 if any is left."""
    figures = folder if small else ROOT / "benchmarks" / "results"
    tables = folder if small else ROOT / "docs" / "results"
    for place in (figures, tables):
        place.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * minutes
    outcomes = {}
    for part in PARTS:
        json_file = (figures / f"gpu_{part.name}.json").absolute()
        markdown_file = (tables / f"gpu_{part.name}.md").absolute()
        kept = json_file if part.written else json_file.with_suffix(".txt")
        left = end - time.monotonic()
        if kept.exists() and not again:
            outcomes[part.name] = "done before"
        elif left <= 0:
            outcomes[part.name] = "left: no time"
        else:
            outcomes[part.name] = run_part(
                part, json_file.absolute(), markdown_file.absolute(), small, left
            )
    for name, outcome in outcomes.items():
        print(f"{name:16} {outcome}")
    if not all(outcome.startswith("done") for outcome in outcomes.values()):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
