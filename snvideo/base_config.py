"""Base of every configuration section; each package declares its own beside what it configures."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict


class Section(BaseModel):
    """A typed part of a config: an unknown key or a value of another type is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def expand_user(path: str | Path) -> Path:
    """A path with a home folder in the place of `~` or `~user`, where there is such a user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:  # no such user
        return Path(path)


UserPath = Annotated[Path, AfterValidator(expand_user)]
"""A path in a config."""


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values of nested sections under dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        inner = isinstance(value, dict)
        flat |= flatten(value, f"{prefix}{key}.") if inner else {prefix + key: value}
    return flat
