"""Where figures go: to the terminal, and to files."""

import json
import platform
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from sheets import Row, Sheet, markdown

JsonFile = Annotated[Path | None, typer.Option("--json", help="Write the figures here too.")]
MarkdownFile = Annotated[Path | None, typer.Option("--markdown", help="Write the tables here too.")]

WIDTH = 200
"""Columns of what goes to no terminal."""


def processor() -> str:
    """The CPU's name, as far as the system tells."""
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else ():
        key, _, name = line.partition(":")
        if key.strip() == "model name":
            return name.strip()
    return platform.processor() or platform.machine()


def publish(
    program: str,
    where: Row,
    figures: dict[str, Any],
    sheets: list[Sheet],
    remarks: list[str],
    json_file: Path | None,
    markdown_file: Path | None,
) -> None:
    """Print tables and remarks, and write them and the figures.

    Args:
        program: its file's name.
        where: the hardware and the versions that the figures come from.
        figures: what the JSON file holds beside these and the command.
        sheets, remarks: the tables, and lines below them.
        json_file, markdown_file: to be written, with all folders; None: not.
    """
    command = shlex.join(["python", f"benchmarks/{program}", *sys.argv[1:]])
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    for sheet in sheets:
        console.print(sheet.rich())
    print(*remarks, sep="\n")
    text = json.dumps({"machine": where, "command": command, **figures}, indent=1)
    _write(json_file, text + "\n")
    _write(markdown_file, markdown(command, where, sheets, remarks))


def _write(path: Path | None, text: str) -> None:
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
