"""What building an index on several machines costs: rates by workers and Ray nodes, and memory.

python benchmarks/scale.py --videos FOLDER --json benchmarks/results/scale_cpu.json
python benchmarks/scale.py --rows 650000 --rows 10000000
"""

import json
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated, Any

import typer
from output import processor
from rich.console import Console
from rich.table import Table
from videos import CORES, find

from snvideo.data.files import scan_videos
from snvideo.data.index import IndexRow
from snvideo.data.indexing.build import build_index
from snvideo.data.indexing.listing import Listing
from snvideo.data.indexing.parts import Part, listing_digest, take_part
from snvideo.data.ray_pool import RayPool
from snvideo.engine.turns import ratio, take_turns

PARTS = 16
CLASSES = 400


def listing_of(rows: int) -> Listing:
    """A listing with paths and times like those of Kinetics, of videos that are not there."""
    listed = [
        IndexRow(
            f"some_action_or_other/{number:011d}_000001_000011.mp4",
            number % CLASSES,
            split="train",
            start=float(number),
            end=number + 10.0,
        )
        for number in range(rows)
    ]
    return Listing(listed, [f"action {number}" for number in range(CLASSES)], "generated")


def _driver(rows: int, pipe: Connection) -> None:
    """What a build has in memory beside its worker processes, step by step."""

    def peak() -> int:
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    before, begun = peak(), time.perf_counter()
    listing = listing_of(rows)
    figures: dict[str, Any] = {"rows": rows, "listing_bytes": peak() - before}
    figures["listing_seconds"] = time.perf_counter() - begun
    begun = time.perf_counter()
    listing_digest(listing, Path("videos"), "packets", remarks=False)
    figures["digest_seconds"] = time.perf_counter() - begun
    figures["with_digest_bytes"] = peak() - before
    begun = time.perf_counter()
    part = take_part(listing, Part(1, PARTS))
    figures["part_seconds"] = time.perf_counter() - begun
    figures["with_part_bytes"], figures["part_rows"] = peak() - before, len(part.rows)
    pipe.send(figures)


def memory(rows: int) -> dict[str, Any]:
    """Memory of the process that gives out the work of an index of so many rows."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    driver = context.Process(target=_driver, args=(rows, theirs))
    driver.start()
    theirs.close()
    figures = ours.recv()
    driver.join()
    return figures


@contextmanager
def cluster(nodes: int) -> Iterator[None]:
    """A Ray cluster on this machine, of nodes with one processor each, that is warm."""
    import ray
    from ray.cluster_utils import Cluster

    found = Cluster()
    found.add_node(num_cpus=0, include_dashboard=False)
    for _ in range(nodes):
        found.add_node(num_cpus=1)
    ray.init(found.address, log_to_driver=False)
    try:
        RayPool(found.address, _nothing, 1, 60.0).run(range(64 * nodes))
        yield
    finally:
        ray.shutdown()
        found.shutdown()


def _nothing(task: int) -> Iterator[int]:
    yield task


def rates(folder: Path, repeats: int, times: int) -> list[dict[str, Any]]:
    """Files a second of a build by packets, from the page cache, and ratios to one worker."""
    rows = [IndexRow(name, split="train") for name in scan_videos(folder)] * times
    listing = Listing(rows, ["any"], "a folder")

    def seconds(workers: int, ray: str | None) -> float:
        with tempfile.TemporaryDirectory() as scratch:
            begun = time.perf_counter()
            build_index(listing, folder, Path(scratch) / "index.csv", workers=workers, ray=ray)
            return time.perf_counter() - begun

    spent = {}
    for nodes in (1, 2):
        with cluster(nodes):
            turns = {
                f"{nodes} workers": lambda nodes=nodes: seconds(nodes, None),
                f"{nodes} Ray nodes": lambda: seconds(1, "auto"),
            }
            spent |= take_turns(turns, repeats, warm_up=1)
    base = spent["1 workers"]
    return [
        {
            "pool": name,
            "files": len(rows),
            "seconds": found,
            "files_per_second": len(rows) * len(found) / sum(found),
            "speed_of_one_worker": ratio(base, found)._asdict(),
        }
        for name, found in spent.items()
    ]


def main(
    videos: Annotated[Path | None, typer.Option(help="Folder of videos; toy ones if none.")] = None,
    times: Annotated[int, typer.Option(min=1, help="Times that each video is listed.")] = 6,
    repeats: Annotated[int, typer.Option(min=0, help="0: no rates, memory alone.")] = 3,
    rows: Annotated[list[int] | None, typer.Option(help="Rows to measure memory for.")] = None,
    out: Annotated[Path | None, typer.Option("--json", help="Where to write the figures.")] = None,
) -> None:
    """Measure rates of builds, and the memory of the process that gives out their work."""
    figures: dict[str, Any] = {"device": processor(), "cores": CORES}
    console = Console()
    figures["memory"] = [memory(number) for number in rows or ()]
    for row in figures["memory"]:
        table = Table("", "")
        for name, value in row.items():
            table.add_row(name, f"{value:,.1f}" if isinstance(value, float) else f"{value:,}")
        console.print(table)
    if repeats:
        with tempfile.TemporaryDirectory() as scratch:
            figures["rates"] = rates(find(videos, Path(scratch)), repeats, times)
        for row in figures["rates"]:
            low, middle, high = row["speed_of_one_worker"].values()
            console.print(
                f"{row['pool']}: {row['files_per_second']:.1f} files a second, "
                f"{middle:.2f} ({low:.2f}..{high:.2f}) of one worker's"
            )
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
