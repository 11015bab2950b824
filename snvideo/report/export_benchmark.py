"""Table of the latency and throughput of an exported network."""

import platform
from importlib.metadata import PackageNotFoundError, version

from snvideo.engine.export_benchmark import INT8, ExportBenchmark, Latency
from snvideo.engine.turns import WARM_UP, Quartiles
from snvideo.models.export import TOLERANCE
from snvideo.models.int8 import MEAN_TOLERANCE, TOP1_TOLERANCE
from snvideo.report.console import console, new_table


def print_benchmark(found: ExportBenchmark, clips: str) -> None:
    """Print the table, why rows are without times, and what logits were compared.

    Args:
        found: the benchmark.
        clips: what they are, as `random clips`.
    """
    out = console()
    columns = ("", "batch", "ms a batch", "clips/s", "time, eager = 1")
    out.print(new_table(*columns, rows=[_cells(row, found) for row in found.rows]))
    reasons = {row.name: row.reason for row in found.rows if row.reason}
    for name, reason in reasons.items():
        out.print(f"{name}: not measured: {reason}", markup=False, highlight=False)
    for name, agreement in list(found.agreements.items())[1:]:
        limit = f"{TOLERANCE:g}"
        if name == INT8:
            limit = f"top-1 {100 * TOP1_TOLERANCE:g} %, mean {MEAN_TOLERANCE:g}"
        said = "agrees" if found.agrees(name) else "differs"
        out.print(f"{name}: {said}: {agreement}; tolerance: {limit}", markup=False, highlight=False)
    threads = f"{found.threads} thread{'s' * (found.threads != 1)}"
    out.print(
        f"Median (quartiles) of {found.rounds} rounds in random order, after {WARM_UP} of warm-up; "
        f"{threads} each. Logits on {clips}, relative to the largest. "
        f"torch {version('torch')}, onnxruntime {_version('onnxruntime')}, "
        f"{platform.machine()}.",
        markup=False,
        highlight=False,
    )


def _cells(row: Latency, found: ExportBenchmark) -> list[str]:
    if row.seconds is None or row.ratio is None:
        return [row.name, f"{row.batch}", "not measured", "", ""]
    speed = f"{row.clips_per_second:.1f}"
    ratio = _spread(row.ratio, 2) if found.agrees(row.name) else "differs"
    milliseconds = Quartiles(*(1e3 * value for value in row.seconds))
    return [row.name, f"{row.batch}", _spread(milliseconds, 1), speed, ratio]


def _spread(values: Quartiles, digits: int) -> str:
    return f"{values.median:.{digits}f} ({values.low:.{digits}f}..{values.high:.{digits}f})"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "is not installed"
