"""Documentation: links, commands, config keys, names and examples, held against the code."""

from __future__ import annotations

import ast
import doctest
import importlib
import re
import shlex
import shutil
from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import get_args
from urllib.parse import unquote, urlsplit

import pytest
import typer
import yaml
from markdown_it import MarkdownIt
from markdown_it.token import Token

import snvideo
from snvideo.base_config import Section
from snvideo.cli import app
from snvideo.config import load_config
from snvideo.engine.config import RunConfig
from snvideo.study.config import StudyConfig

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    page.relative_to(ROOT)
    for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("configs/**/*.md"))
)
EXAMPLES = sorted(
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for file in ROOT.glob("snvideo/**/*.py")
    if ">>>" in file.read_text(encoding="utf-8")
)
COMMANDS = typer.main.get_command(app)
FILES = (".csv", ".html", ".json", ".npz", ".onnx", ".py", ".pt2", ".safetensors", ".yaml")
SECTIONS = "|".join((*RunConfig.model_fields, "study"))

pages = pytest.mark.parametrize("page", PAGES, ids=str)


# Reading pages --------------------------------------------------------------------------------


@cache
def tokens(page: Path) -> tuple[Token, ...]:
    """Blocks of a page, and what stands inside its paragraphs, headings and cells."""
    blocks = MarkdownIt("commonmark").enable("table").parse((ROOT / page).read_text("utf-8"))
    return tuple(token for block in blocks for token in (block, *(block.children or ())))


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub derives them."""
    found: dict[str, int] = {}
    for opening, content in pairwise(tokens(page)):
        if opening.type == "heading_open":
            slug = re.sub(r"[^\w\- ]", "", content.content.lower()).replace(" ", "-")
            found[slug] = found.get(slug, -1) + 1
    return {f"{slug}-{n}" if n else slug for slug, last in found.items() for n in range(last + 1)}


def blocks(page: Path, *languages: str) -> list[str]:
    """Fenced code of some languages; "" is that of none."""
    return [t.content for t in tokens(page) if t.type == "fence" and t.info in languages]


def inline(page: Path) -> list[str]:
    """Inline code."""
    return [token.content for token in tokens(page) if token.type == "code_inline"]


def commands(page: Path) -> Iterator[list[str]]:
    """Arguments of every call of snvideo."""
    code = "\n".join((*blocks(page, "", "sh", "bash"), *inline(page)))
    for line in code.replace("\\\n", " ").splitlines():
        call = re.search(r"(?:^|-m |bin/)(snvideo .*)", re.split(r" # | \| ", line)[0].strip())
        if call:
            yield shlex.split(call[1])[1:]


def config_keys(section: type[Section], prefix: str = "") -> Iterator[str]:
    """Keys of a section and of those in it, such as "data.train.crop"."""
    for python_name, field in section.model_fields.items():
        name = field.alias or python_name
        yield prefix + name
        for inner in sections(field.annotation):
            yield from config_keys(inner, f"{prefix}{name}.")


def sections(annotation: object) -> Iterator[type[Section]]:
    """Sections inside a type such as `Section | None`."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for inner in get_args(annotation):
        yield from sections(inner)


KEYS = {*config_keys(RunConfig), "study", *config_keys(StudyConfig, "study.")}


# Markdown -------------------------------------------------------------------------------------


@pages
def test_links_lead_somewhere(page):
    missing = []
    for token in tokens(page):
        target = token.attrGet("href") or token.attrGet("src")
        if token.type not in ("link_open", "image") or urlsplit(str(target)).scheme:
            continue
        path, _, anchor = unquote(str(target)).partition("#")
        file = (ROOT / page.parent / path).resolve() if path else ROOT / page
        known = file.exists() and file.is_relative_to(ROOT)
        if not known or (anchor and anchor not in anchors(file.relative_to(ROOT))):
            missing.append(target)
    assert not missing


@pages
def test_commands_exist(page):
    for arguments in commands(page):
        command = COMMANDS
        while hasattr(command, "commands") and arguments and arguments[0] != "--help":
            inner = command.commands.get(arguments[0])
            if inner is None and command.name == "index":  # its report is the default
                inner, arguments = command.commands["report"], ["report", *arguments]
            assert inner is not None, f"no command {arguments[0]} in snvideo {command.name or ''}"
            command, arguments = inner, arguments[1:]
        options = {option for parameter in command.params for option in parameter.opts}
        for argument in arguments:
            if argument.startswith("-"):
                assert argument.partition("=")[0] in options, f"{command.name} has no {argument}"
            elif re.match(r"[a-z_.]+=", argument):
                key = argument.partition("=")[0]
                assert key in KEYS, f"a config has no {key}"


