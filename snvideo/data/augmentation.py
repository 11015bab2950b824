"""Training augmentation: parameters sampled clip by clip in workers, applied to batches on the
device."""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cache
from itertools import zip_longest
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from snvideo.data.config import (
    MEAN,
    STD,
    ColorConfig,
    DataConfig,
    RandAugmentConfig,
    TrainViewConfig,
)
from snvideo.data.random_erasing import Rectangle, erase, sample_rectangle

if TYPE_CHECKING:
    from snvideo.data.dataset import Batch


# Bilinear: the nearest pixel is another one where two are as near and devices round differently.
_BILINEAR = InterpolationMode.BILINEAR


def _shear(clips: Tensor, across: float = 0.0, down: float = 0.0) -> Tensor:
    angles = [math.degrees(math.atan(tangent)) for tangent in (across, down)]
    # about the top left corner
    return transforms.affine(clips, 0.0, [0, 0], 1.0, angles, _BILINEAR, center=[0, 0])


def _translate(clips: Tensor, across: float = 0.0, down: float = 0.0) -> Tensor:
    height, width = clips.shape[-2:]
    shift = [int(across * width), int(down * height)]  # whole pixels
    return transforms.affine(clips, 0.0, shift, 1.0, [0.0, 0.0], _BILINEAR)


class Operation(NamedTuple):
    """Operation on pixels by an amount, and its strengths in RandAugment, as in torchvision."""

    apply: Callable[[Tensor, float], Tensor]
    weakest: float = 0.0  # amount at magnitude 0
    strongest: float = 0.0  # amount at magnitude 30
    signed: bool = False
    """For half of the clips the amount goes from the weakest in the other direction."""


OPERATIONS = {
    "identity": Operation(lambda clips, _: clips),
    "shear_x": Operation(lambda clips, tangent: _shear(clips, across=tangent), 0, 0.3, True),
    "shear_y": Operation(lambda clips, tangent: _shear(clips, down=tangent), 0, 0.3, True),
    "translate_x": Operation(lambda clips, p: _translate(clips, across=p), 0, 150 / 331, True),
    "translate_y": Operation(lambda clips, p: _translate(clips, down=p), 0, 150 / 331, True),
    "rotate": Operation(lambda clips, d: transforms.rotate(clips, d, _BILINEAR), 0, 30, True),
    "brightness": Operation(transforms.adjust_brightness, 1, 1.9, True),
    "saturation": Operation(transforms.adjust_saturation, 1, 1.9, True),
    "contrast": Operation(transforms.adjust_contrast, 1, 1.9, True),
    "sharpness": Operation(transforms.adjust_sharpness, 1, 1.9, True),
    "posterize": Operation(lambda clips, bits: transforms.posterize(clips, round(bits)), 8, 4),
    "solarize": Operation(transforms.solarize, 255, 0),  # the darkest byte that is inverted
    "autocontrast": Operation(lambda clips, _: transforms.autocontrast(clips)),
    "equalize": Operation(lambda clips, _: transforms.equalize(clips)),
    "hue": Operation(transforms.adjust_hue),  # by turns of the colour circle
}
RAND_AUGMENT = list(OPERATIONS)[:-1]  # RandAugment's operations: all but hue


class OperationParams(NamedTuple):
    """One operation on all frames of a clip."""

    operation: str  # in `OPERATIONS`
    amount: float = 0.0


class MixParams(NamedTuple):
    """Mixture of a clip with its partner, see `mix`."""

    weight: float = 1.0
    """Part that the clip keeps of itself; for CutMix, before the frame's edges clip the box."""
    cutmix: bool = False  # a box shows the partner alone; else every pixel shows both
    centre: tuple[float, float] = (0.0, 0.0)  # of the box, as parts of height and width


class AugmentationParams(NamedTuple):
    """Augmentation of one clip."""

    flip: bool
    operations: tuple[OperationParams, ...] = ()  # in order, after the flip
    mixing: MixParams | None = None  # None where nothing is ever mixed
    erased: Rectangle | None = None


