"""From bytes to the network's input, on the device: what was drawn for each clip is carried out."""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from snvideo.data.augmentation_params import Draws, Mixings, Operation


def augment(clips: Tensor, draws: Draws) -> Tensor:
    """Mirror clips and change their pixels as drawn, all frames of a clip alike.

    A clip comes out the same whatever its neighbours are. Contrast, autocontrast and equalize look
    at each frame by itself, as torchvision's do.

    Args:
        clips: uint8 (N, T, 3, H, W), on the device that the network is on; they are not written to.
        draws: of these clips, on the CPU, so that nothing waits for the device to be read.

    Returns:
        uint8 (N, T, 3, H, W); the clips themselves if nothing was drawn.
    """
    if draws.flips.any():
        clips = _mirror(clips, draws.flips)
    if not draws.operations.any():
        return clips
    pieces = list(clips)
    steps = zip(draws.operations.T.tolist(), draws.amounts.T.tolist(), strict=True)
    for operations, amounts in steps:
        # Clips that share an operation and its amount share a call.
        sharing: dict[tuple[int, float], list[int]] = defaultdict(list)
        for number, change in enumerate(zip(operations, amounts, strict=True)):
            sharing[change].append(number)
        for (operation, amount), numbers in sharing.items():
            if operation == Operation.IDENTITY:
                continue
            changed = _CHANGES[operation](torch.stack([pieces[i] for i in numbers]), amount)
            for number, piece in zip(numbers, changed, strict=True):
                pieces[number] = piece
    return torch.stack(pieces)


def to_input(
    clips: Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Tensor:
    """Scale to 0..1, normalize, and put channels first.

    Args:
        clips: uint8 (N, T, 3, H, W), on the device that the network is on.
        mean, std: of the three channels, for values 0..1.
        memory_format: of the result.

    Returns:
        float32 (N, 3, T, H, W).
    """
    # (x / 255 - mean) / std, as one multiplication and one addition per value
    shift, scale = _normalization(tuple(mean), tuple(std), clips.device)
    values = clips.transpose(1, 2).contiguous(memory_format=memory_format).float()
    return torch.addcmul(shift, values, scale, out=values)


@cache
def _normalization(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> tuple[Tensor, Tensor]:
    """What to add, and what to multiply bytes by before; kept, as a GPU is waited for when it is
    sent numbers."""
    deviation = torch.tensor(std)[:, None, None, None]
    shift = -torch.tensor(mean)[:, None, None, None] / deviation
    return shift.to(device), (1 / (255 * deviation)).to(device)


def mix(
    inputs: Tensor, labels: Tensor, draws: Draws, classes: int, group: int
) -> tuple[Tensor, Tensor]:
    """Mix every clip with its partner as drawn: mixup, or CutMix with a box through all frames.

    The partner of clip i of a group is clip `group - 1 - i` of the same group; the middle one of an
    odd group is its own, and stays as it is. A group is what batch statistics span, so neither they
    nor the partners depend on how many groups share a pass or a process. Both clips of a pair
    are used, each with a weight of its own: every clip is the first of one mixture and the second
    of another, so nothing is lost, and two weights vary more than a shared one.

    Args:
        inputs: float (N, 3, T, H, W), normalized.
        labels: int64 (N,), on the inputs' device.
        draws: of these clips, on the CPU.
        classes: number of classes.
        group: clips in a group; divides N.

    Returns:
        inputs of the same shape, and for each class the part of the clip that is of it, float32
        (N, classes); inputs and labels as they were if nothing is ever mixed.
    """
    if draws.mixing is None:
        return inputs, labels
    height, width = inputs.shape[-2:]
    plan = _mixing_plan(draws.mixing, height, width).to(inputs.device, non_blocking=True)
    parts, outside, top, left, bottom, right = plan.T[..., None]
    rows = torch.arange(height, device=inputs.device)
    columns = torch.arange(width, device=inputs.device)
    in_rows, in_columns = (rows >= top) & (rows < bottom), (columns >= left) & (columns < right)
    in_box = in_rows[:, :, None] & in_columns[:, None, :]
    own = torch.where(in_box, 0.0, outside[..., None])[:, None, None]
    targets = functional.one_hot(labels, classes).float()
    return (
        torch.lerp(_partners(inputs, group), inputs, own.to(inputs.dtype)),
        torch.lerp(_partners(targets, group), targets, parts),
    )


def _mixing_plan(mixing: Mixings, height: int, width: int) -> Tensor:
    """How to mix frames of a size.

    Returns:
        float32 (N, 6): the part of a frame that the clip keeps, its share of the pixels outside the
        box, and the box's top, left, bottom and right.
    """
    size = torch.tensor([height, width], dtype=torch.float64)
    half = (1 - mixing.weights).sqrt()[:, None] / 2 * mixing.boxed[:, None]
    low = ((mixing.centres - half) * size).round().clamp(min=0)
    high = torch.minimum(((mixing.centres + half) * size).round(), size)
    outside = torch.where(mixing.boxed, 1.0, mixing.weights)
    parts = outside * (1 - (high - low).prod(1) / size.prod())
    return torch.cat([torch.stack([parts, outside], 1), low, high], 1).float()


def _partners(values: Tensor, group: int) -> Tensor:
    return values.unflatten(0, (-1, group)).flip(1).flatten(0, 1)


def _mirror(clips: Tensor, flips: Tensor) -> Tensor:
    flips = flips.to(clips.device, non_blocking=True)
    return torch.where(flips[:, None, None, None, None], clips.flip(-1), clips)


# Bilinear: the nearest pixel is another one where two are as near and devices round differently.
_SMOOTH = InterpolationMode.BILINEAR


def _shear(clips: Tensor, across: float = 0.0, down: float = 0.0) -> Tensor:
    """About the top left corner."""
    angles = [math.degrees(math.atan(tangent)) for tangent in (across, down)]
    return transforms.affine(clips, 0.0, [0, 0], 1.0, angles, _SMOOTH, center=[0, 0])


def _translate(clips: Tensor, across: float = 0.0, down: float = 0.0) -> Tensor:
    """By whole pixels."""
    height, width = clips.shape[-2:]
    shift = [int(across * width), int(down * height)]
    return transforms.affine(clips, 0.0, shift, 1.0, [0.0, 0.0], _SMOOTH)


_CHANGES: dict[int, Callable[[Tensor, float], Tensor]] = {
    Operation.SHEAR_X: lambda clips, amount: _shear(clips, across=amount),
    Operation.SHEAR_Y: lambda clips, amount: _shear(clips, down=amount),
    Operation.TRANSLATE_X: lambda clips, amount: _translate(clips, across=amount),
    Operation.TRANSLATE_Y: lambda clips, amount: _translate(clips, down=amount),
    Operation.ROTATE: lambda clips, amount: transforms.rotate(clips, amount, _SMOOTH),
    Operation.BRIGHTNESS: transforms.adjust_brightness,
    Operation.SATURATION: transforms.adjust_saturation,
    Operation.CONTRAST: transforms.adjust_contrast,
    Operation.SHARPNESS: transforms.adjust_sharpness,
    Operation.POSTERIZE: lambda clips, amount: transforms.posterize(clips, round(amount)),
    Operation.SOLARIZE: transforms.solarize,
    Operation.AUTOCONTRAST: lambda clips, _: transforms.autocontrast(clips),
    Operation.EQUALIZE: lambda clips, _: transforms.equalize(clips),
    Operation.HUE: transforms.adjust_hue,
}
