"""Choices of a first config, each a function of a few facts, with its reason in a sentence."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from snvideo.data.config import ClipConfig
from snvideo.data.sampling import is_short
from snvideo.models.pretrained import Preprocessing, WeightsSource
from snvideo.models.registry import get_backbone
from snvideo.text import shorten_list

SHORT = 0.1
"""Part of the videos that may be shorter than a clip."""
LARGE_GROUP = 8
"""Clips of a group that are enough for batch statistics, and the most that are chosen."""
MANY = 20_000
"""Training videos from which on a ResNet-50 is trained from scratch."""
FEW = 1000
"""Training videos below which training from scratch is worth a warning."""
RARE = 5
"""The largest class may have so many times the videos of the smallest, before classes are drawn
equally often."""
_SAMPLE = 1000  # videos whose length is compared with a clip

_DIRECTIONS = re.compile(
    r"(?<![a-z])((left|right)(wards?|hand|handed)?|(anti|counter)?clockwise|c?cw)(?![a-z])"
)


class Choice(NamedTuple):
    """A value and the reason for it."""

    value: Any
    why: str


def is_tiny(name: str) -> bool:
    """True for the networks that are made for CPUs."""
    return name.endswith("_tiny")


def choose_network(gpu: bool, videos: int) -> Choice:
    """A backbone to train from scratch on so many videos."""
    if not gpu:
        return Choice("i3d_tiny", "no GPU: a narrow I3D, which two cores train in minutes")
    if videos < MANY:
        return Choice("x3d_s", f"a GPU, and fewer than {MANY:,} videos: a small network")
    return Choice("slow_r50_8x8", f"a GPU and {videos:,} videos: a ResNet-50, from scratch")


def choose_clip(
    name: str, fps: np.ndarray, frames: np.ndarray, trained: Preprocessing | None = None
) -> Choice:
    """A `ClipConfig`: as long as clips of the network usually are, or shorter to fit the videos.

    Args:
        name: of the backbone.
        fps, frames: of the videos, (videos,).
        trained: of the weights that it starts from, if they say.
    """
    view, rate = get_backbone(name), float(np.median(fps))
    if trained is not None:
        known = ClipConfig.model_validate(trained.model_dump(include={*ClipConfig.model_fields}))
    else:
        # Published views are of Kinetics, mostly at 30 frames a second; the toy videos have 15.
        seconds = view.frames * view.stride / (15 if is_tiny(name) else 30)
        slow, fast = np.quantile(fps, (0.05, 0.95))
        target = round(rate, 3) if fast > 1.2 * slow else None
        stride = max(1, round(seconds * rate / view.frames))
        known = ClipConfig(frames=view.frames, stride=stride, target_fps=target)
    rows = np.linspace(0, len(fps) - 1, min(_SAMPLE, len(fps))).astype(int)
    for stride in range(known.stride, 0, -1):
        clip = known.model_copy(update={"stride": stride})
        short = sum(is_short(clip, fps[k], int(frames[k])) for k in rows) / len(rows)
        if short <= SHORT:
            break
    seconds = clip.frames * clip.stride / (clip.target_fps or rate)
    less = f", cut from a stride of {known.stride}" if clip.stride < known.stride else ""
    own = " at one rate, as files differ in theirs" if clip.target_fps else ""
    why = (
        f"{clip.frames} frames, {seconds:.2g} s{own}{less}: {_share(1 - short)} of the videos last "
        f"so long, half of them {float(np.median(frames / fps)):.3g} s or more"
    )
    return Choice(clip, why)


def _share(part: float) -> str:
    return "all" if part == 1 else f"{100 * part:.0f} %"


class Crops(NamedTuple):
    """Sides in pixels."""

    train: int
    short_side: tuple[int, int]
    """Of a frame that a training crop is cut from, least and greatest."""
    test: int
    test_short_side: int


def choose_crops(
    name: str, sizes: Mapping[tuple[int, int], int], trained: Preprocessing | None = None
) -> Choice:
    """`Crops`: those that the network is known by, or for a tiny one what the videos have.

    Args:
        name: of the backbone.
        sizes: width and height -> videos.
        trained: of the weights that it starts from, if they say.
    """
    view = get_backbone(name).crop if trained is None else trained.crop
    short_side = view if trained is None else trained.short_side
    known = "was published with" if trained is None else "of the weights was tested with"
    if not is_tiny(name):
        crop = 8 * round(view * 7 / 64) if view > 112 else view  # 224 for 256, as published
        sides = round(crop * 8 / 7), round(crop * 10 / 7)
        return Choice(Crops(crop, sides, view, short_side), f"the view that {name} {known}")
    if trained is not None:
        sides = short_side, short_side * 5 // 4
        return Choice(Crops(view, sides, view, short_side), f"the view that {name} {known}")
    shorter = sorted({min(size) for size in sizes})
    low, seen = shorter[0], 0
    for low in shorter:  # all but the smallest 5 % of the videos are not enlarged
        seen += sum(number for size, number in sizes.items() if min(size) == low)
        if seen > 0.05 * sum(sizes.values()):
            break
    crop = max(32, min(64, low // 16 * 16))
    return Choice(Crops(crop, (crop, crop * 5 // 4), crop, crop), "small pictures, for a CPU")


class BatchGeometry(NamedTuple):
    """A batch geometry, and the processes that it is divided among."""

    gpus: int
    clips_per_gpu: int
    gpus_per_pass: int
    processes: int


def choose_batch(videos: int, fit: int | None, devices: int = 1) -> Choice:
    """A `BatchGeometry` of powers of two, at most half of the training videos; of more groups where
    the devices are to have as many each, and there are videos for them.

    Args:
        videos: for training.
        fit: clips whose pass fits into the memory of a device; None if that is not known.
        devices: GPUs of the machine; 1 without.
    """
    fits = 64 if fit is None else max(1, fit)
    wanted = 16 if videos < 2000 else 32 if videos < MANY else 64
    total = _power(min(wanted, videos // 2))
    clips = _power(min(LARGE_GROUP, fits, total))
    gpus = total // clips
    processes = devices if -(-gpus // devices) * devices * clips <= videos else 1
    gpus = -(-gpus // processes) * processes
    share = gpus // processes
    together = max(
        n for n in range(1, share + 1) if share % n == 0 and (n == 1 or n * clips <= fits)
    )
    room = f"memory has room for {'more than 64' if fits > 64 else fits} at a time"
    if not fit:
        room = "memory is not known" if fit is None else "memory may not have room for one"
    step = f"{gpus * clips} clips a step for {videos:,} training videos; {room}"
    return Choice(BatchGeometry(gpus, clips, together, processes), step)


def _power(number: float) -> int:
    """The largest power of two that is no larger, at least 1."""
    return 1 << max(0, int(number).bit_length() - 1)


def choose_norm(name: str, clips: int, source: WeightsSource | None) -> Choice:
    """Settings of `model.norm`, by the clips of a group and the norm of the weights."""
    few = f"{clips} clip{'s' * (clips > 1)} a group"
    equal = {} if source is None else {"start": "equal"}  # the recipe has another, for SN from BN
    kind = source and (source.metadata.norm if source.metadata else source.norm)
    if kind == "bn" and clips < LARGE_GROUP:
        if clips == 1:
            return Choice(
                {"name": "frozen_bn", **equal},
                "of one clip there are no batch statistics: BN keeps those of the weights",
            )
        return Choice(
            {"name": "sn", "start": "batch"},
            f"{few}, few for BN: SN begins as the BN of the weights, and may leave the batch part",
        )
    if kind is not None and source is not None:
        known = ("groups", "parts", "ratios", "channels_per_group")
        options = source.metadata.norm_options if source.metadata else {}
        kept = {key: value for key, value in options.items() if key in known}
        return Choice({"name": kind, **equal, **kept}, "the norm of the weights")
    if clips >= LARGE_GROUP:
        return Choice(
            {"name": "bn", **equal},
            f"{few}, enough for batch statistics; sn and gn are worth a comparison",
        )
    groups = {"groups": 8} if is_tiny(name) else {}
    return Choice(
        {"name": "gn", **equal, **groups},
        f"{few}, few for batch statistics: GN has none, and had the highest mean with one, two and "
        "four clips in the study of this package, where no difference from SN was shown",
    )


def choose_epochs(steps: int, gpu: bool, weights: bool) -> Choice:
    """Length of a run with so many steps an epoch."""
    if weights:
        wanted, least, most = 1500, 10, 60
    elif gpu:
        wanted, least, most = 15_000, 30, 200
    else:
        wanted, least, most = 1000, 10, 200
    epochs = min(most, max(least, math.ceil(wanted / steps)))
    start = "from weights" if weights else "from scratch"
    of = f"{steps:,} step{'s' * (steps > 1)} each"
    return Choice(epochs, f"{epochs * steps:,} steps {start}, as epochs have {of}")


def choose_flip(labels: Sequence[str]) -> Choice:
    """False where a class name speaks of a side or a direction of turning."""
    words = {name: re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower() for name in labels}
    sided = [name for name, text in words.items() if _DIRECTIONS.search(text)]
    if sided:
        return Choice(False, f"a mirror image would be of another class: {shorten_list(sided)}")
    if all(name.isdigit() for name in labels):
        why = "class names are numbers: set it to false if any class has a left or a right"
        return Choice(True, why)
    return Choice(True, "no class name has left, right or clockwise: false if a mirror matters")


def choose_sampling(labels: Sequence[str], counts: np.ndarray) -> Choice:
    """Balanced where the classes differ much in their training videos, (labels,)."""
    some = counts[counts > 0]
    least, most = int(some.min()), int(some.max())
    spread = f"classes have {least:,} to {most:,} training videos"
    if least == most:
        return Choice("shuffled", f"classes have {least:,} training videos each")
    if most >= RARE * least:
        rare = labels[int(np.flatnonzero(counts == least)[0])]
        return Choice("balanced", f"{spread}, fewest of {rare}: each is drawn as often")
    return Choice("shuffled", spread)
