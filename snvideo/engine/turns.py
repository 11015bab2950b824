"""Times of rivals that take turns, so that a machine whose speed drifts slows all of them alike."""

import random
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import numpy as np

Rival = TypeVar("Rival")

WARM_UP = 2
"""Turns before those that count: the first compile, and fill what is kept for later."""


class Quartiles(NamedTuple):
    """Quartiles of times, or of ratios of one rival's times to another's."""

    low: float
    median: float
    high: float


def ratio(times: list[float], base: list[float]) -> Quartiles:
    """Quartiles of the ratios of times from the same repeats."""
    return quartiles([a / b for a, b in zip(times, base, strict=True)])


def quartiles(values: list[float]) -> Quartiles:
    """Quartiles of one or more values."""
    return Quartiles(*np.quantile(values, (0.25, 0.5, 0.75)).tolist())


def take_turns(
    turns: dict[Rival, Callable[[], float]], repeats: int, warm_up: int = WARM_UP
) -> dict[Rival, list[float]]:
    """The times of all rivals.

    Args:
        turns: by rival, what takes a turn and returns its seconds.
        repeats: turns of each that count. The order changes with every repeat, so that none always
            follows the same other and finds the caches as that one leaves them.
        warm_up: turns of each before those.
    """
    shuffle = random.Random(0).shuffle
    order = list(turns)
    times: dict[Rival, list[float]] = {rival: [] for rival in turns}
    for repeat in range(warm_up + repeats):
        shuffle(order)
        for rival in order:
            spent = turns[rival]()
            if repeat >= warm_up:
                times[rival].append(spent)
    return times
