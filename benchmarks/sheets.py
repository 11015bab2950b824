"""Figures as tables, for the terminal and for documents."""

from collections.abc import Callable
from statistics import median
from typing import Any, NamedTuple

from rich.table import Table

Row = dict[str, Any]
"""Figures of one rival in one setting, as at one shape in one memory format."""

SPREAD = "{median:.2f} ({low:.2f}..{high:.2f})"
"""Of a row's quartiles."""


class Sheet(NamedTuple):
    """A table to be shown."""

    title: str
    columns: tuple[str, ...]
    lines: list[tuple[str, ...]]

    def markdown(self) -> str:
        lines = [self.columns, ("---",) * len(self.columns), *self.lines]
        return "\n".join([f"{self.title}\n", *(f"| {' | '.join(line)} |" for line in lines)])

    def rich(self) -> Table:
        table = Table(*self.columns, title=self.title)
        for line in self.lines:
            table.add_row(*line)
        return table


def markdown(command: str, where: Row, sheets: list[Sheet], lines: list[str]) -> str:
    """All tables, with the command and the hardware they come from."""
    known = ", ".join(f"{key}: {value}" for key, value in where.items() if value is not None)
    parts = [f"```\n{command}\n```", known, *(sheet.markdown() for sheet in sheets)]
    return "\n\n".join([*parts, "\n".join(f"- {line}" for line in lines)]).rstrip() + "\n"


def pivot(title: str, rows: list[Row], line: str, column: str, cell: Callable[[Row], str]) -> Sheet:
    """A line for every value of one figure, a column for every value of another."""
    columns = list(dict.fromkeys(row[column] for row in rows))
    cells = {(row[line], row[column]): cell(row) for row in rows}
    lines = [
        (name, *(cells.get((name, other), "") for other in columns))
        for name in dict.fromkeys(row[line] for row in rows)
    ]
    return Sheet(title, ("", *columns), lines)


def ratio_sheets(layout: str, what: str, rows: list[Row]) -> list[Sheet]:
    """Times as ratios with their quartiles; and against the bandwidth, where it is known."""
    title = f"{layout}: {what} (quartiles)"
    sheets = [_by_rival(title, rows, lambda row: SPREAD.format(**row))]
    floors = [row for row in rows if "of_floor" in row]
    title = f"{layout}: part of the speed that the bandwidth allows"
    sheets.append(_by_rival(title, floors, lambda row: f"{row['of_floor']:.2f}"))
    return [sheet for sheet in sheets if sheet.lines]


def memory_sheets(rows: list[Row]) -> list[Sheet]:
    """What is saved for backward and held at most, in sizes of x."""
    if not rows:
        return []
    kinds = [(kind, rival) for kind in ("saved", "peak") for rival in rows[0]["saved_bytes"]]
    lines = []
    for row in rows:
        sizes = [f"{row[f'{kind}_bytes'][rival] / row['x_bytes']:.3f}" for kind, rival in kinds]
        more = f"{row['more_per_sample_channel']:.1f}"
        lines.append((row["name"], _by_sign(row["shape"]), row["format"], *sizes, more))
    title = "memory: saved for backward, and peak of both passes beyond x and dy; x = 1"
    columns = ("", "shape", "format", *(f"{kind}, {rival}" for kind, rival in kinds))
    return [Sheet(title, (*columns, "SN - BN saved, bytes per (sample x channel)"), lines)]


def summary(rows: list[Row]) -> list[str]:
    """The median over shapes of every rival in each format."""
    ratios: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        ratios.setdefault((row["format"], row["rival"]), []).append(row["median"])
    return [
        f"{layout}, {rival}: median over shapes {median(found):.2f}"
        for (layout, rival), found in ratios.items()
    ]


def _by_rival(title: str, rows: list[Row], cell: Callable[[Row], str]) -> Sheet:
    """A column for every rival, a line for every shape."""
    lines: dict[str, list[str]] = {}
    for row in rows:
        start = [row["name"], _by_sign(row["shape"]), f"{row['base_ms']:.2f}"]
        lines.setdefault(row["name"], start).append(cell(row))
    rivals = dict.fromkeys(row["rival"] for row in rows)
    return Sheet(title, ("", "shape", "base ms", *rivals), [tuple(line) for line in lines.values()])


def _by_sign(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
