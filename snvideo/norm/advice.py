"""Advice on the norms of a network's stages, from the noise of their batch statistics.

The limits are rules of thumb: they have been set on toy data and are not yet checked by accuracies
on real ones.
"""

from collections.abc import Mapping, Sequence
from itertools import takewhile
from statistics import median
from typing import Literal, NamedTuple

from snvideo.norm.diagnosis import NormDiagnosis

FINE = 0.25
"""Noise up to which batch statistics are fine: a 16th of the variance of the normalized values."""

MIXED = 0.5
"""Noise up to which they are worth a part in a mixture: a quarter of that variance."""

Choice = Literal["batch", "groups", "freeze", "sn", "gn"]


class Advice(NamedTuple):
    """Advice on the norms of one stage."""

    stage: str
    layers: int
    group: int
    """Clips of a group."""
    noise_by_size: dict[int, float]
    """Root mean square over the layers."""
    choice: Choice
    clips: int | None
    """The smallest group whose noise is fine, of those that are within reach."""
    otherwise: Choice
    """Advice where groups stay as they are, and the same where that is the advice anyway."""

    @property
    def noise(self) -> float:
        """Noise of the groups as they are."""
        return self.noise_by_size[self.group]

    def __str__(self) -> str:
        text = _TEXTS[self.choice]
        if self.clips is None:
            text += ", as no group within reach is fine"
        elif self.choice == "groups":
            other = _TEXTS[self.otherwise]
            text += (
                f" of {self.clips} (noise {self.noise_by_size[self.clips]:.2f}), or else {other}"
            )
        elif self.clips < self.group:
            text += f", and would be with {self.clips}"
        plural = "" if self.group == 1 else "s"
        return f"noise {self.noise:.2f} with {self.group} clip{plural}: {text}"


_TEXTS: dict[Choice, str] = {
    "batch": "batch statistics are fine",
    "groups": "use groups",
    "freeze": "freeze the norms (frozen_bn)",
    "sn": "use SN",
    "gn": "use GN",
}


def advise(
    layers: Sequence[NormDiagnosis],
    stages: Mapping[str, str] | None = None,
    *,
    pretrained: bool = False,
    most_clips: int | None = None,
) -> list[Advice]:
    """Advice on every stage, by the noise of independent clips (`noise_by_size`).

    In this order: batch statistics are fine where the noise is at most `FINE`; else the smallest
    group for which it is; else frozen norms where training starts from trained ones; else SN where
    the noise is at most `MIXED`; else GN, and with one clip, for which SN has no batch part.
    Groups are ghost groups, or span processes; a network has one size of them for all its stages.

    Args:
        layers: of one diagnosis, of a network whose norms see large groups (see `diagnose`).
        stages: stage of each layer by its name; None: `stages_of`.
        pretrained: training starts from weights with trained norms.
        most_clips: the largest group within reach, as the clips of a step; None: any.

    Raises:
        ValueError: for layers that were diagnosed in groups of several sizes.
    """
    if len({layer.group for layer in layers}) > 1:
        raise ValueError("advice is on one size of groups: diagnose with clips_per_group")
    stages = stages_of([layer.layer for layer in layers]) if stages is None else stages
    members: dict[str, list[NormDiagnosis]] = {}
    for layer in layers:
        members.setdefault(stages[layer.layer], []).append(layer)
    return [_advise(stage, found, pretrained, most_clips) for stage, found in members.items()]


def _advise(
    stage: str, layers: list[NormDiagnosis], pretrained: bool, most_clips: int | None
) -> Advice:
    group = layers[0].group
    noise = {
        size: (sum(layer.noise_by_size[size] ** 2 for layer in layers) / len(layers)) ** 0.5
        for size in layers[0].noise_by_size
    }
    in_reach = [size for size in noise if most_clips is None or size <= max(most_clips, group)]
    clips = next((size for size in in_reach if noise[size] <= FINE), None)
    otherwise: Choice = "gn"
    if noise[group] <= FINE:
        otherwise = "batch"
    elif pretrained:
        otherwise = "freeze"
    elif noise[group] <= MIXED and group > 1:
        otherwise = "sn"
    choice = otherwise if otherwise == "batch" or clips is None else "groups"
    return Advice(stage, len(layers), group, noise, choice, clips, otherwise)


def network_noise(layers: Sequence[NormDiagnosis], clips: int | None = None) -> float:
    """Noise of a network as one figure: the median over the uses of its norms.

    It is meant for putting networks and groups in an order, as beside the accuracy that Batch
    Normalization loses; a median, for a few layers of much noise should not decide it.

    Args:
        layers: of one diagnosis.
        clips: group of independent clips, one of `noise_by_size`; None: the group of the diagnosis.

    Raises:
        ValueError: without layers, or for a group that no noise is known of.
    """
    if not layers:
        raise ValueError("no norm was diagnosed")
    known = set.intersection(*(set(layer.noise_by_size) for layer in layers))
    if clips is not None and clips not in known:
        raise ValueError(
            f"noise is known of {', '.join(map(str, sorted(known)))} clips: not {clips}"
        )
    return median(layer.noise_by_size[clips or layer.group] for layer in layers)


def stages_of(names: Sequence[str]) -> dict[str, str]:
    """Stage of each norm by its name: the first module in which the names differ."""
    parts = [name.split(".") for name in names]
    alike = takewhile(lambda column: len(set(column)) == 1, zip(*parts, strict=False))
    common = len(list(alike)) if len(set(names)) > 1 else 0
    return {name: ".".join(part[: common + 1]) for name, part in zip(names, parts, strict=True)}