def sample_augmentation(rng: np.random.Generator, view: TrainViewConfig) -> AugmentationParams:
    """Sample the augmentation of one clip, by a generator of its own: flip, colours, RandAugment,
    mixing, erasing, in this order.

    What is off takes nothing from the generator, so switching on a later one leaves the earlier
    ones as they were.
    """
    flip = bool(view.flip and rng.random() < 0.5)
    operations = [*_color_jitter(rng, view.color), *_rand_augment(rng, view.rand_augment)]
    mixing = _mix_params(rng, view)
    erased = sample_rectangle(rng, view.random_erasing, view.crop)
    return AugmentationParams(flip, tuple(operations), mixing, erased)


def _color_jitter(rng: np.random.Generator, color: ColorConfig) -> list[OperationParams]:
    factors = {name: getattr(color, name) for name in ("brightness", "contrast", "saturation")}
    on = {name: (max(0.0, 1 - most), 1 + most) for name, most in factors.items() if most}
    on |= {"hue": (-color.hue, color.hue)} if color.hue else {}
    if not on or rng.random() >= color.probability:
        return []
    params = [OperationParams(operation, rng.uniform(*ends)) for operation, ends in on.items()]
    return [params[number] for number in rng.permutation(len(params))]


def _rand_augment(
    rng: np.random.Generator, config: RandAugmentConfig | None
) -> list[OperationParams]:
    if config is None or rng.random() >= config.probability:
        return []
    params = []
    for _ in range(config.operations):
        operation = RAND_AUGMENT[rng.integers(len(RAND_AUGMENT))]
        _, weakest, strongest, signed = OPERATIONS[operation]
        sign = -1 if signed and rng.random() < 0.5 else 1
        part = config.magnitude / 30
        params.append(OperationParams(operation, weakest + sign * part * (strongest - weakest)))
    return params


def _mix_params(rng: np.random.Generator, view: TrainViewConfig) -> MixParams | None:
    if not view.mixes:
        return None
    if rng.random() >= view.mix_probability:
        return MixParams()
    cutmix = rng.random() < 0.5 if view.mixup and view.cutmix else bool(view.cutmix)
    alpha = view.cutmix if cutmix else view.mixup
    weight = rng.beta(alpha, alpha)
    return MixParams(weight, True, (rng.random(), rng.random())) if cutmix else MixParams(weight)


def augment(clips: Tensor, params: Sequence[AugmentationParams]) -> Tensor:
    """Flip clips, uint8 (N, T, 3, H, W), and apply their operations, to all frames of a clip alike.

    A clip's result does not depend on its neighbours. Contrast, autocontrast and equalize take
    each frame by itself, as in torchvision. The clips are not written to; they are returned
    themselves if nothing is to be done.
    """
    flips = torch.tensor([one.flip for one in params])
    if flips.any():
        flips = flips.to(clips.device, non_blocking=True)
        clips = torch.where(flips[:, None, None, None, None], clips.flip(-1), clips)
    if not any(one.operations for one in params):
        return clips
    pieces = list(clips)
    for changes in zip_longest(*(one.operations for one in params)):
        # Clips of the same operation and amount go through one call.
        alike: dict[OperationParams, list[int]] = defaultdict(list)
        for number, change in enumerate(changes):
            if change is not None and change.operation != "identity":
                alike[change].append(number)
        for (operation, amount), numbers in alike.items():
            changed = OPERATIONS[operation].apply(torch.stack([pieces[i] for i in numbers]), amount)
            for number, piece in zip(numbers, changed, strict=True):
                pieces[number] = piece
    return torch.stack(pieces)


