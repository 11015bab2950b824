r"""Noise of the batch statistics of few clips, computed from tables of per-clip moments.

Clip n of N has in channel c the mean m[n, c] and the biased variance v[n, c] over its positions.
The population, of which the N clips are taken as independent samples, has for each channel

    mu = mean_n(m)     between = sum_n (m - mu)^2 / (N - 1)     sigma^2 = mean_n(v) + between

A group of b clips has m_bn = mean(m) and v_bn = mean(v) + var(m). In y = (x - m_bn) / sqrt(v_bn)
an error of the mean, delta = (m_bn - mu) / sigma, shifts y, and one of the variance,
epsilon = (v_bn - sigma^2) / sigma^2, scales it by 1 - epsilon / 2 to first order. As y has mean 0
and variance 1, its mean squared error is E[delta^2] + E[epsilon^2] / 4, and

    noise = sqrt(mean_c(E[delta^2] + E[epsilon^2] / 4))

is the root mean squared error of the normalized values, in units of their own standard deviation.
0 is a population's statistics; at 1 the error is as large as the signal. eps is left out.

For independent clips E[delta^2] = between / (b sigma^2), exactly. With q = v + (m - mu)^2 and the
fourth central moment mu_4 of m, E[epsilon^2] is (variance + bias^2) / sigma^4 of

    variance = Var(q) / b - 2 Cov(q, (m - mu)^2) / b^2 + (mu_4 - 3 between^2) / b^3
               + 2 between^2 / b^2
    bias     = -between / b

So noise falls as 1 / sqrt(b), but for terms of the variance that fall faster. These are the means
over all ways to draw b of the N clips with replacement: nothing has to be drawn.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from snvideo.norm.reference import group_moments, total_moments

CONSTANT = 1e-12
"""A channel whose variance is no larger part of its squared mean has no spread but rounding."""


class ClipMoments(NamedTuple):
    """Moments of every clip and channel over positions, float64 (N, C)."""

    mean: Tensor
    variance: Tensor
    """Biased."""


class Population(NamedTuple):
    """Moments (C,) of the population that clips are samples of."""

    mean: Tensor
    between: Tensor
    """Variance of the clips' means."""
    variance: Tensor

    @property
    def varies(self) -> Tensor:
        """bool (C,), False of constant channels, which have no noise to speak of."""
        return self.variance > CONSTANT * self.mean.square()


class SquaredErrors(NamedTuple):
    """Expected squared errors (C,) of statistics against those of the population."""

    mean: Tensor
    """E[delta^2], in units of the channel's variance."""
    variance: Tensor
    """E[epsilon^2], relative."""

    def noise(self, channels: Tensor) -> float:
        """Root mean squared error of normalized values over some channels, bool (C,)."""
        return float((self.mean + self.variance / 4)[channels].mean().sqrt())


def population(clips: ClipMoments) -> Population:
    """The population of at least two clips."""
    between = clips.mean.var(0, correction=1)
    return Population(clips.mean.mean(0), between, clips.variance.mean(0) + between)


def expected_errors(clips: ClipMoments, size: int) -> SquaredErrors:
    """Errors of the batch statistics of `size` clips drawn independently, by the module's formulas.

    Args:
        clips: of at least two clips.
        size: clips of a group, which may be more than there are clips.
    """
    whole = population(clips)
    squared = (clips.mean - whole.mean).square()
    total = clips.variance + squared
    spread = squared.mean(0)  # biased, as all moments of the table here
    both = ((total - total.mean(0)) * (squared - spread)).mean(0)
    fourth = squared.square().mean(0)
    variance = (
        total.var(0, correction=0) / size
        - 2 * both / size**2
        + (fourth - 3 * spread.square()) / size**3
        + 2 * spread.square() / size**2
    )
    samples = len(clips.mean)
    variance = variance * (samples / (samples - 1))
    return _relative(whole.between / size, variance, whole.between / size, whole)


def grouped_errors(clips: ClipMoments, size: int) -> SquaredErrors:
    """Errors of the batch statistics of consecutive groups of `size` clips, as they were.

    They may differ from `expected_errors` where clips of a group are not independent, as behind
    another norm that took its statistics over the same group.

    Args:
        clips: of at least two groups; clips that fill no group are left out.
        size: clips of a group.
    """
    groups = len(clips.mean) // size
    means, variances = (table[: groups * size].unflatten(0, (groups, size)) for table in clips)
    mean, variance = (table.squeeze(1) for table in total_moments(means, variances, dim=1))
    whole = population(clips)
    bias = variance.mean(0) - whole.variance
    return _relative(mean.var(0, correction=1), variance.var(0, correction=1), bias, whole)


def layer_errors(clips: ClipMoments) -> SquaredErrors:
    """Distances of every clip's layer statistics from the population's of each channel."""
    return _distances(*total_moments(clips.mean, clips.variance, dim=1), population(clips))


def group_errors(clips: ClipMoments, channel_groups: int) -> SquaredErrors:
    """Distances of every clip's group statistics from the population's of each channel."""
    return _distances(*group_moments(*clips, channel_groups), population(clips))


def effective_samples(clips: ClipMoments) -> float:
    """Number of independent values that a clip's mean of a channel is worth.

    sigma^2 / between: with L independent positions the variance of a clip's mean is sigma^2 / L.
    Where a clip is of one brightness it is 1. It is the harmonic mean over channels, so that the
    mean's part of noise^2 is 1 / (b * effective_samples). Infinite if all clips have equal means.
    """
    whole = population(clips)
    share = (whole.between / whole.variance)[whole.varies].mean()
    return float(1 / share)


def _distances(mean: Tensor, variance: Tensor, whole: Population) -> SquaredErrors:
    """Mean squared distances over clips of tables (N, C) or (N, 1)."""
    of_mean = (mean - whole.mean).square().mean(0)
    of_variance = (variance - whole.variance).square().mean(0)
    return SquaredErrors(of_mean / whole.variance, of_variance / whole.variance.square())


def _relative(
    of_mean: Tensor, of_variance: Tensor, bias: Tensor, whole: Population
) -> SquaredErrors:
    squared = of_variance.clamp_min(0) + bias.square()
    return SquaredErrors(of_mean / whole.variance, squared / whole.variance.square())


def joined(parts: list[Tensor], samples: int) -> ClipMoments:
    """Moments of clips from those of passes, (2, n, C) each, with `samples` samples for a clip."""
    mean, variance = torch.cat(parts, 1).unflatten(1, (-1, samples))
    return ClipMoments(*(table.squeeze(1) for table in total_moments(mean, variance, dim=1)))
