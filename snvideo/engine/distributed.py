"""The processes of a run, as torchrun started them, or the only one."""

import gc
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from snvideo.errors import ReportedError, SnvideoError

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """This process among those of the run."""

    rank: int
    count: int
    device: torch.device
    talk: Any = field(default=None, repr=False)
    """Process group for words between steps. It is one of the CPU, whatever the network runs on:
    nothing on a GPU is waited for."""

    @property
    def main(self) -> bool:
        """Whether this process writes files and log lines."""
        return self.rank == 0

    def gather(self, value: Any) -> list[Any]:
        """One picklable value of every process, in the order of their ranks, on all of them."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value, group=self.talk)
        return values

    def share(self, value: Any) -> Any:
        """The main process's value, which is picklable, on all processes."""
        if self.count == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0, group=self.talk)
        return values[0]

    def by_main(self, work: Callable[[], T]) -> T:
        """Let the main process do something, and all know what came of it.

        Raises:
            SnvideoError: on all processes, if it did on the main one, which alone explains it.
        """
        value, error = None, None
        if self.main:
            try:
                value = work()
            except SnvideoError as caught:
                error = caught
        value, failed = self.share((value, error is not None))
        if error is not None:
            raise error
        if failed:
            raise ReportedError("the main process says why")
        return value

    def wait(self) -> None:
        """Until every process is here."""
        if self.count > 1:
            dist.barrier(group=self.talk)


class Vote:
    """Yes if any process says so, on all processes at the same step.

    The answer travels while the step is under way, so asking costs no time.
    """

    def __init__(self, processes: Processes, *opinions: bool) -> None:
        self._votes = torch.tensor(opinions, dtype=torch.int32)
        self._work = None
        if processes.count > 1:
            self._work = dist.all_reduce(
                self._votes, dist.ReduceOp.MAX, group=processes.talk, async_op=True
            )

    def result(self) -> list[bool]:
        """The answers, in the order of the questions."""
        if self._work is not None:
            self._work.wait()
        return [bool(vote) for vote in self._votes.tolist()]


@contextmanager
def joined() -> Iterator[Processes]:
    """Join the process group that torchrun describes: nccl on GPUs, gloo elsewhere."""
    rank, count = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device)
    else:
        device = torch.device("cpu")
    logging.getLogger("snvideo").setLevel(logging.INFO if rank == 0 else logging.WARNING)
    if count == 1:
        yield Processes(rank, count, device)
        return
    _join("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Processes(rank, count, device, dist.new_group(backend="gloo"))
    finally:
        # A network that was joined to its copies refers to itself, and holds threads that want the
        # interpreter's lock; found only while the interpreter shuts down, they abort the process.
        gc.collect()
        dist.destroy_process_group()


def _join(backend: str) -> None:
    """Form the process group.

    torchrun keeps its store when it starts processes again, with the addresses of those that are
    gone: each attempt has names of its own there. Nodes may count attempts differently, so of
    several nodes it is torchrun that has to take a new store, see docs/training.md.
    """
    store, rank, count = next(dist.rendezvous("env://"))
    if os.environ.get("GROUP_WORLD_SIZE", "1") == "1":
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = dist.PrefixStore(f"attempt{attempt}", store)
    dist.init_process_group(backend, store=store, rank=rank, world_size=count)
