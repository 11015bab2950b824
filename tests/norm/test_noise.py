"""Noise of batch statistics against values that follow from its definition, in float64."""

from itertools import product

import pytest
import torch

from snvideo.norm import noise
from snvideo.norm.functional import instance_statistics
from snvideo.norm.noise import ClipMoments


def normal(clips: int, channels: int, positions: int, between: float = 0.0) -> torch.Tensor:
    """Values (clips, channels, positions) of variance 4 in a clip, and clips that differ."""
    generator = torch.Generator().manual_seed(0)
    sample = lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64)  # noqa: E731
    return 3 + between * sample(clips, channels, 1) + 2 * sample(clips, channels, positions)


def moments(x: torch.Tensor) -> ClipMoments:
    return ClipMoments(x.mean(2), x.var(2, correction=0))


def close(found: torch.Tensor, expected: torch.Tensor | float, relative: float = 1e-10) -> None:
    expected = torch.as_tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(found, expected.expand_as(found), rtol=relative, atol=1e-14)


@pytest.mark.parametrize("size", [1, 4, 32])
def test_independent_normal_values(size):
    """Var(m_bn) = sigma^2 / (b L), and v_bn has the moments of a chi-squared variable."""
    positions, channels = 10, 64
    clips = moments(normal(2000, channels, positions))
    count = size * positions
    found = noise.expected_errors(clips, size)
    close(found.mean.mean(), 1 / count, 0.02)
    close(found.variance.mean(), (2 * count - 1) / count**2, 0.02)
    expected = (1 / count + (2 * count - 1) / count**2 / 4) ** 0.5
    assert found.noise(torch.ones(channels, dtype=torch.bool)) == pytest.approx(expected, rel=0.01)
    assert noise.effective_samples(clips) == pytest.approx(positions, rel=0.02)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_expected_errors_are_the_mean_over_all_draws(size):
    """Every way to draw clips with replacement, one after another."""
    x = normal(5, 3, 4, between=1.5) ** 3  # skewed: every moment takes part
    clips = moments(x)
    mu, samples = clips.mean.mean(0), len(x)
    between = clips.mean.var(0)
    sigma2 = clips.variance.mean(0) + between
    drawn = [torch.cat(list(x[list(draw)]), 1) for draw in product(range(samples), repeat=size)]
    means = torch.stack([group.mean(1) for group in drawn])
    variances = torch.stack([group.var(1, correction=0) for group in drawn])
    unbiased = samples / (samples - 1)
    found = noise.expected_errors(clips, size)
    close(found.mean, unbiased * (means - mu).square().mean(0) / sigma2)
    spread = unbiased * variances.var(0, correction=0) + (between / size) ** 2
    close(found.variance, spread / sigma2**2)


def test_grouped_errors_are_those_of_the_groups():
    x = normal(12, 3, 4, between=1.5)
    groups = x.unflatten(0, (4, 3)).transpose(1, 2).flatten(2)  # (4, C, 12)
    whole = noise.population(moments(x))
    mean, variance = groups.mean(2), groups.var(2, correction=0)
    found = noise.grouped_errors(moments(x), 3)
    close(found.mean, mean.var(0) / whole.variance)
    bias = variance.mean(0) - whole.variance
    close(found.variance, (variance.var(0) + bias**2) / whole.variance**2)


@pytest.mark.parametrize("size", [1, 2, 4, 8, 16])
def test_regrouping_agrees_with_the_formula(size):
    """Clips that differ in brightness and contrast, drawn independently."""
    x = normal(4096, 32, 6, between=1.0)
    x = x * (1 + 0.3 * torch.rand(len(x), 1, 1, generator=torch.Generator().manual_seed(1)))
    direct, formula = (
        noise.grouped_errors(moments(x), size),
        noise.expected_errors(moments(x), size),
    )
    close(direct.mean.mean(), formula.mean.mean(), 0.05)
    close(direct.variance.mean(), formula.variance.mean(), 0.05)


def test_one_clip_is_the_distance_of_instance_statistics():
    x = normal(30, 4, 5, between=1.0)
    clips, whole = moments(x), noise.population(moments(x))
    found = noise.expected_errors(clips, 1)
    close(found.mean, clips.mean.var(0) / whole.variance)
    expected = (clips.variance.var(0) + whole.between**2) / whole.variance**2
    close(found.variance, expected)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_distances_of_group_and_layer_statistics(groups):
    x = normal(7, 8, 5, between=1.0) * torch.arange(1, 9)[:, None]
    whole = noise.population(moments(x))
    joint = x.unflatten(1, (groups, -1)).flatten(2)
    mean, variance = (
        t.repeat_interleave(8 // groups, 1) for t in (joint.mean(2), joint.var(2, correction=0))
    )
    found = noise.group_errors(moments(x), groups)
    close(found.mean, ((mean - whole.mean) ** 2).mean(0) / whole.variance)
    close(found.variance, ((variance - whole.variance) ** 2).mean(0) / whole.variance**2)
    if groups == 1:
        close(noise.layer_errors(moments(x)).mean, found.mean)
        close(noise.layer_errors(moments(x)).variance, found.variance)


def test_effective_samples_of_even_clips_is_one():
    x = normal(500, 6, 1).expand(-1, -1, 9)
    assert noise.effective_samples(moments(x)) == pytest.approx(1.0)


def test_effective_samples_give_the_noise_of_the_mean():
    clips = moments(normal(50, 6, 9, between=2.0))
    found = noise.expected_errors(clips, 4).mean.mean()
    close(found, 1 / (4 * noise.effective_samples(clips)))


def test_noise_does_not_depend_on_scale_or_offset():
    x = normal(60, 5, 7, between=1.0)
    plain, moved = moments(x), moments(1e-4 * x + 1e3)
    every = torch.ones(5, dtype=torch.bool)
    for size in (1, 8):
        found = noise.expected_errors(moved, size).noise(every)
        assert found == pytest.approx(noise.expected_errors(plain, size).noise(every), rel=1e-5)


def test_constant_channels_do_not_vary():
    x = normal(20, 4, 6)
    x[:, 1], x[:, 2] = 0.0, 7.3
    assert noise.population(moments(x)).varies.tolist() == [True, False, False, True]


def test_samples_of_a_clip_are_joined():
    x = normal(12, 3, 5, between=1.0)
    table = torch.stack(moments(x))
    found = noise.joined([table[:, :6], table[:, 6:]], 3)
    whole = x.unflatten(0, (4, 3)).transpose(1, 2).flatten(2)
    close(found.mean, moments(whole).mean)
    close(found.variance, moments(whole).variance)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(6, 4), (6, 4, 1, 1), (6, 4, 5), (6, 4, 3, 2, 5)])
@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels last"])
def test_instance_statistics(dtype, shape, last):
    x = (3 + torch.randn(shape, generator=torch.Generator().manual_seed(0))).to(dtype)
    if last:
        x = x.movedim(1, -1).contiguous().movedim(-1, 1)
    found = instance_statistics(x)
    flat = x.double().reshape(6, 4, -1)
    expected = torch.stack((flat.mean(2), flat.var(2, correction=0)))
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
