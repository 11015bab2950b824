"""Configs that come with the package, by name: "toy/i3d_tiny" is configs/toy/i3d_tiny.yaml."""

import difflib
import re
import textwrap
from itertools import takewhile
from pathlib import Path

from snvideo.atomic import write_atomic
from snvideo.base_config import expand_user
from snvideo.errors import SnvideoError

_BASE = re.compile(r"^base:[ \t]*([^#\s]+)", re.MULTILINE)


def configs_folder() -> Path:
    """The folder of shipped configs: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def config_names() -> list[str]:
    """Names of all shipped configs, sorted."""
    folder = configs_folder()
    files = folder.rglob("*.yaml")
    return sorted(file.relative_to(folder).with_suffix("").as_posix() for file in files)


def find_config(name: str | Path, folder: Path = Path()) -> Path:
    """Find the file of a config.

    Args:
        name: path of a file, relative to `folder`; or the name of a shipped config, with or without
            .yaml. A file that exists wins.
        folder: the working directory, or that of the config whose `base` this is.

    Raises:
        SnvideoError: naming the nearest shipped configs, if there is neither.
    """
    path = folder / expand_user(name)
    key = Path(name).as_posix().removesuffix(".yaml")
    names = config_names()
    if path.is_file():
        return path
    if key in names:
        return configs_folder() / f"{key}.yaml"
    near = difflib.get_close_matches(key, names, n=3, cutoff=0.4)
    hint = f"nearest names: {', '.join(near)}; " if near else ""
    raise SnvideoError(
        f"no config {name}: neither a file nor a name; {hint}'snvideo configs' lists all"
    )


def config_description(name: str) -> str:
    """The first sentence of a shipped config, or of the config that it builds on."""
    path = find_config(name, configs_folder())
    text = path.read_text(encoding="utf-8")
    if text.startswith("#"):
        lines = takewhile(lambda line: line.startswith("#"), text.splitlines())
        sentence, _, _ = " ".join(line.lstrip("# ") for line in lines).partition(". ")
        return textwrap.shorten(sentence, 90, placeholder=" ...")
    base = _BASE.search(text)
    return config_description(_base_name(path, base[1])) if base else ""


def copy_config(name: str, out: Path) -> Path:
    """Copy a shipped config; a relative `base` becomes the name of the shipped config it means.

    Returns the file written: `out`, or one of the same name in that folder.

    Raises:
        SnvideoError: if there is no such config, or a file is there already.
    """
    path = find_config(f"{name.removesuffix('.yaml')}.yaml", configs_folder())
    if out.is_dir():
        out = out / path.name
    if out.exists():
        raise SnvideoError(f"{out} exists: name another file, or delete it")
    text = path.read_text(encoding="utf-8")
    text = _BASE.sub(lambda base: f"base: {_base_name(path, base[1])}", text)
    try:
        write_atomic(out, text)
    except OSError as error:
        raise SnvideoError(f"cannot write {out}: {error.strerror}") from None
    return out


def _base_name(path: Path, base: str) -> str:
    """Name of the shipped config that a shipped config at `path` calls `base`."""
    file = find_config(base, path.parent).resolve()
    return file.relative_to(configs_folder().resolve()).with_suffix("").as_posix()
