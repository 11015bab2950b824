"""Speed switches, set by the hardware where the config leaves them open."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import torch

from snvideo.engine.config import SpeedConfig

LONG_RUN = 3000  # optimizer steps from which on torch.compile pays

DTYPES = {"none": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose(config: SpeedConfig, device: torch.device, steps: int) -> SpeedConfig:
    """Set every switch that the config leaves open, for a run of so many optimizer steps."""
    gpu = device.type == "cuda"
    chosen: dict[str, Any] = {
        "amp": precision(config, device),
        "channels_last": True,
        "compile": gpu and steps >= LONG_RUN and find_spec("triton") is not None,
        "optimizer": "fused",
        "prefetch": gpu,
        # 3D pooling has no deterministic backward on a GPU, where the choice costs speed, too.
        "deterministic": not gpu,
        "keep_memory": not gpu,
    }
    for name in chosen:
        if (wanted := getattr(config, name)) not in (None, "auto"):
            chosen[name] = wanted
    chosen["prefetch"] &= gpu
    return config.model_copy(update=chosen)


def precision(config: SpeedConfig, device: torch.device) -> str:
    """Precision of convolutions: bfloat16 on GPUs that have it."""
    if config.amp != "auto":
        return config.amp
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported(False) else "none"


def memory_format(config: SpeedConfig) -> torch.memory_format:
    """Memory format of activations and weights: channels last unless that is switched off."""
    return torch.contiguous_format if config.channels_last is False else torch.channels_last_3d


def autocast(config: SpeedConfig, device: torch.device) -> torch.autocast:
    """Autocast of forward passes."""
    chosen = precision(config, device)
    return torch.autocast(device.type, dtype=DTYPES[chosen], enabled=chosen != "none")


def keep_freed_memory() -> bool:
    """Let this process's C library keep freed blocks of up to 32 MiB, the most that glibc allows.

    It returns them to the system otherwise, whose fresh pages cost a CPU more than a small norm.
    Returns False if it cannot.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    mmap_threshold, trim_threshold = -3, -1  # of malloc.h
    return bool(mallopt(mmap_threshold, 32 * 2**20) and mallopt(trim_threshold, 2**30))


@contextmanager
def algorithms(speed: SpeedConfig, device: torch.device) -> Iterator[None]:
    """Set torch's deterministic or fastest algorithms within the block.

    Operations without a deterministic form are errors of torch on a CPU, and warnings on a GPU.
    """
    mode = torch.get_deterministic_debug_mode()
    # torch.utils.deterministic is a module of properties, which types do not show.
    memory: Any = torch.utils.deterministic
    filled = memory.fill_uninitialized_memory
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.deterministic
    # oneDNN's bfloat16 weight gradient of 3D convolutions holds NaN now and then on some CPUs (AMD
    # EPYC with avx512_bf16: 4 of 30 random stems).
    half_on_cpu = speed.amp != "none" and device.type == "cpu"
    torch.use_deterministic_algorithms(bool(speed.deterministic), warn_only=device.type == "cuda")
    memory.fill_uninitialized_memory = False  # it takes time; none is read
    cudnn.benchmark, cudnn.deterministic = not speed.deterministic, bool(speed.deterministic)
    onednn = torch.backends.mkldnn.set_flags(False)[0] if half_on_cpu else True
    try:
        yield
    finally:
        if half_on_cpu:
            torch.backends.mkldnn.set_flags(onednn)
        torch.set_deterministic_debug_mode(mode)
        memory.fill_uninitialized_memory = filled
        cudnn.benchmark, cudnn.deterministic = before
