"""What chance does to training clips: drawn clip by clip in the workers, stacked for a batch."""

from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from snvideo.data.config import ColorConfig, RandAugmentConfig, TrainViewConfig


class Operation(IntEnum):
    """A change of pixels. What its amount means stands beside it."""

    IDENTITY = 0
    SHEAR_X = 1  # tangent of the angle
    SHEAR_Y = 2
    TRANSLATE_X = 3  # part of the width
    TRANSLATE_Y = 4  # part of the height
    ROTATE = 5  # degrees, counter-clockwise
    BRIGHTNESS = 6  # factor
    SATURATION = 7  # factor
    CONTRAST = 8  # factor
    SHARPNESS = 9  # factor
    POSTERIZE = 10  # bits kept, to be rounded
    SOLARIZE = 11  # the darkest byte that is inverted
    AUTOCONTRAST = 12
    EQUALIZE = 13
    HUE = 14  # turns of the colour circle


class Strength(NamedTuple):
    """Amounts of a RandAugment operation, from magnitude 0 to the greatest."""

    weakest: float = 0.0
    strongest: float = 0.0
    signed: bool = False
    """Whether half of the clips go from the weakest amount in the other direction."""


GREATEST_MAGNITUDE = 30

RAND_AUGMENT = {
    Operation.IDENTITY: Strength(),
    Operation.SHEAR_X: Strength(0, 0.3, signed=True),
    Operation.SHEAR_Y: Strength(0, 0.3, signed=True),
    Operation.TRANSLATE_X: Strength(0, 150 / 331, signed=True),
    Operation.TRANSLATE_Y: Strength(0, 150 / 331, signed=True),
    Operation.ROTATE: Strength(0, 30, signed=True),
    Operation.BRIGHTNESS: Strength(1, 1.9, signed=True),
    Operation.SATURATION: Strength(1, 1.9, signed=True),
    Operation.CONTRAST: Strength(1, 1.9, signed=True),
    Operation.SHARPNESS: Strength(1, 1.9, signed=True),
    Operation.POSTERIZE: Strength(8, 4),
    Operation.SOLARIZE: Strength(255, 0),
    Operation.AUTOCONTRAST: Strength(),
    Operation.EQUALIZE: Strength(),
}
"""The operations that RandAugment draws from, and their amounts, as in torchvision."""


class Change(NamedTuple):
    """One operation on all frames of a clip."""

    operation: Operation
    amount: float = 0.0


class Mixing(NamedTuple):
    """How a clip is mixed with its partner (see `augment.mix`)."""

    weight: float = 1.0
    """What the clip keeps of itself; with a box, before the frame's edges cut the box off."""
    boxed: bool = False
    """Whether a box shows the partner alone (CutMix), or every pixel shows both (mixup)."""
    centre: tuple[float, float] = (0.0, 0.0)
    """Of the box, as parts of height and width."""


class Draw(NamedTuple):
    """What was drawn for one clip."""

    flip: bool
    changes: tuple[Change, ...] = ()
    """In the order in which they are made, after the flip."""
    mixing: Mixing | None = None
    """None where nothing is ever mixed."""


class Mixings(NamedTuple):
    """The mixings of a batch."""

    weights: Tensor
    """float64 (N,)."""
    boxed: Tensor
    """bool (N,)."""
    centres: Tensor
    """float64 (N, 2): down, across."""


class Draws(NamedTuple):
    """What was drawn for the clips of a batch. Meant to stay on the CPU, where it is read."""

    flips: Tensor
    """bool (N,)."""
    operations: Tensor
    """int64 (N, K): `Operation`s in order, for K the most of any clip; the rest are identities."""
    amounts: Tensor
    """float64 (N, K)."""
    mixing: Mixings | None
    """None where nothing is ever mixed."""


def draw(rng: np.random.Generator, view: TrainViewConfig) -> Draw:
    """Draw what happens to one clip.

    In this order: flip, colours, RandAugment, mixing. What is off takes nothing from the generator,
    so switching on a later one leaves what was drawn before it, and all older runs, as they were.

    Args:
        rng: of the clip alone, after its frames and its crop were drawn.
        view: what may happen.
    """
    flip = bool(view.flip and rng.random() < 0.5)
    changes = [*_colors(rng, view.color), *_rand_augment(rng, view.rand_augment)]
    return Draw(flip, tuple(changes), _mixing(rng, view))


def stack(draws: Sequence[Draw]) -> Draws:
    """Put the draws of a batch's clips together; all are of one config."""
    operations = [[change.operation for change in draw.changes] for draw in draws]
    amounts = [[change.amount for change in draw.changes] for draw in draws]
    return Draws(
        torch.tensor([draw.flip for draw in draws]),
        pad_sequence([torch.tensor(row, dtype=torch.int64) for row in operations], True),
        pad_sequence([torch.tensor(row, dtype=torch.float64) for row in amounts], True),
        _stack_mixings([draw.mixing for draw in draws if draw.mixing is not None]),
    )


def _stack_mixings(mixings: list[Mixing]) -> Mixings | None:
    if not mixings:
        return None
    weights, boxed, centres = zip(*mixings, strict=True)
    return Mixings(
        torch.tensor(weights, dtype=torch.float64),
        torch.tensor(boxed),
        torch.tensor(centres, dtype=torch.float64),
    )


def _colors(rng: np.random.Generator, color: ColorConfig) -> list[Change]:
    """First whether, then the factors, then their order."""
    ranges = {
        Operation.BRIGHTNESS: (max(0.0, 1 - color.brightness), 1 + color.brightness),
        Operation.CONTRAST: (max(0.0, 1 - color.contrast), 1 + color.contrast),
        Operation.SATURATION: (max(0.0, 1 - color.saturation), 1 + color.saturation),
        Operation.HUE: (-color.hue, color.hue),
    }
    wanted = {operation: ends for operation, ends in ranges.items() if ends[0] < ends[1]}
    if not wanted or rng.random() >= color.probability:
        return []
    changes = [Change(operation, rng.uniform(*ends)) for operation, ends in wanted.items()]
    return [changes[number] for number in rng.permutation(len(changes))]


def _rand_augment(rng: np.random.Generator, config: RandAugmentConfig | None) -> list[Change]:
    """First whether, then for every operation which, and its sign if it has one."""
    if config is None or rng.random() >= config.probability:
        return []
    changes = []
    for _ in range(config.operations):
        operation = list(RAND_AUGMENT)[rng.integers(len(RAND_AUGMENT))]
        weakest, strongest, signed = RAND_AUGMENT[operation]
        sign = -1 if signed and rng.random() < 0.5 else 1
        part = config.magnitude / GREATEST_MAGNITUDE
        changes.append(Change(operation, weakest + sign * part * (strongest - weakest)))
    return changes


def _mixing(rng: np.random.Generator, view: TrainViewConfig) -> Mixing | None:
    """First whether, then which kind if there are two, the weight, and the centre of a box."""
    if not view.mixup and not view.cutmix:
        return None
    if rng.random() >= view.mix_probability:
        return Mixing()
    boxed = rng.random() < 0.5 if view.mixup and view.cutmix else bool(view.cutmix)
    alpha = view.cutmix if boxed else view.mixup
    weight = rng.beta(alpha, alpha)
    return Mixing(weight, True, (rng.random(), rng.random())) if boxed else Mixing(weight)
