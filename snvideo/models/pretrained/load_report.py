"""Report of the tensors that a network has loaded from weights."""

from __future__ import annotations

from collections import Counter
from typing import Any, Literal, NamedTuple, get_args

Status = Literal["loaded", "inflated", "reset", "dropped"]
STATUSES: tuple[Status, ...] = get_args(Status)


class TensorEntry(NamedTuple):
    """Status of one tensor."""

    name: str
    """In the network; that in the source for a dropped one."""
    status: Status
    """`loaded` as it is, `inflated` from 2D, `reset` to its initial value, or `dropped`."""
    values: int
    """Numbers in the tensor."""
    why: str = ""


class LoadReport(NamedTuple):
    """Status of every tensor of a network and of the weights that it has loaded."""

    origin: str
    format: str
    sha256: str | None
    entries: tuple[TensorEntry, ...]
    notes: tuple[str, ...]
    new_classes: int = 0
    """Classes of the network that start anew, as the source has none of that name."""

    def count(self, status: Status) -> int:
        """Number of tensors of a status."""
        return sum(entry.status == status for entry in self.entries)

    def table(self) -> list[str]:
        """Lines: the number of tensors of each status, reasons, and the notes."""
        counts = ", ".join(f"{self.count(status)} {status}" for status in STATUSES)
        reasons = Counter((entry.status, entry.why) for entry in self.entries if entry.why)
        why = [f"{number} {status}: {reason}" for (status, reason), number in reasons.items()]
        return [f"weights from {self.origin} ({self.format}): {counts}", *why, *self.notes]

    def to_dict(self) -> dict[str, Any]:
        """The whole report in plain values, as it is written into a run directory."""
        keys = ("name", "fate", "values", "why")
        tensors = [dict(zip(keys, entry, strict=True)) for entry in self.entries]
        return {**self.summary(), "notes": list(self.notes), "tensors": tensors}

    def summary(self) -> dict[str, Any]:
        """The origin, and the number of tensors of each status, in plain values."""
        return {
            "origin": self.origin,
            "format": self.format,
            "sha256": self.sha256,
            **{status: self.count(status) for status in STATUSES},
        }
