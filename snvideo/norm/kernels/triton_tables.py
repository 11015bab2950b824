"""The arithmetic of `snvideo.norm.kernels.tables` as Triton kernels, one or two launches a stage.

As operations of torch, a layer's tables take some sixty launches, each longer than its work. Here a
program holds the channels of one sample, as groups of the group part by channels of a group; sums
over samples are taken in a fixed order.
"""

from typing import Any

import torch
from torch import Tensor

from snvideo.norm.kernels.tables import Mixture, Moments, TableGradients
from snvideo.norm.kernels.triton import OPTIONS
from snvideo.norm.mixture import PARTS, MixtureSpec
from snvideo.norm.reference import Parameters

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

CHANNEL_BLOCK = 128
"""Channels of a program that sums over samples."""


def mixture(
    moments: Moments, parameters: Parameters, spec: MixtureSpec, eps: float
) -> tuple[Mixture, Tensor]:
    """The mixture of the moments, and the shift (N, C); as `tables.mixture`, in one launch."""
    scale, shift, offset, rstd = moments.instance.new_empty((4, *moments.center.shape))
    with torch.cuda.device_of(scale):
        _mixture_kernel[(len(scale),)](
            *(moments.center.contiguous(), *_tables(moments), *_contiguous(parameters)),
            *(scale, shift, offset, rstd),
            *(eps, *_sizes(moments), *_blocks(spec, scale.shape[1])),
            **_mixed(spec),
        )
    return Mixture(scale, offset, rstd), shift


def mixture_gradient(
    total: Tensor,
    dot: Tensor,
    moments: Moments,
    mixed: Mixture,
    parameters: Parameters,
    spec: MixtureSpec,
) -> TableGradients:
    """The gradients of `mixture` and of the affine map, as `tables` has them, in two launches."""
    samples, channels = total.shape
    instance, batch = moments.instance, moments.batch
    weight, _, *both_logits = _contiguous(parameters)
    sums = _contiguous((total, dot, mixed.offset, mixed.rstd))
    dinstance = torch.empty_like(instance)
    dratios = instance.new_empty((samples, 2, len(PARTS)))
    dweight, dbias = instance.new_empty((2, channels))
    dlogits = instance.new_empty((2, len(spec.parts)))
    dbatch = None if batch is None else torch.empty_like(batch)
    with torch.cuda.device_of(total):
        _sample_gradient_kernel[(samples,)](
            *(*sums, *_tables(moments), weight, *both_logits, *dinstance, dratios),
            *(*_sizes(moments), *_blocks(spec, channels)),
            **_mixed(spec),
        )
        _sum_gradient_kernel[(triton.cdiv(channels, CHANNEL_BLOCK),)](
            *(*sums, weight, *both_logits, dratios, dweight, dbias, *dlogits),
            *((None, None) if dbatch is None else dbatch),
            *(*_sizes(moments), samples, CHANNEL_BLOCK),
            **_mixed(spec),
        )
    return TableGradients(dweight, dbias, dlogits, dinstance, dbatch)


def _contiguous(tables: Any) -> list[Tensor | None]:
    return [None if table is None else table.contiguous() for table in tables]


def _tables(moments: Moments) -> list[Tensor | None]:
    """Means and variances, of instances and of batches."""
    batch = (None, None) if moments.batch is None else moments.batch
    return _contiguous((*moments.instance, *batch))


