"""Confidence intervals against values worked out by hand."""

import pytest

from snvideo.study.interval import student


def test_five_values_by_hand():
    # mean 0.72; deviations squared sum to 0.001, s = sqrt(0.001 / 4) = 0.0158114,
    # t(0.975, 4) = 2.776445, half = 2.776445 * 0.0158114 / sqrt(5) = 0.0196324
    interval = student([0.70, 0.71, 0.72, 0.73, 0.74])
    assert interval.mean == pytest.approx(0.72)
    assert interval.half == pytest.approx(0.0196324, abs=1e-6)
    assert interval.n == 5


def test_two_values_by_hand():
    # s = 0.1 / sqrt(2), t(0.975, 1) = 12.7062, half = 12.7062 * 0.1 / 2
    assert student([0.5, 0.6]).half == pytest.approx(0.635310, abs=1e-5)


def test_one_value_has_no_interval():
    interval = student([0.4])
    assert (interval.mean, interval.half, interval.n) == (0.4, None, 1)
    assert not interval.excludes_zero


def test_excludes_zero_only_beyond_the_interval():
    assert student([0.10, 0.11, 0.12]).excludes_zero
    assert not student([-0.10, 0.11, 0.12]).excludes_zero


def test_no_values_are_refused():
    with pytest.raises(ValueError, match="at least one"):
        student([])
