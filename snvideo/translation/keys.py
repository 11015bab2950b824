"""Keys of a foreign config, each of which is translated, the same here, or named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from snvideo.errors import SnvideoError
from snvideo.translation.python_file import Code


class Remark(NamedTuple):
    """A key of a foreign config that has no equivalent, or is left at another value."""

    key: str
    value: Any
    why: str


class ForeignKeys:
    """Values of a foreign config by dotted keys, and what has been read of them.

    Args:
        path: of the file, for messages.
        values: by dotted keys.
    """

    def __init__(self, path: Path, values: Mapping[str, Any]) -> None:
        self.path = path
        self.values = dict(values)
        self.unread = dict.fromkeys(values)  # in their order
        self.different: list[Remark] = []
        """What may change results."""
        self.without_effect: list[Remark] = []
        self.translated: set[str] = set()

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def error(self, problem: str) -> SnvideoError:
        """An error of this file."""
        return SnvideoError(f"{self.path}: {problem}")

    def has_section(self, section: str) -> bool:
        """True if there is a section with a type, which is then read."""
        return self.take(f"{section}.type") is not None

    def take(self, key: str, default: Any = None) -> Any:
        """A value for translation, or the default of the other library."""
        if key not in self.values:
            return default
        if (code := _code_in(self.values[key])) is not None:
            raise self.error(f"{key} is code, which is not run ({code}): write its value")
        if key in self.unread:
            self.translated.add(key)
            del self.unread[key]
        return self.values[key]

    def number(self, key: str, default: float) -> float:
        """As `take`, a number."""
        return self._checked(key, default, (int, float), "a number")

    def whole(self, key: str, default: int) -> int:
        """As `take`, a whole number."""
        return self._checked(key, default, (int,), "a whole number")

    def count(self, key: str, default: int) -> int:
        """As `take`, a whole number from 1 on."""
        value = self.whole(key, default)
        if value < 1:
            raise self.error(f"{key}: expected 1 or more, found {value}")
        return value

    def flag(self, key: str, default: bool) -> bool:
        """As `take`, a truth value."""
        value = self.take(key, default)
        if not isinstance(value, bool):
            raise self.error(f"{key}: expected True or False, found {value!r}")
        return value

    def text(self, key: str, default: str) -> str:
        """As `take`, a string."""
        return self._checked(key, default, (str,), "a string")

    def numbers(self, key: str, default: Sequence[float] = ()) -> list[float]:
        """As `take`, a list of numbers."""
        values = self.take(key, default)
        plain = isinstance(values, list | tuple)
        if not plain or not all(isinstance(value, int | float) for value in values):
            raise self.error(f"{key}: expected a list of numbers, found {values!r}")
        return list(values)

    def _checked(self, key: str, default: Any, kinds: tuple[type, ...], name: str) -> Any:
        value = self.take(key, default)
        if not isinstance(value, kinds) or isinstance(value, bool):
            raise self.error(f"{key}: expected {name}, found {value!r}")
        return value

    def expect(self, key: str, ours: Any, why: str, default: Any = None) -> None:
        """Read a setting that is fixed here, and remark it where it has another value.

        Args:
            key: of the setting.
            ours: its value here.
            why: the treatment here, for the remark.
            default: its value in the other library where it is not stated; None: that of here.
        """
        value = self.take(key, ours if default is None else default)
        if not _same(value, ours):
            self.add(key, value, why if key in self else f"{why}; not stated, the default there")

    def require(self, key: str, ours: Any, default: Any = None) -> None:
        """Read a setting without which a network or a run is none of those here.

        Raises:
            SnvideoError: if it has another value.
        """
        value = self.take(key, ours if default is None else default)
        if not _same(value, ours):
            raise self.error(f"{key} is {value}: nothing here has another than {ours}")

    def add(self, key: str, value: Any, why: str) -> None:
        """Name a key that was read, and is not quite what it is here."""
        self.translated.discard(key)
        self.different.append(Remark(key, value, why))

    def finish(self, harmless: Mapping[str, str]) -> None:
        """Name all that was not read.

        Args:
            harmless: key, or its beginning up to a dot -> why it has no effect on results.
        """
        for key in self.unread:
            value = self.values[key]
            beginning = next((b for b in harmless if key == b or key.startswith(f"{b}.")), None)
            if value is None:
                self.without_effect.append(Remark(key, value, "nothing"))
            elif beginning is not None:
                self.without_effect.append(Remark(key, value, harmless[beginning]))
            else:
                self.different.append(Remark(key, value, "no equivalent here"))
        self.unread.clear()


def flatten_foreign(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values of nested sections by dotted keys.

    A list of sections that have a `type`, as mmaction2's pipelines are, has that as a key; the
    second of a type is `Resize_2`.
    """
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten_foreign(value, f"{prefix}{key}.")
        elif isinstance(value, list | tuple) and value and all(map(_has_type, value)):
            seen: dict[str, int] = {}
            for section in value:
                name = str(section["type"])
                seen[name] = seen.get(name, 0) + 1
                place = name if seen[name] == 1 else f"{name}_{seen[name]}"
                flat |= flatten_foreign(section, f"{prefix}{key}.{place}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _has_type(section: Any) -> bool:
    return isinstance(section, Mapping) and "type" in section


def _code_in(value: Any) -> Code | None:
    """The first value that was not read, in a value or a list of values."""
    if isinstance(value, Code):
        return value
    inner = value if isinstance(value, list | tuple) else ()
    return next((code for one in inner if (code := _code_in(one)) is not None), None)


def _same(one: Any, two: Any) -> bool:
    """Equality in which lists and tuples are alike."""
    if isinstance(one, list | tuple) and isinstance(two, list | tuple):
        return len(one) == len(two) and all(map(_same, one, two))
    return bool(one == two)
