"""Classes are matched by their names: their order differs from one data set's author to another."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from snvideo.errors import SnvideoError

_PLAIN = str.maketrans("_-", "  ", "\"'`’")  # noqa: RUF001
"""What does not count in a name: these for a space, those for nothing."""


def match(own: Sequence[str], theirs: Sequence[str], origin: Path | str) -> list[int | None]:
    """For each class of ours its number among theirs; None where they have none of that name.

    Case, quotation marks, and `_` or `-` for a space do not count.

    Args:
        own, theirs: names.
        origin: where theirs are named, for messages.

    Raises:
        SnvideoError: if two of theirs have the same name.
    """
    numbers: dict[str, int] = {}
    for number, name in enumerate(theirs):
        if numbers.setdefault(_plain(name), number) != number:
            raise SnvideoError(f"{origin} names the class '{name}' twice")
    return [numbers.get(_plain(name)) for name in own]


def _plain(name: str) -> str:
    return " ".join(name.translate(_PLAIN).casefold().split())


def read_classes(path: Path) -> tuple[str, ...]:
    """Class names in the order of the logits.

    Args:
        path: a text file with a name a line; or JSON: a list, an object of names and numbers, or
            what lies beside an index, with its `labels`.

    Raises:
        SnvideoError: if the file is anything else.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")  # some editors begin with a mark
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise SnvideoError(f"cannot read class names {path}: {why}") from None
    if not text.lstrip().startswith(("{", "[")):
        names = tuple(line.strip() for line in text.splitlines() if line.strip())
    else:
        try:
            names = _from_json(json.loads(text))
        except (ValueError, TypeError, KeyError):
            raise SnvideoError(
                f"class names {path}: expected a JSON list of names, or names and their numbers "
                "from 0 without a gap"
            ) from None
    if not names:
        raise SnvideoError(f"class names {path}: there are none")
    return names


def _from_json(value: Any) -> tuple[str, ...]:
    if isinstance(value, dict) and isinstance(value.get("labels"), list):
        value = value["labels"]
    if isinstance(value, dict):
        numbered = {int(number): str(name) for name, number in value.items()}
        value = [numbered[number] for number in range(len(value))]
    if not all(isinstance(name, str) for name in value):
        raise TypeError
    return tuple(value)