@pytest.mark.parametrize("page", [p for p in PAGES if p.name != "CHANGELOG.md"], ids=str)
def test_names_in_text_exist(page):
    """Config keys, modules and files, where they stand in inline code."""
    missing = []
    for text in inline(page):
        key = re.match(rf"((?:{SECTIONS})(?:\.\w+)+)\b(?!\.?[(/])", text)
        if key and key[1] not in KEYS and Path(key[1]).suffix not in FILES:
            missing.append(text)
        if re.fullmatch(r"snvideo(\.\w+)+", text) and not _resolves(text):
            missing.append(text)
        if re.fullmatch(r"[\w./]+/[\w.]+\.(py|yaml|cpp|sbatch)", text):
            roots = (ROOT, ROOT / "snvideo", ROOT / page.parent)
            if not any((root / text).exists() for root in roots):
                missing.append(text)
    assert not missing


def _resolves(name: str) -> bool:
    """Tell whether there is such a module, or a member of a module."""
    try:
        if find_spec(name) is not None:
            return True
    except ModuleNotFoundError:  # what stands before the last dot is no package
        pass
    module, _, member = name.rpartition(".")
    return bool(module) and _resolves(module) and hasattr(importlib.import_module(module), member)


@pages
def test_python_compiles_and_imports_what_exists(page):
    for code in blocks(page, "python"):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("snvideo"):
                assert all(_resolves(f"{node.module}.{name.name}") for name in node.names), code
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert node.value.id != "snvideo" or _resolves(f"snvideo.{node.attr}"), code


@pages
def test_yaml_is_a_config(page, tmp_path):
    for number, text in enumerate(blocks(page, "yaml")):
        values = yaml.safe_load(text)
        if isinstance(values, dict) and {*values} < KEYS:
            file = tmp_path / f"{number}.yaml"
            file.write_text(f"base: {ROOT / 'configs/toy/i3d_tiny.yaml'}\n{text}")
            load_config(file)


# Docstrings and API reference -----------------------------------------------------------------


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """The working directory of examples: videos in toy, a trained network in runs/toy."""
    from snvideo.models.export import export_model
    from snvideo.models.pretrained import load_model

    (tmp_path / "runs/toy").mkdir(parents=True)
    recorded = ROOT / "tests/golden/recorded"
    shutil.copytree(recorded / "videos", tmp_path / "toy")
    weights = load_model(recorded / "run/checkpoints/step_00000004.pt")
    export_model(weights, tmp_path / "runs/toy/model.safetensors")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("module", EXAMPLES)
@pytest.mark.usefixtures("workspace")
def test_examples_in_docstrings(module):
    found = doctest.testmod(importlib.import_module(module), optionflags=doctest.ELLIPSIS)
    assert found.attempted
    assert not found.failed


class Page(HTMLParser):
    """Ids and links of an HTML page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.ids |= {values["id"]} if values.get("id") else set()
        self.links |= {values["href"]} if tag == "a" and values.get("href") else set()


def test_links_of_the_api_reference(tmp_path):
    pytest.importorskip("pdoc")
    from docs.build_reference import MODULES, build_reference

    build_reference(tmp_path, source=False)
    built = {file: Page(file.read_text("utf-8")) for file in tmp_path.rglob("*.html")}
    missing = []
    for file, page in built.items():
        for link in page.links:
            path, _, anchor = unquote(link).partition("#")
            if urlsplit(link).scheme or anchor.startswith("_"):  # private bases have no page
                continue
            target = built.get((file.parent / path).resolve() if path else file)
            if target is None or (anchor and anchor not in target.ids):
                missing.append(f"{file.relative_to(tmp_path)}: {link}")
    assert len(built) > len(MODULES)
    assert not missing


@pytest.mark.usefixtures("workspace")
def test_the_public_api_takes_paths_as_strings():
    video = next(Path("toy/val").rglob("*.mp4"))
    found = list(snvideo.predict([str(video)], "runs/toy", clips=1, crops=1, top=3, workers=1))
    assert [prediction.video for prediction in found] == [video]
    assert len(found[0].classes) == 3
