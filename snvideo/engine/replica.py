"""What forward passes go through: the network, compiled and joined to its copies."""

import warnings
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from snvideo.engine.distributed import Processes


def replicate(
    model: nn.Module, processes: Processes, compiled: bool, on_bucket: Callable[[], None]
) -> nn.Module:
    """Join a network to its copies on other processes, which average their gradients in backward.

    Args:
        model: on this process's device.
        processes: those of the run; alone, nothing is joined.
        compiled: by torch.compile. The model itself stays as it is, and is what is evaluated.
        on_bucket: called whenever a bucket of gradients is ready to be averaged. What backward does
            after the last is waiting for others.
    """
    replica = torch.compile(model, dynamic=False) if compiled else model
    if processes.count == 1:
        return replica
    device = processes.device
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the newer name is not in older versions
        replica = DistributedDataParallel(
            replica,
            device_ids=[device.index] if device.type == "cuda" else None,
            broadcast_buffers=False,  # statistics are averaged once a step instead
        )

    # DDP reads the annotations, so they may not be text.
    def average(state: object, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        on_bucket()
        return allreduce_hook(None, bucket)

    replica.register_comm_hook(None, average)
    return replica
