"""What an index costs: time and memory to load many rows, and files a second of each check.

python benchmarks/index.py --rows 10000000 --videos FOLDER --json benchmarks/results/index.json
"""

import csv
import json
import multiprocessing
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import quantiles
from typing import Annotated, Any, get_args

import typer
from rich.console import Console
from rich.table import Table

from snvideo.data.files import scan_videos
from snvideo.data.index import COLUMNS, ClipIndex, IndexRow
from snvideo.data.index_meta import VERSION
from snvideo.data.indexing.probe import Check, probe_all

CLASSES = 400
LOOKS = 10_000
"""Videos all over the index that a worker looks at."""


def write_index(folder: Path, rows: int) -> Path:
    """An index of videos that are not there, with paths as long as those of Kinetics."""
    path = folder / "index.csv"
    row = IndexRow(
        label_name="some action or other",
        split="train",
        start=1.0,
        end=11.0,
        frames=300,
        fps=29.97,
        width=340,
        height=256,
        seconds=10.01,
        bytes=600_000,
        seekable=1,
        decoders="pyav decord",
    )
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for number in range(rows):
            name = f"some_action_or_other/{number:011d}_000001_000011.mp4"
            writer.writerow(row._replace(path=name, label=number % CLASSES))
    labels = [f"action {number}" for number in range(CLASSES)]
    facts = {"root": ".", "labels": labels, "version": VERSION}
    path.with_suffix(".json").write_text(json.dumps(facts))
    return path


def anonymous() -> int:
    """Bytes of this process's memory that belong to no file."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Anonymous:"))


def _look_around(index: ClipIndex, pipe: Connection) -> None:
    before, begun = anonymous(), time.perf_counter()
    for number in range(0, len(index), max(1, len(index) // LOOKS)):
        index[number]
    pipe.send({"own_bytes": anonymous() - before, "seconds": time.perf_counter() - begun})


def load(rows: int) -> dict[str, Any]:
    """Time and memory of loading a generated index, and what its workers own of it."""
    with tempfile.TemporaryDirectory() as folder:
        path = write_index(Path(folder), rows)
        size = path.stat().st_size
        before, begun = anonymous(), time.perf_counter()
        index = ClipIndex.load(path, "train")
        figures: dict[str, Any] = {
            "rows": len(index),
            "csv_bytes": size,
            "load_seconds": time.perf_counter() - begun,
            "own_bytes": anonymous() - before,
            "shared_bytes": sum(a.values.nbytes for a in (index._table, index._paths, index._ends)),
        }
        for method in ("fork", "spawn"):
            context = multiprocessing.get_context(method)
            ours, theirs = context.Pipe()
            worker = context.Process(target=_look_around, args=(index, theirs))
            worker.start()
            figures[f"worker by {method}"] = ours.recv()
            worker.join()
    return figures


def checks(videos: Path, repeats: int) -> list[dict[str, Any]]:
    """Files a second that one worker looks into, from the page cache."""
    paths = [videos / name for name in scan_videos(videos)]
    figures = []
    for check in get_args(Check):
        spent = []
        for _ in range(1 + repeats):  # the first brings the files into memory
            outcomes = probe_all(paths * (2 if check == "decode" else 20), check, 1)
            ok = [next(outcomes).status == "ok"]  # the process has started
            begun = time.perf_counter()
            ok += [found.status == "ok" for found in outcomes]
            spent.append((time.perf_counter() - begun) / (len(ok) - 1))
        low, middle, high = quantiles(spent[1:], n=4, method="inclusive")
        figures.append(
            {
                "check": check,
                "files": len(paths),
                "bytes": sum(path.stat().st_size for path in paths),
                "all_ok": all(ok),
                "files_per_second": 1 / middle,
                "quartiles": [1 / high, 1 / low],
            }
        )
    return figures


def main(
    rows: Annotated[int, typer.Option(min=1, help="Rows of the generated index.")] = 1_000_000,
    videos: Annotated[Path | None, typer.Option(help="Folder of videos to check.")] = None,
    repeats: Annotated[int, typer.Option(min=1)] = 5,
    out: Annotated[Path | None, typer.Option("--json", help="Where to write the figures.")] = None,
) -> None:
    """Measure how an index loads, what it takes of memory, and how quick the checks are."""
    figures: dict[str, Any] = {"load": load(rows)}
    if videos is not None:
        figures["checks"] = checks(videos, repeats)
    console = Console()
    table = Table("", "")
    for name, value in figures["load"].items():
        for key, part in value.items() if isinstance(value, dict) else [("", value)]:
            table.add_row(
                f"{name} {key}", f"{part:,.1f}" if isinstance(part, float) else f"{part:,}"
            )
    console.print(table)
    for row in figures.get("checks", ()):
        low, high = row["quartiles"]
        console.print(
            f"--check {row['check']}: {row['files_per_second']:.0f} files a second "
            f"({low:.0f}..{high:.0f})"
        )
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