def train_input(
    batch: "Batch",
    config: DataConfig,
    device: torch.device,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Tensor:
    """Augment a training batch on a device, normalize it, as `to_input`, and erase; `mix` comes
    after."""
    clips = augment(batch.clips.to(device, non_blocking=True), batch.augmentation)
    inputs = to_input(clips, config.mean or MEAN, config.std or STD, memory_format)
    return erase(inputs, [one.erased for one in batch.augmentation])


def to_input(
    clips: Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Tensor:
    """Scale clips, uint8 (N, T, 3, H, W), to 0..1, normalize them by mean and std of the three
    channels, and put channels first: float32 (N, 3, T, H, W) on the same device."""
    # (x / 255 - mean) / std, as one multiplication and one addition per value
    shift, scale = _normalization(tuple(mean), tuple(std), clips.device)
    values = clips.transpose(1, 2).contiguous(memory_format=memory_format).float()
    return torch.addcmul(shift, values, scale, out=values)


@cache  # sending numbers to a GPU waits for it
def _normalization(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> tuple[Tensor, Tensor]:
    deviation = torch.tensor(std)[:, None, None, None]
    shift = -torch.tensor(mean)[:, None, None, None] / deviation
    return shift.to(device), (1 / (255 * deviation)).to(device)


def mix(
    inputs: Tensor, labels: Tensor, params: Sequence[AugmentationParams], classes: int, group: int
) -> tuple[Tensor, Tensor]:
    """Mix every clip with its partner: mixup, or CutMix with a box through all frames.

    The partner of clip i of a group is clip `group - 1 - i` of the same group, so the middle one of
    an odd group stays as it is. Batch statistics span a group: neither they nor the partners depend
    on how many groups share a pass or a process.

    Args:
        inputs, labels: float (N, 3, T, H, W), normalized, and int64 (N,) or float (N, classes), on
            one device.
        params: of these N clips.
        classes: number of classes.
        group: clips in a group; divides N.

    Returns:
        inputs of the same shape, and targets, float32 (N, classes): the part of the clip that is
        of each class; inputs and labels as they were if nothing is ever mixed.
    """
    mixing = [one.mixing for one in params if one.mixing is not None]
    if not mixing:
        return inputs, labels
    height, width = inputs.shape[-2:]
    plan = _mixing_plan(mixing, height, width).to(inputs.device, non_blocking=True)
    parts, outside, top, left, bottom, right = plan.T[..., None]
    rows = torch.arange(height, device=inputs.device)
    columns = torch.arange(width, device=inputs.device)
    in_rows, in_columns = (rows >= top) & (rows < bottom), (columns >= left) & (columns < right)
    in_box = in_rows[:, :, None] & in_columns[:, None, :]
    own = torch.where(in_box, 0.0, outside[..., None])[:, None, None]
    targets = labels if labels.dim() == 2 else functional.one_hot(labels, classes).float()

    def partners(values: Tensor) -> Tensor:
        return values.unflatten(0, (-1, group)).flip(1).flatten(0, 1)

    return (
        torch.lerp(partners(inputs), inputs, own.to(inputs.dtype)),
        torch.lerp(partners(targets), targets, parts),
    )


def _mixing_plan(mixing: Sequence[MixParams], height: int, width: int) -> Tensor:
    """float32 (N, 6): the part of a frame that the clip keeps, its share of the pixels outside the
    box, and the box's top, left, bottom and right.
    """
    weights, centres = (
        torch.tensor(values, dtype=torch.float64)
        for values in ([one.weight for one in mixing], [one.centre for one in mixing])
    )
    cutmix = torch.tensor([one.cutmix for one in mixing])
    size = torch.tensor([height, width], dtype=torch.float64)
    half = (1 - weights).sqrt()[:, None] / 2 * cutmix[:, None]
    low = ((centres - half) * size).round().clamp(min=0)
    high = torch.minimum(((centres + half) * size).round(), size)
    outside = torch.where(cutmix, 1.0, weights)
    parts = outside * (1 - (high - low).prod(1) / size.prod())
    return torch.cat([torch.stack([parts, outside], 1), low, high], 1).float()
