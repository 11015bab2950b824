"""What became of every tensor when a network took over weights."""

from __future__ import annotations

from collections import Counter
from typing import Any, Literal, NamedTuple

Fate = Literal["loaded", "inflated", "reset", "dropped"]

FATES: tuple[Fate, ...] = ("loaded", "inflated", "reset", "dropped")

_THEIRS = "(theirs alone)"
"""The row of tensors that our network has no use for."""


class Entry(NamedTuple):
    """What became of one tensor."""

    name: str
    """In the words of our network."""
    fate: Fate
    """`loaded` as it is, `inflated` from 2D, `reset`: as a new network has it, or `dropped`."""
    values: int
    """Numbers in the tensor."""
    why: str = ""


class Report(NamedTuple):
    """What a network has of somebody's weights."""

    origin: str
    format: str
    sha256: str | None
    entries: tuple[Entry, ...]
    notes: tuple[str, ...]
    new_classes: int = 0
    """Classes of the network that start anew, as the source has none of that name."""

    def count(self, fate: Fate) -> int:
        """Tensors of a fate."""
        return sum(entry.fate == fate for entry in self.entries)

    def lines(self) -> list[str]:
        """A table to be printed: a line for each part of the network, then what is to be known."""
        parts: dict[str, Counter[Fate]] = {}
        for entry in self.entries:
            parts.setdefault(_part(entry), Counter())[entry.fate] += 1
        if _THEIRS in parts:
            parts[_THEIRS] = parts.pop(_THEIRS)  # last
        width = max(len("all tensors"), *map(len, parts))
        table = [f"{'':{width}}" + "".join(f"{fate:>10}" for fate in FATES)]
        for part, counts in parts.items():
            table.append(_row(part, counts, width))
        table.append(_row("all tensors", Counter(entry.fate for entry in self.entries), width))
        reasons = Counter((e.fate, e.why) for e in self.entries if e.why)
        why = [f"{number} {fate}: {reason}" for (fate, reason), number in reasons.items()]
        return [f"weights from {self.origin} ({self.format}):", *table, *why, *self.notes]

    def facts(self) -> dict[str, Any]:
        """In plain values: the origin, and every tensor's fate."""
        return {
            **self.summary(),
            "notes": list(self.notes),
            "tensors": [entry._asdict() for entry in self.entries],
        }

    def summary(self) -> dict[str, Any]:
        """In plain values: the origin, and how many tensors had which fate."""
        return {
            "origin": self.origin,
            "format": self.format,
            "sha256": self.sha256,
            **{fate: self.count(fate) for fate in FATES},
        }


def _row(part: str, counts: Counter[Fate], width: int) -> str:
    cells = "".join(f"{counts[fate] or '-':>10}" for fate in FATES)
    return f"{part:{width}}{cells}"


def _part(entry: Entry) -> str:
    """The part of the network that a tensor lies in: `blocks.3`, or the first word."""
    if entry.fate == "dropped":
        return _THEIRS
    words = entry.name.split(".")
    return ".".join(words[:2]) if words[0] == "blocks" else words[0]
