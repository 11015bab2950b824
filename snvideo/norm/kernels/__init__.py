"""Kernels of Switchable Normalization for each device."""

import torch


def description(device: torch.device | str) -> str:
    """Name the kernels that run on a device, for logs and reports."""
    from snvideo.norm.kernels import cpu, cuda  # they import this package

    kind = torch.device(device).type
    if kind == "cpu" and cpu.available():
        return "C++"
    if kind == "cuda" and cuda.available():
        return "Triton"
    reason = "no compiled library, about four times slower" if kind == "cpu" else "slower"
    return f"plain PyTorch operations: {reason}"
