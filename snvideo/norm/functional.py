"""Switchable and Batch Normalization as functions, over ghost groups and over processes."""

import torch
from torch import Tensor

from snvideo.norm import reference
from snvideo.norm.checks import check_storage, check_table
from snvideo.norm.distributed import ProcessGroup, global_moments
from snvideo.norm.kernels import autograd, tables
from snvideo.norm.mixture import BATCH_ALONE, ONE_SAMPLE, PAPER, MixtureSpec
from snvideo.norm.running import RunningStatistics


def switch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    mean_logits: Tensor,
    var_logits: Tensor,
    training: bool,
    momentum: float | Tensor = 0.1,
    eps: float = 1e-5,
    *,
    group_size: int | None = None,
    process_group: ProcessGroup | None = None,
    unbiased: bool = False,
    mixture: MixtureSpec | None = None,
) -> Tensor:
    r"""Switchable Normalization of x, as `torch.nn.functional.batch_norm` is Batch Normalization.

    The mathematics is in `snvideo.norm.reference`.

    Args:
        x: (N, C, \*S), floating point, of any memory format.
        running_mean, running_var: (C,) batch statistics for evaluation, or None to take them from
            the batch at hand always. Updated in place while training, once a call, with the mean
            over the ghost groups.
        weight, bias: (C,) or None.
        mean_logits, var_logits: (parts,), in the order of the mixture's parts.
        training: take the batch statistics of x.
        momentum: weight of the new value in the running statistics.
        eps: added to the variance.
        group_size: samples in a ghost group (Hoffer et al., NeurIPS 2017, arXiv 1705.08741): while
            training, batch statistics are those of so many consecutive samples, as if each group
            were a batch; None: of the whole batch.
        process_group: while training, take batch statistics over the batches of all its processes,
            which need not be equal; None: over that of this process.
        unbiased: store the unbiased variance, as Batch Normalization does.
        mixture: the parts that are mixed; None: three logits are those of instance, layer and
            batch, as in the paper, and two those of instance and layer, as is right for one sample
            at a time, where batch and instance statistics are equal.

    Returns:
        a tensor of the shape, dtype and memory format of x.

    Raises:
        ValueError: if, while training, the samples do not make whole groups, or there are both
            groups and processes to take batch statistics over; for a mean without a variance.
        RuntimeError: for a parameter or statistic of another length or device, or without data.
    """
    if mixture is None:
        mixture = PAPER if len(mean_logits) == 3 else ONE_SAMPLE
    if (running_mean is None) is not (running_var is None):
        raise ValueError("expected running_mean and running_var both, or neither")
    parameters = reference.Parameters(weight, bias, mean_logits, var_logits)
    readable = False
    if not torch.compiler.is_compiling():
        readable = _check(x, (running_mean, running_var), parameters, mixture)
    if x.numel() == 0 and process_group is None:
        # As Batch Normalization: nothing comes out, nothing is stored, and gradients are zero.
        sums = [table.sum() for table in parameters if table is not None]
        return x * torch.stack(sums).sum().to(x.dtype)
    batch_part = "batch" in mixture.parts
    stored = None
    if batch_part and not training and running_mean is not None and running_var is not None:
        stored = running_mean, running_var
    grouped = batch_part and training
    running = None
    if grouped and running_mean is not None and running_var is not None:
        running = RunningStatistics(running_mean, running_var, momentum, unbiased)
    y, _ = _normalize(
        x,
        parameters,
        mixture,
        stored,
        _groups(len(x), group_size, process_group) if grouped else 1,
        process_group if grouped else None,
        eps,
        running,
        readable,
    )
    return y


def normalize_batch(
    x: Tensor, eps: float, group_size: int | None, process_group: ProcessGroup | None
) -> tuple[Tensor, reference.BatchStatistics]:
    """Normalize x by its batch statistics alone, and return these; arguments of `switch_norm`."""
    only = x.new_zeros(1)
    y, batch = _normalize(
        x,
        reference.Parameters(None, None, only, only),
        BATCH_ALONE,
        None,
        _groups(len(x), group_size, process_group),
        process_group,
        eps,
        None,
        True,
    )
    assert batch is not None
    return y, batch


