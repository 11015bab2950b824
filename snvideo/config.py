"""Reading a config: YAML files that build on one another, overrides, and errors that help."""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from snvideo.base_config import expand_user, flatten
from snvideo.engine.config import RENAMED, STORED, RunConfig, rename_keys
from snvideo.engine.run_dir import ENVIRONMENT
from snvideo.errors import SnvideoError
from snvideo.shipped_configs import find_config
from snvideo.study.config import StudyConfig


class _RepeatedKeyError(yaml.MarkedYAMLError):
    """A key that stands twice in a mapping, of which YAML's reader would drop the first."""


class _Loader(yaml.SafeLoader):
    """Safe YAML without repeated keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Values of a mapping by its keys."""
        lines: dict[str, int] = {}
        for key, _ in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            if name in lines:
                problem = f"'{name}' stands twice, first in line {lines[name]}: put both into one"
                raise _RepeatedKeyError(problem=problem, problem_mark=key.start_mark)
            lines[name] = line
        return super().construct_mapping(node, deep)


class _File(RunConfig):
    """Content of a config file: a run, or the recipe that all runs of a study share."""

    study: StudyConfig | None = None


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read the config of a run; a `study` section is checked and left out.

    A file may name one other with `base:`, a path relative to itself or the name of a shipped
    config, whose values it inherits section by section. Paths inside a config are relative to the
    working directory.

    Args:
        path: YAML file, the name of a shipped config, such as "toy/i3d_tiny", or a run directory,
            whose config may be of an older version.
        overrides: "key.sub=value" strings, values in YAML.

    Raises:
        SnvideoError: naming file, key, what was expected, and the nearest key that exists.
    """
    check_effect(overrides, {"study": "of 'snvideo compare' alone"})
    return _load(path, overrides)[0]


def load_study(path: str | Path, overrides: Sequence[str] = ()) -> tuple[RunConfig, StudyConfig]:
    """Read the config of a study: the part that all its runs share, and its `study` section.

    Raises:
        SnvideoError: as `load_config`; if there is no `study` section.
    """
    config, study = _load(path, overrides)
    chosen = {"seed": "study.seeds", "batch": "study.batches", "model.norm.name": "study.norms"}
    check_effect(overrides, {key: f"set by {names}" for key, names in chosen.items()})
    if study is None:
        raise SnvideoError(f"{path} has no 'study' section: add study.batches to compare runs")
    return config, study


def check_effect(overrides: Sequence[str], without: Mapping[str, str]) -> None:
    """Raise SnvideoError for an override of a key or section that has no effect, and say why.

    Args:
        overrides: "key.sub=value" strings.
        without: key or section -> what it is instead.
    """
    for override in overrides:
        for key in overridden_keys(override):
            for section, why in without.items():
                if f"{key}.".startswith(f"{section}."):
                    raise SnvideoError(f"'{key}' has no effect here, it is {why}: leave it out")


def overridden_keys(override: str) -> list[str]:
    """Dotted keys that a "key.sub=value" sets: several where its value is a section."""
    key, _, text = override.partition("=")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:  # which is told where the override is applied
        value = None
    inner = flatten(value, f"{key.strip()}.") if isinstance(value, dict) else {}
    return list(inner) or [key.strip()]


def _load(path: str | Path, overrides: Sequence[str]) -> tuple[RunConfig, StudyConfig | None]:
    path = expand_user(path)
    run = _run_directory(path)
    if run is None:
        values = stored = _read(find_config(path), [])
    else:  # which may have been moved since it was begun
        values = stored = rename_keys(_read(run / "config.yaml", [])) | {"output": run}
    for override in overrides:
        values = _override(values, override)
    # Another schedule than the run's own is checked as in any file.
    begun = run is not None and values.get("optim") == stored.get("optim")
    return check_values(values, str(path), begun)


def check_values(
    values: dict[str, Any], where: str, begun: bool = False
) -> tuple[RunConfig, StudyConfig | None]:
    """Check nested values as those of a config file.

    Args:
        values: sections and keys; changed by nothing.
        where: the file, for messages.
        begun: they are those of a run that was begun, which are read as they are.

    Raises:
        SnvideoError: as `load_config`.
    """
    context = STORED if begun else None
    try:
        file = _File.model_validate(values, context=context)
    except ValidationError as error:
        # What another error leaves without a default is no second one.
        found = [one for one in error.errors() if one["type"] != "default_factory_not_called"]
        problems = [_explain(problem) for problem in found]
        raise SnvideoError(f"{where}: {'; '.join(problems)}") from None
    own = {name: getattr(file, name) for name in RunConfig.model_fields}
    return RunConfig.model_validate(own, context=context), file.study


def _run_directory(path: Path) -> Path | None:
    """The run directory that a path, or a config.yaml in it, stands for; None if there is none."""
    if (path / "config.yaml").is_file():
        return path
    inside = path.name == "config.yaml" and (path.parent / ENVIRONMENT).is_file()
    return path.parent if inside else None


def _read(path: Path, seen: list[Path]) -> dict[str, Any]:
    """A file's values over those of its base."""
    if path.resolve() in seen:
        raise SnvideoError(
            f"{path}: 'base' goes round in a circle; one of the files must have none"
        )
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader) or {}
    except (OSError, UnicodeDecodeError) as error:
        raise SnvideoError(f"cannot read config {path}: {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}, line {mark.line + 1}" if mark else str(path)
        what = "" if isinstance(error, _RepeatedKeyError) else "not YAML: "
        raise SnvideoError(f"{where}: {what}{getattr(error, 'problem', error)}") from None
    if not isinstance(values, dict):
        raise SnvideoError(f"{path}: expected keys and values, found {type(values).__name__}")
    base = values.pop("base", None)
    if base is None:
        return values
    try:
        file = find_config(str(base), path.parent)
    except SnvideoError as error:
        raise SnvideoError(f"{path}: 'base': {error}") from None
    return merge_sections(_read(file, [*seen, path.resolve()]), values)


def merge_sections(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Nested values over those of a base."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        merged[key] = merge_sections(base[key], value) if both else value
    return merged


def _override(values: dict[str, Any], override: str) -> dict[str, Any]:
    """Nested values with one "key.sub=value"; a section as value leaves its other keys as they
    are."""
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise SnvideoError(f"override '{override}' is not of the form key.sub=value")
    try:
        value = yaml.load(text, _Loader)
    except _RepeatedKeyError as error:
        raise SnvideoError(f"override '{override}': {error.problem}") from None
    except yaml.YAMLError:
        raise SnvideoError(f"override '{override}': '{text}' is not a YAML value") from None
    for section in reversed(key.strip().split(".")):
        value = {section: value}
    return merge_sections(values, value)


def _explain(problem: ErrorDetails) -> str:
    """One validation problem in the words of a config: key, what was expected, nearest key."""
    location = [str(part) for part in problem["loc"]]
    key = ".".join(location) or "the config"
    if key in RENAMED:
        return f"'{key}' is called '{RENAMED[key]}' now"
    if problem["type"] == "extra_forbidden":
        known = _keys(location[:-1])
        near = difflib.get_close_matches(location[-1], known, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"expected one of {', '.join(known)}"
        return f"unknown key '{key}': {hint}"
    if problem["type"] == "missing":
        return f"missing key '{key}'"
    if problem["type"] == "model_type":
        return f"'{key}': expected a section of keys and values, got {problem['input']!r}"
    message = problem["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    found = problem["input"]
    shown = "" if isinstance(found, dict) else f", got {found!r}"
    return f"'{key}': {message}{shown}"


def _keys(sections: list[str]) -> list[str]:
    """Keys that a nested section knows."""
    model: Any = _File
    for section in sections:
        if section in model.model_fields:  # else a place in a list, or a name, of sections
            model = _section(model.model_fields[section].annotation)
    return [field.alias or name for name, field in model.model_fields.items()]


def _section(annotation: Any) -> type[BaseModel] | None:
    """The section class inside a type such as `Section | None` or `tuple[Section, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for inner in get_args(annotation) if (found := _section(inner))), None)
