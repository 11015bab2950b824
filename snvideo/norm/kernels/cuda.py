"""The four stages of Switchable Normalization on a GPU: Triton passes, and tables between them.

The functions are those of `snvideo.norm.kernels.cpu`, which says what they take and return.
"""

import warnings
from functools import cache

import torch
from torch import Tensor

from snvideo.norm.kernels import tables
from snvideo.norm.kernels import triton as passes


@cache
def available() -> bool:
    """True if Triton is there and its kernels run; tested by running one, once."""
    if not passes.available():
        return False
    try:
        passes.moments(torch.ones(1, 1, 2, device="cuda"))
        torch.cuda.synchronize()
    except Exception as error:  # of a driver, of a compiler that is missing, of Triton itself
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        warnings.warn(f"Triton kernels do not run, norms are slower: {reason}", stacklevel=2)
        return False
    return True


def statistics(x: Tensor, groups: int | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Moments of x."""
    center, moments = passes.moments(x)
    return center, moments, None if groups is None else tables.batch_moments(moments, groups)


def normalized(
    x: Tensor,
    center: Tensor,
    moments: Tensor,
    batch: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    mean_logits: Tensor,
    var_logits: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """y = (x - center) * scale + shift."""
    scale, shift, offset, rstd = tables.mixture(
        center, moments, batch, weight, bias, mean_logits, var_logits, eps
    )
    return passes.affine(x, center, scale, shift), scale, offset, rstd


def table_gradients(
    dy: Tensor,
    x: Tensor,
    center: Tensor,
    moments: Tensor,
    batch: Tensor | None,
    offset: Tensor,
    rstd: Tensor,
    weight: Tensor | None,
    mean_logits: Tensor,
    var_logits: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """The gradients of the parameters and of the moments."""
    total, dot = passes.sums(dy, x, center)
    return tables.mixture_gradient(
        total, dot, offset, rstd, moments, batch, weight, mean_logits, var_logits
    )


def x_gradient(
    dy: Tensor,
    x: Tensor,
    center: Tensor,
    scale: Tensor,
    moments: Tensor,
    batch: Tensor | None,
    dinstance: Tensor,
    dbatch: Tensor | None,
) -> Tensor:
    """dx = dy * scale + (x - center) * slope + level."""
    positions = x.numel() // center.numel()
    slope, level = tables.slope_and_level(dinstance, dbatch, center, moments, batch, positions)
    return passes.affine(x, center, slope, level, dy, scale)
