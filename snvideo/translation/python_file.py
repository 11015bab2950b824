"""Configs written in Python, read without being run.

Assignments of constants, lists and dicts are read, with names that were assigned before and plain
arithmetic; whatever else stands there keeps its source, and is told.
"""

from __future__ import annotations

import ast
import copy
import operator
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from snvideo.errors import SnvideoError

_OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


class Code(NamedTuple):
    """Source of a value that is not read."""

    source: str

    def __repr__(self) -> str:
        return self.source


class PythonFile(NamedTuple):
    """Values of a config in Python, over those of its bases."""

    values: dict[str, Any]
    used: frozenset[str]
    """Names that are in the values of others."""
    statements: tuple[str, ...]
    """Source of all that is no assignment, and was not run."""


def read_python_file(path: Path, seen: tuple[Path, ...] = ()) -> PythonFile:
    """Read a config and those that its `_base_` names, relative to it, section by section.

    Raises:
        SnvideoError: if one cannot be read, or is no Python.
    """
    if path.resolve() in seen:
        raise SnvideoError(f"{path}: '_base_' goes round in a circle")
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SnvideoError(f"cannot read config {path}: {error}") from None
    except (SyntaxError, ValueError) as error:
        raise SnvideoError(f"{path} is no Python: {error}") from None
    reader = _Reader(path)
    for statement in tree.body:
        reader.read(statement)
    bases = reader.names.pop("_base_", [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list | tuple) or not all(isinstance(base, str) for base in bases):
        raise SnvideoError(f"{path}: '_base_' is {bases}: expected a path, or a list of paths")
    values: dict[str, Any] = {}
    used, statements = set(reader.used), list(reader.statements)
    for base in bases:
        found = read_python_file(path.parent / base, (*seen, path.resolve()))
        values = _over(values, found.values)
        used |= found.used
        statements = [*found.statements, *statements]
    return PythonFile(_over(values, reader.names), frozenset(used), tuple(statements))


def _over(base: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Values over those of a base; a section with `_delete_=True` takes its place."""
    merged = dict(base)
    for key, value in values.items():
        below = base.get(key)
        if isinstance(value, Mapping):
            replaces = value.get("_delete_") is True or not isinstance(below, Mapping)
            value = {k: v for k, v in value.items() if k != "_delete_"}
            value = _over({} if replaces or below is None else below, value)
        merged[key] = value
    return merged


class _Reader:
    """Values of one file by their names."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.names: dict[str, Any] = {}
        self.used: set[str] = set()
        self.statements: list[str] = []

    def read(self, statement: ast.stmt) -> None:
        """Read an assignment to a name, and keep the source of any other statement."""
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                self.names[name] = self.value(value)
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                self.names[name] = self.value(value)
            case ast.Expr(value=ast.Constant(value=str())):  # a docstring
                pass
            case ast.With() if "read_base" in ast.unparse(statement.items[0]):
                raise SnvideoError(
                    f"{self.path} imports its bases (read_base), which would have to be run: "
                    "translate what 'Config.dump' writes of it"
                )
            case _:
                line = ast.unparse(statement).splitlines()[0]
                self.statements.append(f"line {statement.lineno}: {line}")

    def value(self, node: ast.expr) -> Any:
        """Value of an expression, or its source."""
        match node:
            case ast.Constant():
                return node.value
            case ast.List() | ast.Tuple():
                values = [self.value(one) for one in node.elts]
                return values if isinstance(node, ast.List) else tuple(values)
            case ast.Dict():
                return self._dict(zip(node.keys, node.values, strict=True))
            case ast.Call(func=ast.Name(id="dict")) if len(node.args) <= 1:
                plain = [(None, one) for one in node.args]
                named = [(k.arg and ast.Constant(k.arg), k.value) for k in node.keywords]
                return self._dict([*plain, *named])
            case ast.Name(id=name) if name in self.names:
                self.used.add(name)
                return copy.deepcopy(self.names[name])
            case ast.UnaryOp(op=ast.USub()):
                number = self.value(node.operand)
                return -number if isinstance(number, int | float) else Code(ast.unparse(node))
            case ast.BinOp():
                return self._arithmetic(node)
        return Code(ast.unparse(node))

    def _dict(self, items: Any) -> dict[str, Any]:
        """A dict; an item without key is a dict whose items are taken over."""
        found: dict[str, Any] = {}
        for key, node in items:
            value = self.value(node)
            if key:
                found[str(self.value(key))] = value
            elif isinstance(value, dict):
                found |= value
            else:
                found[f"**{value}"] = value
        return found

    def _arithmetic(self, node: ast.BinOp) -> Any:
        left, right = self.value(node.left), self.value(node.right)
        numbers = all(isinstance(one, int | float) for one in (left, right))
        joined = isinstance(node.op, ast.Add) and type(left) is type(right) in (str, list)
        if type(node.op) in _OPERATORS and (numbers or joined):
            try:
                return _OPERATORS[type(node.op)](left, right)
            except ArithmeticError:
                pass
        return Code(ast.unparse(node))
