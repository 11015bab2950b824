"""Memory that a piece of work keeps for its backward pass, and takes at most."""

import os
from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.profiler import ProfilerActivity, profile


def saved_bytes(forward: Callable[[], Tensor], lasting: Iterable[Tensor]) -> int:
    """Bytes of all memory that a forward pass keeps for the backward pass.

    Args:
        forward: the pass.
        lasting: tensors that are there anyhow, as a layer's parameters, and do not count.
    """
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        memory = tensor.untyped_storage()
        sizes[memory.data_ptr()] = memory.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        y = forward()
    for tensor in lasting:
        sizes.pop(tensor.untyped_storage().data_ptr(), None)
    del y  # until here it has kept all that was counted, so no address stands for two
    return sum(sizes.values())


def peak_bytes(work: Callable[[], object], device: torch.device) -> int:
    """The most bytes that work holds at any time, beyond what was there before."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # says when it starts and stops, on stderr
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    # What `profiler.events()` offers is summed up by operation, where a peak cannot be seen.
    events = [event for event in profiler.profiler.kineto_results.events() if event.nbytes()]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak
