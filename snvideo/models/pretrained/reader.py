"""Reading of weight files of any library, without ever running code that may be in them."""

from __future__ import annotations

import hashlib
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
from snvideo.models.pretrained.array_pickle import TORCH_LEGACY, read_array_pickle

_ENVELOPES = ("model_state", "state_dict", "model", "blobs")
"""Keys of the state dict: PySlowFast and pytorchvideo; mmaction2 and many others; torchvision's
training scripts and checkpoints of snvideo; Caffe2."""


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
    """Read tensors and plain values from safetensors, torch.save of any version, or Caffe2.

    Raises:
        SnvideoError: if it is not there, is damaged, is something else, or holds anything that
            would have to be run to be read.
    """
    try:
        with path.open("rb") as file:
            head = file.read(512)
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        hint = ": name a file of weights in it" if path.is_dir() else ""
        if ":" in str(path):
            hint = "; downloads begin with torchvision:, timm:, pytorchvideo: or hf:"
        raise SnvideoError(f"cannot read weights {path}: {error.strerror}{hint}") from None
    if all(chr(byte).isprintable() or chr(byte).isspace() for byte in head):
        raise SnvideoError(
            f"{path} is a text file: expected weights (.safetensors, .pth, .pyth, .pkl)"
        )
    extra: dict[str, Any] = {}
    envelope = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the error below explains it
            if head[8:9] == b"{":
                with safetensors.safe_open(path, "pt") as opened:
                    extra = dict(opened.metadata() or {})
                state: Any = load_file(path)
            elif head[:1] == b"\x80" and head[2:4] != TORCH_LEGACY:
                state = read_array_pickle(path)
            else:
                state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # an unpickler may raise anything
        raise SnvideoError(_explain(path, error)) from None
    if isinstance(state, Mapping):
        for key in _ENVELOPES:
            if isinstance(state.get(key), Mapping):
                extra = {name: value for name, value in state.items() if name != key}
                state, envelope = state[key], key
                break
    return Contents(validate_state_dict(state, path), extra, digest, envelope)


def validate_state_dict(state: Any, origin: Path | str) -> dict[str, Tensor]:
    """A state dict of names and tensors.

    Raises:
        SnvideoError: if it is empty, or holds anything else.
    """
    if not isinstance(state, Mapping) or not state:
        raise SnvideoError(f"{origin} holds no tensors: expected the weights of a network")
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise SnvideoError(
                f"{origin}: {name!r} is not a tensor: expected a state dict, or one under a key "
                f"{', '.join(_ENVELOPES)}"
            )
    return dict(state)


def _explain(path: Path, error: Exception) -> str:
    """An error of a reader in one line."""
    if asked := re.search(r"GLOBAL ([\w.]+)", str(error)):
        return (
            f"{path} would run {asked[1]} to be read: refused, nothing was run; if you trust it, "
            "save its state dict alone where that can be loaded"
        )
    first = (str(error).strip() or type(error).__name__).splitlines()[0].split(". ")[0][:160]
    return (
        f"{path} is damaged, cut off, or neither safetensors nor of torch.save or Caffe2: {first}"
    )
