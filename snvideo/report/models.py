"""Table of the backbones."""

from collections.abc import Iterator
from contextlib import nullcontext

from rich.live import Live
from rich.text import Text

from snvideo.models.cost import ListedModel
from snvideo.report.console import console, new_table


def show_models(rows: Iterator[ListedModel]) -> None:
    """Print a table that grows while the networks are counted."""
    out = console()
    table = new_table("model", "a test view", "stride", "parameters", "GFLOPs")
    table.columns[0].no_wrap = True
    with Live(table, console=out) if out.is_terminal else nullcontext():
        for row in rows:
            view = row.backbone
            table.add_row(
                Text(row.name),
                f"3 x {view.frames} x {view.crop} x {view.crop}",
                f"{view.stride}",
                f"{row.parameters / 1e6:.2f} M",
                f"{row.multiply_adds / 1e9:.2f}",
            )
    if not out.is_terminal:
        out.print(table)
