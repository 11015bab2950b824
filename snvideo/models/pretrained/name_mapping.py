"""Mapping of layer names and class names between libraries.

Canonical names of the layers of a ResNet, into which every format is translated:

    stem.conv  stem.norm  res2.0.conv_a  res2.0.norm_a ...  res5.2.norm_c  head
    res2.0.shortcut.conv  res2.0.shortcut.norm      the projection beside a stage's first block
    res3.1.non_local.conv_theta  .conv_phi  .conv_g  .conv_out  .norm       of a non-local block
    res2.0.conv_b.pointwise  .norm  .depthwise      of ip-CSN, in place of res2.0.conv_b

In a network of two pathways all but the head begin with `slow.` or `fast.`, and `fuse1` to `fuse4`
(`.conv`, `.norm`) are the lateral connections after the stem and the first three stages.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from pydantic import TypeAdapter
from torch import nn

from snvideo.errors import SnvideoError

_PATHWAYS = ("slow.", "fast.")
_INSIDE = re.compile(
    r"res_blocks\.(\d+)\.(branch1_conv|branch1_norm|branch2\.(?:conv|norm)_[abc]"
    r"|branch2\.conv_b\.(?:pointwise|norm|depthwise)|non_local\.\w+)"
)
_SPELLING = str.maketrans("_-", "  ", "\"'`’")  # noqa: RUF001
"""Ignored in class names: these for a space, those for nothing."""


def canonical_layers(model: nn.Module) -> dict[str, str]:
    """Layers of a network of pytorchvideo's builders: canonical name -> module name.

    Layers without a canonical name, as those of X3D and R(2+1)D, are left out.
    """
    found: dict[str, str] = {}
    stages: list[str] = []
    for name, module in model.named_modules():
        if not any(True for _ in module.parameters(recurse=False)):
            continue
        block, _, rest = name.removeprefix("blocks.").partition(".")
        pathway = ""
        if rest.startswith("multipathway_blocks."):
            pathway, rest = _PATHWAYS[int(rest[20])], rest[22:]
        if inside := _INSIDE.fullmatch(rest):
            if block not in stages:
                stages.append(block)
            part = inside[2].replace("branch1_", "shortcut.").removeprefix("branch2.")
            found[f"{pathway}res{stages.index(block) + 2}.{inside[1]}.{part}"] = name
        elif rest.startswith("multipathway_fusion."):
            part = "conv" if rest.endswith("conv_fast_to_slow") else "norm"
            found[f"fuse{len(stages) + 1}.{part}"] = name
        elif block == "0" and rest in ("conv", "norm"):
            found[f"{pathway}stem.{rest}"] = name
        elif isinstance(module, nn.Linear):
            found["head"] = name
    return found


def classifier_name(model: nn.Module) -> str:
    """Name of the layer that gives the logits: in all backbones the last, and linear."""
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear)][-1]


def match_classes(
    names: Sequence[str], source_names: Sequence[str], origin: Path | str
) -> list[int | None]:
    """For each class its number in the source; None for a name that the source does not have.

    Names are compared, as the order differs between authors of one data set. Case, quotation marks,
    and `_` or `-` for a space do not count. `origin`, of the source's names, is for messages.

    Raises:
        SnvideoError: if two classes of the source have the same name.
    """
    numbers: dict[str, int] = {}
    for number, name in enumerate(source_names):
        if numbers.setdefault(_normalize(name), number) != number:
            raise SnvideoError(f"{origin} names the class '{name}' twice")
    return [numbers.get(_normalize(name)) for name in names]


def _normalize(name: str) -> str:
    return " ".join(name.translate(_SPELLING).casefold().split())


def read_classes(path: Path) -> tuple[str, ...]:
    """Class names in the order of the logits.

    A text file has a name a line; JSON a list, an object of names and numbers, or the metadata of
    an index, with its `labels`.

    Raises:
        SnvideoError: if the file is anything else.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")  # some editors write a byte order mark
        if not text.lstrip().startswith(("{", "[")):
            return tuple(line.strip() for line in text.splitlines() if line.strip())
        found = json.loads(text)
        if isinstance(found, dict):
            if not isinstance(found.get("labels"), list):
                names = {int(number): name for name, number in found.items()}
                found = {"labels": [names[number] for number in range(len(found))]}
            found = found["labels"]
        return TypeAdapter(tuple[str, ...]).validate_python(found)
    except OSError as error:
        raise SnvideoError(f"cannot read class names {path}: {error.strerror}") from None
    except (KeyError, TypeError, ValueError):
        raise SnvideoError(
            f"class names {path}: expected a name a line, or JSON: a list of names, or names and "
            "their numbers from 0 without a gap"
        ) from None
