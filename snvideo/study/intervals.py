"""Student's intervals and tests of means, and Holm's correction for several of them."""

import math
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import NamedTuple

from scipy.special import stdtr, stdtrit

LEVEL = 0.95


class Interval(NamedTuple):
    """A mean of n values and its 95 % confidence interval, mean - half to mean + half."""

    mean: float
    half: float | None  # half the width of the interval; None for a single value, which has none
    n: int

    @property
    def excludes_zero(self) -> bool:
        """True if the mean is further from zero than the interval reaches."""
        return self.half is not None and abs(self.mean) > self.half

    def percent(self, signed: bool = False) -> str:
        """A fraction and its interval in percent, as in `64.0 ± 2.1`."""
        mean = f"{100 * self.mean:{'+' if signed else ''}.1f}"
        return mean if self.half is None else f"{mean} ± {100 * self.half:.1f}"


def confidence_interval(values: Sequence[float], least: float = 0.0) -> Interval:
    """Mean and 95 % confidence interval by Student's t: half = t(0.975, n - 1) s / sqrt(n).

    Args:
        values: one or more.
        least: that s is taken to be at least, see `rounding_of_differences`.
    """
    n, half = len(values), None
    if n > 1:
        half = float(stdtrit(n - 1, (1 + LEVEL) / 2)) * max(stdev(values), least) / math.sqrt(n)
    return Interval(fmean(values), half, n)


def rounding_of_differences(videos: int) -> float:
    """Standard deviation that the difference of two accuracies has by their rounding alone.

    Each is a multiple of 1 / videos, rounded by as much as half of that to either side, which has
    the variance 1 / (12 videos^2). Equal differences in two or three seeds are no sign that there
    is less.
    """
    return math.sqrt(1 / 6) / videos


def t_test(values: Sequence[float], least: float = 0.0) -> float | None:
    """Two-sided p of Student's test that the mean is zero; None for fewer than two values.

    Arguments are those of `confidence_interval`.
    """
    n = len(values)
    if n < 2:
        return None
    mean, error = fmean(values), max(stdev(values), least) / math.sqrt(n)
    if not error:
        return 0.0 if mean else 1.0
    return 2 * float(stdtr(n - 1, -abs(mean / error)))


def holm(values: Sequence[float]) -> list[float]:
    """p values corrected for their number: one below alpha without cause has probability alpha.

    The step-down method of Holm (Scandinavian Journal of Statistics 6, 1979): the k-th smallest of
    m is multiplied by m - k + 1, and is at least the one before it and at most 1.
    """
    corrected, largest = [0.0] * len(values), 0.0
    for done, place in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        largest = max(largest, min(1.0, (len(values) - done) * values[place]))
        corrected[place] = largest
    return corrected
