"""What backbones there are, as a table: size and cost, counted on the networks themselves."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import NamedTuple

import torch
from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from snvideo.errors import SnvideoError
from snvideo.models.cost import count_parameters, multiply_adds
from snvideo.models.registry import BACKBONES, Backbone, backbone, build_model
from snvideo.norm import NORMS


class Listed(NamedTuple):
    """A backbone and what it costs."""

    name: str
    backbone: Backbone
    parameters: int
    multiply_adds: int
    """Of one test view."""


def listed(names: Sequence[str] = (), norm: str = "bn", classes: int = 400) -> Iterator[Listed]:
    """Count one network after the other.

    Args:
        names: of `BACKBONES`; none for all.
        norm: one of `NORMS`.
        classes: size of the logits.

    Raises:
        SnvideoError: for an unknown name or norm, before anything is counted.
    """
    found = {name: backbone(name) for name in names or BACKBONES}
    if norm not in NORMS:
        raise SnvideoError(f"unknown norm '{norm}': expected one of {', '.join(NORMS)}")
    return (_count(name, found[name], norm, classes) for name in found)


def _count(name: str, found: Backbone, norm: str, classes: int) -> Listed:
    with torch.device("meta"):  # shapes alone: nothing is allocated, nothing drawn
        model = build_model(name, classes, norm)
    cost = multiply_adds(model, found.frames, found.crop)
    return Listed(name, found, count_parameters(model), cost)


def show(rows: Iterator[Listed]) -> None:
    """Print a table that grows while the networks are counted."""
    console = Console() if sys.stdout.isatty() else Console(width=100)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("model", no_wrap=True)
    for head in ("a test view", "stride", "parameters", "GFLOPs"):
        table.add_column(head, justify="right", no_wrap=True)
    live = Live(table, console=console) if console.is_terminal else nullcontext()
    with live:
        for row in rows:
            view, millions = row.backbone, row.parameters / 1e6
            cells = (
                f"3 x {view.frames} x {view.crop} x {view.crop}",
                f"{view.stride}",
                f"{millions:.2f} M",
                f"{row.multiply_adds / 1e9:.2f}",
            )
            table.add_row(Text(row.name), *cells)
    if not console.is_terminal:
        console.print(table)
