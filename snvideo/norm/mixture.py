"""The statistics that a Switchable Normalization layer mixes, and the ratios it mixes them by."""

from collections.abc import Sequence
from math import gcd
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

Part = Literal["instance", "group", "layer", "batch"]
Ratios = Literal["softmax", "l1"]
Start = Literal["equal", "batch", "layer", "depth"]

PARTS: tuple[Part, ...] = get_args(Part)
"""Every kind of statistics that can be mixed, in the order of the logits."""

LEAN = 5.0
"""Logit of the part that a start leans to, against 0 of the others: exp(5) to 1."""

DEPTH_RANGE = 3.0
"""Difference of logits that start="depth" has at the first and at the last norm of a network."""


class MixtureSpec(NamedTuple):
    """Statistics that a layer mixes; the default is the paper's mixture."""

    parts: tuple[Part, ...] = ("instance", "layer", "batch")
    channel_groups: int = 1
    """Groups of channels of the group part; 1 without one."""
    ratios: Ratios = "softmax"
    """Map from logits to ratios, see `mixture_ratios`."""


PAPER = MixtureSpec()
"""Switchable Normalization (arXiv 1806.10779)."""

ONE_SAMPLE = MixtureSpec(("instance", "layer"))
"""The paper's form for one sample at a time, where batch and instance statistics are equal."""


BATCH_ALONE = MixtureSpec(("batch",))
"""Batch Normalization."""


def mixture_spec(
    parts: Sequence[str], groups: int, num_features: int, ratios: str = "softmax"
) -> MixtureSpec:
    """Checked mixture for a layer.

    Args:
        parts: a subset of `PARTS`, in any order.
        groups: groups of channels of the group part, at most; where they do not divide the
            channels, the greatest common divisor is taken.
        num_features: channels of the layer.
        ratios: a name of `Ratios`.

    Raises:
        ValueError: for unknown, repeated or no parts, for fewer than one group and for unknown
            ratios.
    """
    named = [parts] if isinstance(parts, str) else list(parts)
    unknown = [part for part in named if part not in PARTS]
    if unknown or not named or len(set(named)) < len(named):
        raise ValueError(f"parts are some of {', '.join(PARTS)}, each once (got {parts!r})")
    if groups < 1:
        raise ValueError(f"groups of channels are 1 or more (got {groups})")
    if ratios not in get_args(Ratios):
        raise ValueError(f"ratios are one of {', '.join(get_args(Ratios))} (got {ratios!r})")
    chosen = ordered_parts(named)
    return MixtureSpec(
        chosen,
        gcd(groups, num_features) if "group" in chosen else 1,
        ratios,  # type: ignore[arg-type] # checked above
    )


def ordered_parts(named: Sequence[str]) -> tuple[Part, ...]:
    """Parts in the order of the logits, whatever order they are named in."""
    return tuple(part for part in PARTS if part in named)


def start_in_order(start: Start | Sequence[float], named: Sequence[str]) -> Start | Sequence[float]:
    """Numbers of a start, given one for each part as it was named, in the order of the logits.

    Args:
        start: as for `start_logits`; one by name stays as it is.
        named: the parts in any order.
    """
    if isinstance(start, str) or len(start) != len(named):
        return start
    numbers = dict(zip(named, start, strict=True))
    return tuple(numbers[part] for part in ordered_parts(named))


def mixture_ratios(logits: Tensor, ratios: Ratios) -> Tensor:
    """Weights of the parts, non-negative and of sum one, from the logits z that a layer stores.

    "softmax", as in the paper: exp(z_k) / sum_j exp(z_j). Near a single part its derivative is
    starved: at ratios of 0.7 %, 0.7 % and 98.6 % it is 34 times smaller than at equal ones.
    "l1": abs(z_k) / sum_j abs(z_j), whose derivative is as large at a single part as at equal
    ratios, so that a mixture may begin there and leave.

    Args:
        logits: (parts,).
        ratios: which of the two.
    """
    if ratios == "softmax":
        return logits.softmax(0)
    sizes = torch.where(logits < 0, -logits, logits)  # abs(), but its derivative at 0 is 1
    return sizes / sizes.sum()


def start_logits(start: Start | Sequence[float], spec: MixtureSpec, depth: float = 0.5) -> Tensor:
    """Logits (parts,) that a mixture begins with.

    Args:
        start: "equal" ratios (the paper); "batch" or "layer", all but 1 % on that part with softmax
            and all with "l1"; "depth", leaning to the most local of instance, group and layer
            statistics at the first norm of a network and to the others at the last, linear in
            between; or the logits themselves, one a part.
        spec: of the layer.
        depth: for "depth", 0 at the first norm to 1 at the last.

    Raises:
        ValueError: for an unknown start, a part that there is not, or a wrong number of logits.
    """
    parts = spec.parts
    if not isinstance(start, str):
        if len(start) != len(parts):
            raise ValueError(f"start has one number for each of {', '.join(parts)} (got {start})")
        logits = torch.tensor([float(number) for number in start], device="cpu")
        if not mixture_ratios(logits, spec.ratios).isfinite().all():
            raise ValueError(f"start gives no ratios (got {start})")
        return logits
    if start not in get_args(Start):
        names = ", ".join(get_args(Start))
        raise ValueError(f"start is one of {names} or a number for each part (got '{start}')")
    logits = torch.zeros(len(parts), device="cpu")  # wherever the layer is to be
    if start in PARTS:
        if start not in parts:
            raise ValueError(f"start='{start}' needs a {start} part (got {', '.join(parts)})")
        logits[parts.index(start)] = float("inf") if spec.ratios == "l1" else LEAN
    local = [part for part in parts if part != "batch"]
    if start == "depth" and len(local) > 1:
        leaning: dict[str, float] = {part: DEPTH_RANGE * depth for part in local}
        leaning |= {local[0]: DEPTH_RANGE * (1 - depth), "batch": DEPTH_RANGE / 2}
        logits = torch.tensor([leaning[part] for part in parts], device="cpu")
    if spec.ratios == "softmax":
        return logits
    one_part = logits.isinf()
    return one_part.float() if one_part.any() else logits.softmax(0)
