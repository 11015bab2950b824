"""How sure a mean over seeds is."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from scipy.special import stdtrit

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean of n values and its 95 % confidence interval, mean - half to mean + half."""

    mean: float
    half: float | None
    """Half the width of the interval; None for a single value, which has none."""
    n: int

    @property
    def excludes_zero(self) -> bool:
        """Whether the mean is further from zero than the interval reaches."""
        return self.half is not None and abs(self.mean) > self.half


def student(values: Sequence[float]) -> Interval:
    """Mean and 95 % confidence interval by Student's t: half = t(0.975, n - 1) s / sqrt(n).

    Raises:
        ValueError: for no values at all.
    """
    n = len(values)
    if n == 0:
        raise ValueError("an interval needs at least one value")
    if n == 1:
        return Interval(values[0], None, 1)
    quantile = float(stdtrit(n - 1, (1 + LEVEL) / 2))
    return Interval(fmean(values), quantile * stdev(values) / math.sqrt(n), n)
