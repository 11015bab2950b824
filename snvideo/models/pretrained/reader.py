"""Reading a weight file of any library, without ever running what may be in it."""

from __future__ import annotations

import hashlib
import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor

from snvideo.errors import SnvideoError

_ENVELOPES = ("model_state", "state_dict", "model")
"""Under which keys libraries put their tensors: PySlowFast and pytorchvideo; mmaction2 and many
others; torchvision's training scripts and our own checkpoints."""


class Contents(NamedTuple):
    """What a weight file holds."""

    tensors: dict[str, Tensor]
    """On the CPU, by the names of the library that wrote them."""
    facts: Mapping[str, Any]
    """All else at the top level of the file, or the metadata of a safetensors file."""
    sha256: str | None
    """Of the file, hexadecimal; None for what a library has read."""
    envelope: str | None = None
    """The key that the tensors stood under."""


def read(path: Path) -> Contents:
    """Read tensors and plain values: a file that asks for more is refused.

    Which kind of file it is shows in its first bytes; the name does not count.

    Args:
        path: safetensors, or what torch.save has written, of any version.

    Raises:
        SnvideoError: if it is not there, is damaged, is something else, or holds anything that
            would have to be run to be read.
    """
    try:
        with path.open("rb") as file:
            head = file.read(512)
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        _check_digest(path, digest)
    except (OSError, ValueError) as error:  # a name may hold what no name may
        why = getattr(error, "strerror", None) or error
        raise SnvideoError(f"cannot read weights {str(path)[:200]}: {why}{_hint(path)}") from None
    if _kind(path, head) == "safetensors":
        tensors, facts = _read_safetensors(path)
        return Contents(checked(tensors, path), facts, digest)
    tensors, facts, envelope = _read_torch(path)
    return Contents(checked(tensors, path), facts, digest, envelope)


def _hint(path: Path) -> str:
    """What else might have been meant by a name that is no file's."""
    if os.path.isdir(path):  # noqa: PTH112 - which takes any name
        return ": name a file of weights in it"
    if ":" in str(path):
        return "; downloads begin with torchvision:, timm: or pytorchvideo:"
    return ""


def checked(tensors: Mapping[Any, Any], origin: Path | str) -> dict[str, Tensor]:
    """A state dict that is one.

    Raises:
        SnvideoError: if it is empty, or holds anything but names and tensors with values.
    """
    if not tensors:
        raise SnvideoError(f"{origin} holds no tensors: expected the weights of a network")
    for name, value in tensors.items():
        if not isinstance(name, str) or not name.isprintable():
            raise SnvideoError(f"{origin}: {name!r} is no name of a layer: expected a state dict")
        if not isinstance(value, Tensor):
            raise SnvideoError(
                f"{origin}: '{name}' is not a tensor: expected a state dict, or one under a key "
                f"{', '.join(_ENVELOPES)}"
            )
        if value.is_meta or value.layout is not torch.strided:
            raise SnvideoError(f"{origin}: the tensor '{name}' does not hold all of its values")
    return dict(tensors)


def _check_digest(path: Path, digest: str) -> None:
    """Hold a file against the checksum beside it, if there is one."""
    beside = path.with_name(f"{path.name}.sha256")
    if not beside.is_file():
        return
    known = [line.lower().split()[:1] for line in beside.read_text(errors="replace").splitlines()]
    if [digest] not in known:
        raise SnvideoError(
            f"{path} is damaged: its checksum differs from {beside.name}; copy it again"
        )


def _kind(path: Path, head: bytes) -> str:
    size = path.stat().st_size
    if size >= 10 and int.from_bytes(head[:8], "little") >= 2 and head[8:9] == b"{":
        return "safetensors"
    if head.startswith((b"PK\x03\x04", b"\x80")):
        return "torch"
    if head.startswith(b"version https://git-lfs"):
        raise SnvideoError(f"{path} only points to weights: fetch them with `git lfs pull`")
    if not head:
        raise SnvideoError(f"{path} is empty: expected weights; copy it again")
    if _is_text(head):
        raise SnvideoError(f"{path} is a text file: expected weights (.safetensors, .pth, .pyth)")
    raise SnvideoError(f"{path} is neither a safetensors file nor one of torch.save")


def _is_text(head: bytes) -> bool:
    try:
        text = head.decode()
    except UnicodeDecodeError as error:
        text = head[: error.start].decode() if error.start > len(head) - 4 else ""
    return bool(text) and all(letter.isprintable() or letter.isspace() for letter in text)


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safetensors.safe_open(path, "pt") as file:
            facts = dict(file.metadata() or {})
        return load_file(path), facts
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise SnvideoError(
            f"{path} is damaged or cut off ({_line(error)}): copy it again"
        ) from None


def _read_torch(path: Path) -> tuple[Mapping[Any, Any], dict[str, Any], str | None]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is wrong is said below
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a file can make an unpickler raise
        raise SnvideoError(_why_unreadable(path, error)) from None
    if not isinstance(loaded, Mapping):
        raise SnvideoError(f"{path} holds a {type(loaded).__name__}: expected names and tensors")
    for key in _ENVELOPES:
        inner = loaded.get(key)
        if isinstance(inner, Mapping) and inner:
            return inner, {name: value for name, value in loaded.items() if name != key}, key
    return loaded, {}, None


def _why_unreadable(path: Path, error: Exception) -> str:
    text = str(error)
    asked = re.search(r"GLOBAL ([\w.]+)", text)
    if asked:
        return (
            f"{path} would run {asked[1]} to be read: refused, nothing was run; if you trust it, "
            "save its state dict alone where that can be loaded"
        )
    if "TorchScript" in text:
        return f"{path} is a TorchScript program, which would have to be run: expected a state dict"
    if "magic number" in text or "Unsupported operand" in text or "UTF-8" in text:
        return f"{path} is a pickle, but not of torch.save: expected a state dict"
    return f"{path} is damaged, cut off or not of torch.save ({_line(error)}): copy it again"


def _line(error: Exception) -> str:
    """The first sentence of an error."""
    lines = str(error).strip().splitlines()
    return lines[0].split(". ")[0][:160] if lines else type(error).__name__
