"""Table of the backbones."""

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from rich.live import Live
from rich.text import Text

from snvideo.errors import SnvideoError
from snvideo.models import create_model, list_models
from snvideo.models.cost import count_parameters, multiply_adds
from snvideo.models.registry import get_backbone
from snvideo.norm import NORMS
from snvideo.report.console import console, new_table


def print_models(names: Sequence[str] = (), norm: str = "bn", classes: int = 400) -> None:
    """Print a table of backbones, all by default, that grows while the networks are counted.

    Raises:
        SnvideoError: for an unknown name or norm, before anything is counted.
    """
    backbones = {name: get_backbone(name) for name in names or list_models()}
    if norm not in NORMS:
        raise SnvideoError(f"unknown norm '{norm}': expected one of {', '.join(NORMS)}")
    out = console()
    table = new_table("model", "a test view", "stride", "parameters", "GFLOPs")
    table.columns[0].no_wrap = True
    with Live(table, console=out) if out.is_terminal else nullcontext():
        for name, view in backbones.items():
            with torch.device("meta"):
                model = create_model(name, classes, norm)
            table.add_row(
                Text(name),
                f"3 x {view.frames} x {view.crop} x {view.crop}",
                f"{view.stride}",
                f"{count_parameters(model) / 1e6:.2f} M",
                f"{multiply_adds(model, view.frames, view.crop) / 1e9:.2f}",
            )
    if not out.is_terminal:
        out.print(table)
