"""A translated config: values of a run, and remarks on what they leave out."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from snvideo.atomic import write_atomic
from snvideo.config import check_values
from snvideo.engine.config import RunConfig
from snvideo.errors import SnvideoError
from snvideo.translation.keys import ForeignKeys, Remark

INDEX = "data/index.csv"
"""`data.index` of every translation: lists of videos are indexed first."""


class Translation(NamedTuple):
    """A config of another library, translated."""

    source: Path
    library: str
    values: dict[str, Any]
    """Sections and values of a run's config."""
    config: RunConfig
    """The same, checked."""
    translated: int
    """Keys of the source that are translated, or say what is so here."""
    different: tuple[Remark, ...]
    """Keys without equivalent, or left at another value, which may change results."""
    without_effect: tuple[Remark, ...]

    def text(self) -> str:
        """YAML of the config; what was left out stands in comments before it."""
        lines = [f"# Translated from {self.library}'s {self.source.name}."]
        lines += _comments("Different here", self.different)
        lines += _comments("Left out, without effect on results", self.without_effect)
        body = yaml.safe_dump(self.values, sort_keys=False, default_flow_style=None, width=100)
        return "\n".join(lines) + "\n" + body

    def write(self, out: Path) -> Path:
        """Write the config to a file that is not there yet.

        Raises:
            SnvideoError: if it is, or cannot be written.
        """
        if out.exists():
            raise SnvideoError(f"{out} exists: name another file, or delete it")
        try:
            write_atomic(out, self.text())
        except OSError as error:
            raise SnvideoError(f"cannot write {out}: {error.strerror}") from None
        return out


def finish_translation(library: str, keys: ForeignKeys, values: dict[str, Any]) -> Translation:
    """A translation whose values are those of a run.

    Raises:
        SnvideoError: if they are not.
    """
    config, _ = check_values(values, f"{keys.path}, translated")
    return Translation(
        keys.path,
        library,
        values,
        config,
        len(keys.translated),
        tuple(keys.different),
        tuple(keys.without_effect),
    )


def _comments(title: str, remarks: Sequence[Remark]) -> list[str]:
    if not remarks:
        return []
    lines = ["#", f"# {title} ({len(remarks)}):"]
    for remark in remarks:
        value = " ".join(repr(remark.value).split())
        lines += textwrap.wrap(
            f"{remark.key}: {value}  ({remark.why})",
            width=100,
            initial_indent="#   ",
            subsequent_indent="#       ",
            break_long_words=False,
            break_on_hyphens=False,
        )
    return lines
