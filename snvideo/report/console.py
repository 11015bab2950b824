"""Terminal output: the console, tables and progress bars of all commands."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from rich import box
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TaskID, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

ShowProgress = Callable[[str, int, int], None]
"""Called with the name of a step, how much of it is done, and how much there is."""


def console(stderr: bool = False) -> Console:
    """A console as wide as the terminal, and 100 columns wide where the output goes elsewhere."""
    on_terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return Console(stderr=stderr, width=None if on_terminal else 100)


def new_table(
    *columns: str, rows: Iterable[Sequence[str]] = (), title: str = "", text: int = 1
) -> Table:
    """A table of rows without markup; its first `text` columns hold text, the others numbers."""
    table = Table(title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    if title:
        table.title = Text(title, "bold")
    for column in columns[:text]:
        table.add_column(Text(column), overflow="fold")
    for column in columns[text:]:
        table.add_column(Text(column), justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))
    return table


@contextmanager
def progress(
    out: Console | None = None, transient: bool = False, disable: bool = False
) -> Iterator[ShowProgress]:
    """Progress bars on `out` (standard error by default), one for each step of some work.

    Yields:
        a function (step, done, total).
    """
    bars = Progress(
        *Progress.get_default_columns()[:2],  # name and bar
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=out or console(stderr=True),
        transient=transient,
        disable=disable,
        auto_refresh=False,  # by a thread, beside which worker processes could not be forked safely
    )
    steps: dict[str, TaskID] = {}
    refreshed = 0.0

    def show(step: str, done: int, total: int) -> None:
        nonlocal refreshed
        bars.start()
        if step in steps:
            bars.update(steps[step], completed=done)
        else:
            steps[step] = bars.add_task(step, total=total, completed=done)
        if (now := time.monotonic()) - refreshed >= 0.1:  # seconds
            bars.refresh()
            refreshed = now

    try:
        yield show
    finally:
        if steps:  # else nothing was shown, and an error comes alone
            bars.stop()
