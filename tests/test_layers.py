"""Layers import downwards alone, and only the topmost plot, lay out or print."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import snvideo

PACKAGE = Path(snvideo.__file__).parent
BELOW = {  # package -> what it may import of snvideo, beside the modules that all may
    "norm": {"norm"},
    "models": {"models", "norm"},
    "data": {"data"},
    "engine": {"engine", "models", "data", "norm"},
    "study": {"study", "engine", "models", "data", "norm"},
    "report": {"report", "study", "engine", "models", "data", "norm"},
    "translation": {"translation", "config", "engine", "models"},
}
FOR_ALL = {"atomic", "base_config", "errors", "extras", "lock", "text"}
PLOTTING = {"matplotlib", "rich"}
DRAWING = {"PIL.ImageDraw", "PIL.ImageFont"}


def imports(file: Path) -> Iterator[str]:
    """Dotted names of all that a file imports, at its head or inside functions."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert not node.level, f"{file}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("package", BELOW)
def test_no_layer_imports_upwards(package: str):
    for file in (PACKAGE / package).rglob("*.py"):
        names = {name.split(".")[1] for name in imports(file) if name.startswith("snvideo.")}
        assert names <= BELOW[package] | FOR_ALL, file


@pytest.mark.parametrize("package", [name for name in BELOW if name != "report"])
def test_nothing_below_the_report_plots_or_prints(package: str):
    for file in (PACKAGE / package).rglob("*.py"):
        found = set(imports(file))
        assert not {name.split(".")[0] for name in found} & PLOTTING, file
        assert not found & DRAWING, file
