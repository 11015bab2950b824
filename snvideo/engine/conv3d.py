"""Self-test of 3D convolutions in half precision, at the start of a training."""

import time

import torch
from torch import nn

TOLERANCE = 0.05
"""Largest error, of the largest value; with sums in float32 it is far less."""

SLOWDOWN = 3.0
"""Times float32's time that are no noise; a path that is meant takes less than once."""

REMEDY = (
    "take another cuDNN (pip install -U nvidia-cudnn-cu12 or -cu13), or train with speed.amp=none"
)

_SHAPE, _KERNEL, _RUNS = (2, 64, 8, 28, 28), (3, 3, 3), 5


def compare_conv3d(dtype: torch.dtype, device: torch.device) -> tuple[float, float]:
    """Error of a convolution in a dtype, of the largest value, and its time by float32's."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(_SHAPE, generator=generator).to(device)
    weight = torch.randn((_SHAPE[1], _SHAPE[1], *_KERNEL), generator=generator).to(device)
    outputs, seconds = [], []
    for chosen in (torch.float32, dtype):
        given, kernel = x.to(chosen), weight.to(chosen)
        for run in range(_RUNS + 1):  # the first one finds its algorithm
            if run == 1:
                _wait_for(device)
                begun = time.perf_counter()
            y = nn.functional.conv3d(given, kernel, padding=1)
        _wait_for(device)
        seconds.append(time.perf_counter() - begun)
        outputs.append(y.float())
    expected, found = outputs
    error = (found - expected).abs().max() / expected.abs().max()
    return error.item(), seconds[1] / seconds[0]


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def conv3d_warning(dtype: torch.dtype, device: torch.device) -> str | None:
    """Warning where the convolutions of a training are slow or wrong; on GPUs alone.

    Some pairs of torch and cuDNN take a slow path for convolutions over time in half precision, or
    a wrong one.

    Args:
        dtype: of the convolutions.
        device: of the training.
    """
    if device.type != "cuda" or dtype == torch.float32:
        return None
    error, slowdown = compare_conv3d(dtype, device)
    wrong = not error <= TOLERANCE  # NaN, too
    if not wrong and slowdown <= SLOWDOWN:
        return None
    name = str(dtype).removeprefix("torch.")
    fault = f"off by {error:.1%}" if wrong else f"{slowdown:.1f} times as slow as in float32"
    return (
        f"3D convolutions in {name} are {fault} (torch {torch.__version__}, cuDNN "
        f"{torch.backends.cudnn.version()}): {REMEDY}"
    )
