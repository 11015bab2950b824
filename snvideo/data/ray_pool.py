"""Ray pool: tasks in chunks on the nodes of a Ray cluster, each chunk in a worker pool there."""

from __future__ import annotations

import logging
import re
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from snvideo.data.decoding import software
from snvideo.data.workers import Outcome, WorkerPool, discard_output
from snvideo.errors import SnvideoError
from snvideo.extras import require

RETRIES = 3
"""Times that a chunk is done again after the loss of its node or process."""
_PER_WORKER = 16  # tasks of a chunk for each of its workers: some seconds of work
_AHEAD = 4
"""Chunks under way for each that the cluster can do at once: one that is done again on another node
holds up the order but not the work. The driver holds no more than these."""
_PATIENCE = 10.0  # seconds for a cluster to answer
_LOOK = 60.0  # seconds of waiting from one look at the nodes to the next

log = logging.getLogger(__name__)

Task = TypeVar("Task")


class RayPool(Generic[Task]):
    """Nodes of a Ray cluster that work on tasks, outcomes in the order of the tasks.

    Every node must have this package, of the same version, and see the same folders.

    Args:
        address: of the cluster: `auto` is the one that runs here, `local` begins one on this
            machine alone, others are `host:port` and `ray://host:port`. Where Ray is initialized
            already, that is used.
        function, timeout, ahead: as for `snvideo.data.workers.WorkerPool`.
        workers: processes of a chunk, each of which takes a processor of its node; no more than
            the smallest node has.
        folders: that tasks read and write, which a node must have.
        describe: names a task in messages.

    Raises:
        MissingExtraError: if Ray is not installed.
        SnvideoError: if there is no cluster at the address, or no processor in it.
    """

    def __init__(
        self,
        address: str,
        function: Callable[[Task], Iterator[Any]],
        workers: int,
        timeout: float,
        *,
        ahead: int = 2,
        folders: Sequence[Path] = (),
        describe: Callable[[Task], str] = str,
    ) -> None:
        require("ray", "Ray clusters")
        import ray

        self._ray, self._describe = ray, describe
        self._joined = not ray.is_initialized()
        if self._joined:
            _join(address)
        sizes = self._processors()
        if not sizes:
            self.close()
            raise SnvideoError(f"ray {address}: no node has a processor to give: add nodes")
        workers = min(workers, *sizes)
        self._chunk, self._most = _PER_WORKER * workers, _AHEAD * sum(n // workers for n in sizes)
        self._work = _Chunk(function, workers, timeout, ahead, folders, software())
        self._running: deque[tuple[list[Task], Any]] = deque()

    def run(self, tasks: Iterable[Task]) -> Iterator[Outcome]:
        """Outcomes of tasks; a `SnvideoError` if a chunk of them fails for good, which names it."""
        remote = self._ray.remote(
            num_cpus=self._work.workers, max_retries=RETRIES, scheduling_strategy="SPREAD"
        )(_do_chunk)
        iterator = iter(tasks)
        while True:
            while len(self._running) < self._most and (
                chunk := list(islice(iterator, self._chunk))
            ):
                self._running.append((chunk, remote.remote(self._work, chunk)))
            if not self._running:
                return
            outcomes = self._outcomes(*self._running[0])
            self._running.popleft()
            yield from outcomes

    def _outcomes(self, chunk: list[Task], reference: Any) -> list[Outcome]:
        try:
            while not self._ray.wait([reference], timeout=_LOOK)[0]:
                if max(self._processors(), default=0) < self._work.workers:
                    log.warning("ray: no node is left that could go on: waiting for one")
            return list(self._ray.get(reference))
        except SnvideoError as error:  # Ray has put a traceback around it
            raise SnvideoError(str(getattr(error, "cause", error))) from None
        except self._ray.exceptions.RayTaskError:  # a fault of ours
            raise
        except self._ray.exceptions.RayError as error:
            first, last = self._describe(chunk[0]), self._describe(chunk[-1])
            raise SnvideoError(
                f"ray: the {len(chunk)} videos from {first} to {last} failed again after {RETRIES} "
                f"retries: {type(error).__name__}: {_first_sentence(error)}: mend that, and call "
                "again to go on"
            ) from None

    def _processors(self) -> list[int]:
        """Processors of each node that has some."""
        nodes = (node["Resources"] for node in self._ray.nodes() if node["Alive"])
        return [int(resources["CPU"]) for resources in nodes if resources.get("CPU", 0) >= 1]

    def close(self) -> None:
        """Stop what is under way, and leave the cluster if this pool has joined it."""
        for _, reference in getattr(self, "_running", ()):
            self._ray.cancel(reference)
        if self._joined:
            self._ray.shutdown()


def video_pool(
    function: Callable[[Task], Iterator[Any]],
    workers: int,
    timeout: float,
    *,
    ray: str | None,
    folders: Sequence[Path],
    describe: Callable[[Task], str],
    ahead: int = 2,
    window: int,
) -> RayPool[Task] | WorkerPool[Task]:
    """A pool for native code that may print, hang and crash: on this machine, or on the Ray cluster
    of an address."""
    if ray is not None:
        places = [folder.absolute() for folder in folders]
        return RayPool(
            ray, function, workers, timeout, ahead=ahead, folders=places, describe=describe
        )
    return WorkerPool(
        function, workers, timeout, ahead=ahead, window=window, initializer=discard_output
    )


class _Chunk(NamedTuple):
    """Settings of all chunks."""

    function: Callable[[Any], Iterator[Any]]
    workers: int
    timeout: float
    ahead: int
    folders: Sequence[Path]
    software: dict[str, Any]  # of the driver


def _do_chunk(work: _Chunk, tasks: list[Any]) -> list[Outcome]:
    """Work on a chunk of tasks, in a process of Ray on some node."""
    here, found = f"ray node {socket.gethostname()}", software()
    for name, expected in work.software.items():
        if found[name] != expected:
            raise SnvideoError(
                f"{here}: {name} is {found[name]}, where the command was called it is {expected}: "
                "install the same there"
            )
    for folder in work.folders:
        if not folder.is_dir():
            raise SnvideoError(f"{here}: no folder {folder}: let all nodes see it under that path")
    pool = WorkerPool(
        work.function,
        min(work.workers, len(tasks)),
        work.timeout,
        start_method="fork",  # quick, and Ray's own threads are not used in the children
        ahead=work.ahead,
        window=len(tasks),
        initializer=discard_output,
    )
    with closing(pool):
        return list(pool.run(tasks))


def _join(address: str) -> None:
    import ray

    try:
        if place := re.fullmatch(r"(?:ray://)?(.+):(\d+)", address):  # else Ray tries for minutes
            socket.create_connection((place[1], int(place[2])), _PATIENCE).close()
        ray.init(address, log_to_driver=False, logging_level=logging.WARNING)
    except (OSError, OverflowError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        ray.shutdown()
        raise SnvideoError(
            f"ray {address}: no cluster answers: {_first_sentence(error)}: begin one with 'ray "
            "start', or give its address"
        ) from None


def _first_sentence(error: Exception) -> str:
    """The beginning of a message, which Ray's go on from."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].partition(". ")[0].rstrip(".:")
