"""Process group of a run, as torchrun describes it, and the network in it."""

import gc
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from snvideo.errors import ReportedError, SnvideoError

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """All processes of a run, and which of them this one is."""

    rank: int
    size: int
    device: torch.device
    group: dist.ProcessGroup | None = field(default=None, repr=False)
    """For messages between steps; of the CPU, so that nothing on a GPU is waited for."""

    @property
    def is_main(self) -> bool:
        """True on the process that writes files and log lines."""
        return self.rank == 0

    def gather(self, value: T) -> list[T]:
        """One picklable value of every process, in the order of their ranks, on all of them."""
        if self.size == 1:
            return [value]
        values = [value] * self.size
        dist.all_gather_object(values, value, group=self.group)
        return values

    def on_main(self, work: Callable[[], T]) -> T:
        """Call a function on the main process, and return its picklable result on all.

        If it raises SnvideoError, all processes do; the main one alone explains it.
        """
        result, error = None, None
        if self.is_main:
            try:
                result = work()
            except SnvideoError as caught:
                error = caught
        shared = [result, error is not None]
        if self.size > 1:
            dist.broadcast_object_list(shared, src=0, group=self.group)
        if shared[1]:
            raise error or ReportedError("the main process says why")
        return cast(T, shared[0])

    def main_first(self, work: Callable[[], T]) -> T:
        """Call a function on the main process, then on the others; each returns its own result."""
        results: list[T] = []
        self.on_main(lambda: results.append(work()))
        return results[0] if results else work()

    def barrier(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            dist.barrier(group=self.group)


@contextmanager
def init_world() -> Iterator[World]:
    """Initialise the process group that torchrun describes: nccl on GPUs, gloo elsewhere.

    Raises SnvideoError if there are more processes on this machine than GPUs.
    """
    rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if torch.cuda.is_available():
        place, gpus = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
        if place >= gpus:
            raise SnvideoError(
                f"process {place + 1} of this machine has no GPU, there are {gpus}: one process a "
                "GPU (torchrun --nproc-per-node, study.processes)"
            )
        device = torch.device("cuda", place)
        torch.cuda.set_device(device)
    else:
        device = torch.device("cpu")
    logging.getLogger("snvideo").setLevel(logging.INFO if rank == 0 else logging.WARNING)
    if size == 1:
        yield World(rank, size, device)
        return
    # torchrun keeps its store, with the addresses of dead processes, when it starts them again: a
    # prefix for each attempt. Several nodes may count attempts differently, see docs/training.md.
    store, rank, size = next(dist.rendezvous("env://"))
    if os.environ.get("GROUP_WORLD_SIZE", "1") == "1":
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = dist.PrefixStore(f"attempt{attempt}", store)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size)
    try:
        # For a member of the group, which every process is, it is never the number of others.
        yield World(rank, size, device, cast(dist.ProcessGroup, dist.new_group(backend="gloo")))
    finally:
        # A DistributedDataParallel network is in a reference cycle; its threads abort the
        # interpreter if they are collected only at its shutdown.
        gc.collect()
        dist.destroy_process_group()


def parallelize(
    model: nn.Module, world: World, compiled: bool, on_bucket: Callable[[], None]
) -> nn.Module:
    """Compile a network and wrap it in DistributedDataParallel, where there is a need.

    The model itself stays as it is, and is what is evaluated. `on_bucket` is called whenever a
    bucket of gradients is ready to be averaged; after the last, backward waits for others.
    """
    network = cast(nn.Module, torch.compile(model, dynamic=False)) if compiled else model
    if world.size == 1:
        return network
    device = world.device
    # Of kernels of one position, whose strides can be written in several ways: nothing is lost.
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides", UserWarning)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the newer name is not in older versions
        wrapped = DistributedDataParallel(
            network,
            device_ids=[device.index] if device.type == "cuda" else None,
            broadcast_buffers=False,  # statistics are averaged once a step instead
        )

    # DDP reads the annotations, so they may not be text.
    def average(state: object, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        on_bucket()
        return allreduce_hook(wrapped.process_group, bucket)

    wrapped.register_comm_hook(None, average)
    return wrapped
