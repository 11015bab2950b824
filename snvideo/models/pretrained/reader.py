"""Reading of weight files of any library, without ever running code that may be in them."""

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
"""Keys of the state dict: PySlowFast and pytorchvideo; mmaction2 and many others; torchvision's
training scripts and checkpoints of snvideo."""


class Contents(NamedTuple):
    """Contents of a weight file."""

    tensors: dict[str, Tensor]
    """On the CPU, by the names of the library that wrote them."""
    extra: Mapping[str, Any]
    """All else at the top level of the file, or the metadata of a safetensors file."""
    sha256: str | None
    """Of the file, hexadecimal; None for weights that a library has read."""
    envelope: str | None = None
    """The key of the state dict."""


def read_weights(path: Path) -> Contents:
    """Read tensors and plain values; the kind of file shows in its first bytes.

    Args:
        path: safetensors, or a file of torch.save, of any version.

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
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        hint = ""
        if os.path.isdir(path):  # noqa: PTH112 - which takes any name
            hint = ": name a file of weights in it"
        elif ":" in str(path):
            hint = "; downloads begin with torchvision:, timm: or pytorchvideo:"
        why = getattr(error, "strerror", None) or error
        raise SnvideoError(f"cannot read weights {str(path)[:200]}: {why}{hint}") from None
    if _is_safetensors(path, head):
        tensors, metadata = _read_safetensors(path)
        return Contents(validate_state_dict(tensors, path), metadata, digest)
    state, extra, envelope = _read_torch(path)
    return Contents(validate_state_dict(state, path), extra, digest, envelope)


def validate_state_dict(tensors: Mapping[Any, Any], origin: Path | str) -> dict[str, Tensor]:
    """A state dict of names and tensors with values.

    Raises:
        SnvideoError: if it is empty, or holds anything else.
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
    """Compare a file with the checksum file beside it, if there is one."""
    beside = path.with_name(f"{path.name}.sha256")
    if not beside.is_file():
        return
    known = [line.lower().split()[:1] for line in beside.read_text(errors="replace").splitlines()]
    if [digest] not in known:
        raise SnvideoError(
            f"{path} is damaged: its checksum differs from {beside.name}; copy it again"
        )


def _is_safetensors(path: Path, head: bytes) -> bool:
    """True for safetensors, False for a file of torch.save."""
    size = path.stat().st_size
    if size >= 10 and int.from_bytes(head[:8], "little") >= 2 and head[8:9] == b"{":
        return True
    if head.startswith((b"PK\x03\x04", b"\x80")):
        return False
    if head.startswith(b"version https://git-lfs"):
        raise SnvideoError(f"{path} only points to weights: fetch them with `git lfs pull`")
    if not head:
        raise SnvideoError(f"{path} is empty: expected weights; copy it again")
    text = head.decode(errors="ignore")  # the last letter may be cut off
    if len(text.encode()) > len(head) - 4 and all(c.isprintable() or c.isspace() for c in text):
        raise SnvideoError(f"{path} is a text file: expected weights (.safetensors, .pth, .pyth)")
    raise SnvideoError(f"{path} is neither a safetensors file nor one of torch.save")


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = dict(file.metadata() or {})
        return load_file(path), metadata
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise SnvideoError(
            f"{path} is damaged or cut off ({_first_sentence(error)}): copy it again"
        ) from None


def _read_torch(path: Path) -> tuple[Mapping[Any, Any], dict[str, Any], str | None]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the error below explains it
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # an unpickler may raise anything
        raise SnvideoError(_explain(path, error)) from None
    if not isinstance(loaded, Mapping):
        raise SnvideoError(f"{path} holds a {type(loaded).__name__}: expected names and tensors")
    for key in _ENVELOPES:
        inner = loaded.get(key)
        if isinstance(inner, Mapping) and inner:
            return inner, {name: value for name, value in loaded.items() if name != key}, key
    return loaded, {}, None


def _explain(path: Path, error: Exception) -> str:
    """An error of torch.load in one line."""
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
    return (
        f"{path} is damaged, cut off or not of torch.save ({_first_sentence(error)}): copy it again"
    )


def _first_sentence(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].split(". ")[0][:160] if lines else type(error).__name__