def batch_statistics(
    x: Tensor, group_size: int | None = None, process_group: ProcessGroup | None = None
) -> reference.BatchStatistics:
    """Batch statistics of x, as a norm takes them while training.

    Args:
        x: (N, C, \\*S), floating point.
        group_size, process_group: as for `switch_norm`.
    """
    groups = _groups(len(x), group_size, process_group)
    kernels = autograd.kernels_for(x)
    if kernels is None or x.numel() == 0:
        mean, variance = tables.batch_moments(instance_statistics(x), groups)
    else:
        batch = kernels.statistics(x, groups).batch
        assert batch is not None
        mean, variance = batch
    values = x.numel() // (groups * x.shape[1])
    count: int | Tensor = values
    if process_group is not None:
        mean, variance, count = global_moments(mean, variance, values, process_group)
    return reference.BatchStatistics(mean, variance, count)


def instance_statistics(x: Tensor) -> Tensor:
    """Means and biased variances of every sample and channel over positions, float64 (2, N, C).

    Args:
        x: (N, C, \\*S), floating point, of any memory format.
    """
    kernels = autograd.kernels_for(x)
    if kernels is not None and x.numel():
        return kernels.statistics(x, None).instance.double()
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return torch.stack(reference.instance_moments(wide)).double()


def _check(
    x: Tensor,
    running: tuple[Tensor | None, Tensor | None],
    parameters: reference.Parameters,
    mixture: MixtureSpec,
) -> bool:
    """Raise for what the formulas would take wrongly, and kernels read beyond its end.

    Returns True if all values can be read from memory.
    """
    if x.dim() < 2 or not x.is_floating_point():
        raise ValueError(f"expected floating point (N, C, ...) (got {x.dtype} {tuple(x.shape)})")
    channels, parts = x.shape[1], len(mixture.parts)
    readable = check_storage("input", x)
    readable &= check_table("running_mean", running[0], channels, x)
    readable &= check_table("running_var", running[1], channels, x)
    readable &= check_table("weight", parameters.weight, channels, x)
    readable &= check_table("bias", parameters.bias, channels, x)
    readable &= check_table("mean_logits", parameters.mean_logits, parts, x)
    readable &= check_table("var_logits", parameters.var_logits, parts, x)
    if channels % mixture.channel_groups:
        raise ValueError(f"{channels} channels are not {mixture.channel_groups} equal groups")
    return readable


def _normalize(
    x: Tensor,
    parameters: reference.Parameters,
    mixture: MixtureSpec,
    stored: tuple[Tensor, Tensor] | None,
    groups: int,
    process_group: ProcessGroup | None,
    eps: float,
    running: RunningStatistics | None,
    readable: bool,
) -> tuple[Tensor, reference.BatchStatistics | None]:
    """As `reference.normalize`, by kernels where they pay; running statistics are updated.

    Kernels can do it if all values are readable from memory, and do not pay for operations that a
    compiler or exporter has to trace. Batch statistics are returned where no running ones ask for
    them.
    """
    kernels = None
    if readable and not (torch.compiler.is_compiling() or torch.jit.is_tracing()):
        kernels = autograd.kernels_for(x)
    settings = mixture, stored, groups, process_group, eps
    if kernels is not None:
        return autograd.normalize_by_kernels(kernels, x, parameters, *settings, running)
    y, batch = reference.normalize(x, parameters, *settings)
    if running is not None and batch is not None:
        running.update(batch)
    return y, batch


def _groups(samples: int, group_size: int | None, process_group: ProcessGroup | None) -> int:
    """Number of ghost groups of a batch."""
    if group_size is None:
        return 1
    if process_group is not None:
        raise ValueError("batch statistics are taken over ghost groups or over processes, not both")
    if group_size < 1 or samples % group_size:
        raise ValueError(f"expected a batch of whole groups of {group_size} (got {samples})")
    return samples // group_size
