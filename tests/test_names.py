"""The rules of how things are called, held for the whole package."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import snvideo

ROOT = Path(snvideo.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
LONGEST = 400
"""Lines of a file."""

QUESTIONS = {"what", "whether", "how", "that", "which", "who", "whose", "where", "when", "why"}
"""Words that do not name a thing, at the beginning of a docstring."""

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def definitions(body: list[ast.stmt]) -> Iterator[Definition]:
    """Classes and functions, those of classes included."""
    for node in body:
        if isinstance(node, Definition):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from definitions(node.body)


def public(body: list[ast.stmt]) -> Iterator[Definition]:
    """Classes, functions and methods without an underscore in their path."""
    for node in body:
        if isinstance(node, Definition) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from public(node.body)


def module(path: Path) -> str:
    return ".".join(("snvideo", *path.relative_to(ROOT).with_suffix("").parts))


def test_first_lines_name_things():
    asking = []
    for path in FILES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in (tree, *definitions(tree.body)):
            words = (ast.get_docstring(node) or "").split()
            if words and words[0].lower().strip(",.:") in QUESTIONS:
                asking.append(f"{module(path)}: {' '.join(words[:8])}")
    assert not asking, "\n".join(asking)


def test_public_things_are_documented():
    bare = []
    for path in FILES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found = [tree, *public(tree.body)]
        documented = {getattr(node, "name", "") for node in found if ast.get_docstring(node)}
        for node in found:
            name = getattr(node, "name", "")  # an override is documented by what it overrides
            if name not in documented and path.stat().st_size:
                bare.append(f"{module(path)}: {name}")
    assert not bare, "\n".join(bare)


def test_one_name_means_one_thing():
    places = defaultdict(list)
    # Commands are called like the functions that they call, and kernels have one interface.
    alike = (ROOT / "cli", ROOT / "norm/kernels", ROOT / "norm/reference.py")
    for path in FILES:
        if any(path.is_relative_to(place) for place in alike):
            continue
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, Definition) and not node.name.startswith("_"):
                places[node.name].append(module(path))
    twice = {name: found for name, found in places.items() if len(found) > 1}
    assert not twice, "\n".join(f"{name}: {', '.join(found)}" for name, found in twice.items())


def test_no_file_is_long():
    long = {module(p): n for p in FILES if (n := len(p.read_text().splitlines())) > LONGEST}
    assert not long
