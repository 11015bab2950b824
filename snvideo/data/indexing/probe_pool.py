"""Probing many files at once, in processes that may crash or hang without stopping the rest."""

from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

from snvideo.data.indexing.probe import Check, Probe, stages
from snvideo.data.workers import Outcome, run_all


def probe_all(
    paths: Iterable[Path], check: Check, workers: int, limit: float = 120.0
) -> Iterator[Probe]:
    """Probes files in parallel; yields their verdicts in the order of the paths.

    A file that PyAV had read before decord died is usable, by PyAV.

    Args:
        paths: files to look into.
        check: how thoroughly, see `probe.stages`.
        workers: processes, at least 1.
        limit: seconds after which a file that gives no answer is given up.
    """
    names = map(str, paths)
    function = f"{__name__}:probe_stages"
    with closing(run_all(function, names, workers, limit, check=check)) as outcomes:
        yield from map(_verdict, outcomes)


def probe_stages(path: str, check: Check) -> Iterator[Probe]:
    """`probe.stages` as a worker process calls it."""
    return stages(Path(path), check)


def _verdict(outcome: Outcome) -> Probe:
    found = None if outcome.answer is None else Probe(*outcome.answer)
    if outcome.failure is None:
        return found
    failure = outcome.failure.partition(":")[0]  # without the message: alike for all like cases
    if found is None:
        return Probe(status="broken", reason=f"decoder {failure}")
    return found._replace(reason=f"{found.reason}; decord {failure}".removeprefix("; "))