def _sizes(moments: Moments) -> tuple[int, int]:
    """Samples of a ghost group, and channels."""
    samples, channels = moments.center.shape
    groups = 1 if moments.batch is None else moments.batch.shape[1]
    return max(1, samples // groups), channels


def _blocks(spec: MixtureSpec, channels: int) -> tuple[int, int, int]:
    """Channels of a group of the group part, and powers of two for groups and channels of one."""
    width = channels // spec.channel_groups
    return width, *(triton.next_power_of_2(size) for size in (spec.channel_groups, width))


def _mixed(spec: MixtureSpec) -> dict[str, Any]:
    """Number of parts, the place of each among the logits (-1 for none), and launch options."""
    places = {p.upper(): spec.parts.index(p) if p in spec.parts else -1 for p in PARTS}
    return {"COUNT": len(spec.parts), **places, "L1": spec.ratios == "l1", **OPTIONS}


if triton is not None:

    @triton.jit
    def _ratios(logits, COUNT: tl.constexpr, L1: tl.constexpr):
        """Ratios of up to four parts, the others zero."""
        k = tl.arange(0, 4)
        z = tl.load(logits + k, k < COUNT, other=0).to(tl.float64)
        if L1:
            sizes = tl.where(k < COUNT, tl.abs(z), 0)
        else:
            highest = tl.max(tl.where(k < COUNT, z, -float("inf")), 0)
            sizes = tl.where(k < COUNT, tl.exp(z - highest), 0)
        return sizes / tl.sum(sizes, 0)

    @triton.jit
    def _pick(values, PLACE: tl.constexpr):
        """One of four values."""
        return tl.sum(tl.where(tl.arange(0, 4) == PLACE, values, 0), 0)

    @triton.jit
    def _joint(mean, variance, kept, count, AXIS: tl.constexpr):
        """Moments of some channels, along an axis or, with None, of all."""
        joint = tl.sum(tl.where(kept, mean, 0), AXIS, keep_dims=True) / count
        between = mean - joint
        spread = tl.where(kept, variance + between * between, 0)
        return joint, tl.sum(spread, AXIS, keep_dims=True) / count

    @triton.jit
    def _sample(channels, width, BLOCK_G: tl.constexpr, BLOCK_W: tl.constexpr):
        """This program's sample, its channels by group, their places in a table, and their mask."""
        sample = tl.program_id(0).to(tl.int64)
        within = tl.arange(0, BLOCK_W)[None, :]
        channel = tl.arange(0, BLOCK_G)[:, None] * width + within
        return sample, channel, sample * channels + channel, (within < width) & (channel < channels)

    @triton.jit
    def _mixture_kernel(
        center,
        mean,
        variance,
        batch_mean,
        batch_variance,
        weight,
        bias,
        mean_logits,
        var_logits,
        scale,
        shift,
        offset,
        rstd,
        eps,
        samples_of_group,
        channels,
        width,
        BLOCK_G: tl.constexpr,
        BLOCK_W: tl.constexpr,
        COUNT: tl.constexpr,
        INSTANCE: tl.constexpr,
        GROUP: tl.constexpr,
        LAYER: tl.constexpr,
        BATCH: tl.constexpr,
        L1: tl.constexpr,
    ):
        """The mixture of one sample."""
        sample, channel, at, kept = _sample(channels, width, BLOCK_G, BLOCK_W)
        m = tl.load(mean + at, kept, other=0)
        v = tl.load(variance + at, kept, other=0)
        w = _ratios(mean_logits, COUNT, L1)
        u = _ratios(var_logits, COUNT, L1)
        mixed_m = tl.zeros((BLOCK_G, BLOCK_W), tl.float64)
        mixed_v = mixed_m + eps
        if INSTANCE >= 0:
            mixed_m += _pick(w, INSTANCE) * m
            mixed_v += _pick(u, INSTANCE) * v
        if GROUP >= 0:
            group_m, group_v = _joint(m, v, kept, width, 1)
            mixed_m += _pick(w, GROUP) * group_m
            mixed_v += _pick(u, GROUP) * group_v
        if LAYER >= 0:
            layer_m, layer_v = _joint(m, v, kept, channels, None)
            mixed_m += _pick(w, LAYER) * layer_m
            mixed_v += _pick(u, LAYER) * layer_v
        if BATCH >= 0:
            of_batch = sample // samples_of_group * channels + channel
            mixed_m += _pick(w, BATCH) * tl.load(batch_mean + of_batch, kept, other=0)
            mixed_v += _pick(u, BATCH) * tl.load(batch_variance + of_batch, kept, other=0)
        off = mixed_m - tl.load(center + at, kept, other=0).to(tl.float64)
        one = 1 / tl.sqrt(tl.where(kept, mixed_v, 1))
        gain = one
        if weight is not None:
            gain = one * tl.load(weight + channel, kept, other=0).to(tl.float64)
        level = -off * gain
        if bias is not None:
            level += tl.load(bias + channel, kept, other=0).to(tl.float64)
        tl.store(scale + at, gain, kept)
        tl.store(shift + at, level, kept)
        tl.store(offset + at, off, kept)
        tl.store(rstd + at, one, kept)

    @triton.jit
    def _mixed_gradient(total, dot, offset, rstd, weight, at, channel, kept):
        """Gradients of the mixed moments, sum(dy * x_hat) and sum(dy)."""
        of_dy = tl.load(total + at, kept, other=0)
        one = tl.load(rstd + at, kept, other=0)
        normed = tl.load(dot + at, kept, other=0) - tl.load(offset + at, kept, other=0) * of_dy
        normed *= one
        gain = one
        if weight is not None:
            gain = one * tl.load(weight + channel, kept, other=0).to(tl.float64)
        return -of_dy * gain, -0.5 * normed * gain * one, normed, of_dy

    @triton.jit
    def _store_ratio(dratios, sample, PLACE: tl.constexpr, of_mean, of_variance):
        """Store what one sample says of the ratios of a part."""
        tl.store(dratios + sample * 8 + PLACE, tl.sum(of_mean))
        tl.store(dratios + sample * 8 + 4 + PLACE, tl.sum(of_variance))

    @triton.jit
    def _sample_gradient_kernel(
        total,
        dot,
        offset,
        rstd,
        mean,
        variance,
        batch_mean,
        batch_variance,
        weight,
        mean_logits,
        var_logits,
        dmean,
        dvariance,
        dratios,
        samples_of_group,
        channels,
        width,
        BLOCK_G: tl.constexpr,
        BLOCK_W: tl.constexpr,
        COUNT: tl.constexpr,
        INSTANCE: tl.constexpr,
        GROUP: tl.constexpr,
        LAYER: tl.constexpr,
        BATCH: tl.constexpr,
        L1: tl.constexpr,
    ):
        """Gradients of one sample's instance moments, and its part of those of the ratios."""
        sample, channel, at, kept = _sample(channels, width, BLOCK_G, BLOCK_W)
        m = tl.load(mean + at, kept, other=0)
        v = tl.load(variance + at, kept, other=0)
        w = _ratios(mean_logits, COUNT, L1)
        u = _ratios(var_logits, COUNT, L1)
        dm, dv, _, _ = _mixed_gradient(total, dot, offset, rstd, weight, at, channel, kept)
        to_m = tl.zeros((BLOCK_G, BLOCK_W), tl.float64)
        to_v = to_m
        if INSTANCE >= 0:
            _store_ratio(dratios, sample, INSTANCE, dm * m, dv * v)
            to_m += _pick(w, INSTANCE) * dm
            to_v += _pick(u, INSTANCE) * dv
        if GROUP >= 0:
            joint_m, joint_v = _joint(m, v, kept, width, 1)
            _store_ratio(dratios, sample, GROUP, dm * joint_m, dv * joint_v)
            each = _pick(u, GROUP) * tl.sum(dv, 1, keep_dims=True) / width
            to_m += _pick(w, GROUP) * tl.sum(dm, 1, keep_dims=True) / width
            to_m += 2 * each * (m - joint_m)
            to_v += each
        if LAYER >= 0:
            joint_m, joint_v = _joint(m, v, kept, channels, None)
            _store_ratio(dratios, sample, LAYER, dm * joint_m, dv * joint_v)
            each = _pick(u, LAYER) * tl.sum(dv) / channels
            to_m += _pick(w, LAYER) * tl.sum(dm) / channels
            to_m += 2 * each * (m - joint_m)
            to_v += each
        if BATCH >= 0:
            of_batch = sample // samples_of_group * channels + channel
            batch_m = tl.load(batch_mean + of_batch, kept, other=0)
            batch_v = tl.load(batch_variance + of_batch, kept, other=0)
            _store_ratio(dratios, sample, BATCH, dm * batch_m, dv * batch_v)
        tl.store(dmean + at, to_m, kept)
        tl.store(dvariance + at, to_v, kept)

    @triton.jit
    def _store_logits(logits, dratios, dlogits, samples, COUNT: tl.constexpr, L1: tl.constexpr):
        """Sum over samples of the gradients of the ratios, as that of the logits."""
        k = tl.arange(0, 4)
        summed = tl.zeros((4,), tl.float64)
        for sample in range(samples):
            summed += tl.load(dratios + sample * 8 + k, k < COUNT, other=0)
        ratios = _ratios(logits, COUNT, L1)
        each = ratios
        if L1:
            z = tl.load(logits + k, k < COUNT, other=0).to(tl.float64)
            each = tl.where(z < 0, -1.0, 1.0) / tl.sum(tl.abs(z), 0)
        tl.store(dlogits + k, each * (summed - tl.sum(ratios * summed, 0)), k < COUNT)

    @triton.jit
    def _sum_gradient_kernel(
        total,
        dot,
        offset,
        rstd,
        weight,
        mean_logits,
        var_logits,
        dratios,
        dweight,
        dbias,
        dmean_logits,
        dvar_logits,
        dbatch_mean,
        dbatch_variance,
        samples_of_group,
        channels,
        samples,
        BLOCK_C: tl.constexpr,
        COUNT: tl.constexpr,
        INSTANCE: tl.constexpr,
        GROUP: tl.constexpr,
        LAYER: tl.constexpr,
        BATCH: tl.constexpr,
        L1: tl.constexpr,
    ):
        """Gradients of parameters and of batch moments: sums over samples of some channels."""
        channel = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
        kept = channel < channels
        by_weight = tl.zeros((BLOCK_C,), tl.float64)
        by_bias = by_weight
        for first in range(0, samples, samples_of_group):
            to_m = tl.zeros((BLOCK_C,), tl.float64)
            to_v = to_m
            for sample in range(first, first + samples_of_group):
                at = tl.cast(sample, tl.int64) * channels + channel
                dm, dv, normed, of_dy = _mixed_gradient(
                    total, dot, offset, rstd, weight, at, channel, kept
                )
                by_weight += normed
                by_bias += of_dy
                to_m += dm
                to_v += dv
            if BATCH >= 0:
                w = _pick(_ratios(mean_logits, COUNT, L1), BATCH)
                u = _pick(_ratios(var_logits, COUNT, L1), BATCH)
                place = first // samples_of_group * channels + channel
                tl.store(dbatch_mean + place, w * to_m, kept)
                tl.store(dbatch_variance + place, u * to_v, kept)
        tl.store(dweight + channel, by_weight, kept)
        tl.store(dbias + channel, by_bias, kept)
        if tl.program_id(0) == 0:
            _store_logits(mean_logits, dratios, dmean_logits, samples, COUNT, L1)
            _store_logits(var_logits, dratios + 4, dvar_logits, samples, COUNT, L1)
