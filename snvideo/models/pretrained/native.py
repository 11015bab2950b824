"""Weight files of snvideo: safetensors with metadata, and networks made from them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from pydantic import ValidationError
from safetensors.torch import save
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as transforms

from snvideo.atomic import write_atomic
from snvideo.errors import SnvideoError
from snvideo.models.pretrained.hugging_face import download, names_repository
from snvideo.models.pretrained.metadata import METADATA_KEY, WeightsMetadata, layer_strides
from snvideo.models.pretrained.reader import Contents, read_weights, validate_state_dict
from snvideo.models.registry import create_model
from snvideo.norm.weight_standardization import fold_state_dict

WEIGHTS_FILE = "model.safetensors"
"""Name of the final weights in a run directory."""


class LoadedModel(NamedTuple):
    """A trained network, ready to be used."""

    model: nn.Module
    """In evaluation mode: (N, 3, T, H, W) -> logits (N, classes)."""
    metadata: WeightsMetadata

    @property
    def classes(self) -> tuple[str, ...]:
        """Names, in the order of the logits."""
        return self.metadata.classes

    def preprocess(self, frames: Tensor | np.ndarray) -> Tensor:
        """The centre view of a clip, as the network was tested with.

        Args:
            frames: uint8 (T, H, W, 3), RGB, at the stride of `metadata.preprocessing`.

        Returns:
            float32 (1, 3, T, crop, crop), on the frames' device.

        Raises:
            SnvideoError: for anything else, such as values that are scaled already.
        """
        config = self.metadata.preprocessing
        if isinstance(frames, np.ndarray):
            frames = torch.from_numpy(frames.copy())  # which may be flipped or read-only
        shape = tuple(frames.shape)
        if frames.dtype != torch.uint8 or len(shape) != 4 or shape[-1] != 3 or 0 in shape:
            raise SnvideoError(
                f"frames are {str(frames.dtype).removeprefix('torch.')} {shape}: expected uint8 "
                "(T, H, W, 3), RGB values 0 to 255"
            )
        height, width = frames.shape[1:3]
        # Cropped before it is resized, and with the rounding of a test's views.
        short = min(height, width)
        side = max(1, min(short, round(short * config.crop / config.short_side)))
        across, down = width - side, height - side
        top, left = down // 2, round(across / 2)
        if width < height:
            top, left = round(down / 2), across // 2
        square = frames[:, top : top + side, left : left + side].movedim(-1, 1)
        resized = transforms.resize(square, [config.crop, config.crop], antialias=True)
        values = transforms.to_dtype(resized, torch.float32, scale=True)
        return transforms.normalize(values, config.mean, config.std).transpose(0, 1)[None]


def write_weights(path: Path, model: nn.Module, metadata: WeightsMetadata) -> None:
    """Write a network's parameters and statistics with their metadata, atomically.

    They are stored as safetensors, the metadata as JSON under `METADATA_KEY`.

    Raises:
        OSError: if it cannot be written.
    """
    state = fold_state_dict(model.state_dict())
    tensors = {name: t.detach().cpu().contiguous() for name, t in state.items()}
    text = metadata.model_dump_json()
    write_atomic(path, _sorted_header(save(tensors, {"format": "pt", METADATA_KEY: text})))


def _sorted_header(content: bytes) -> bytes:
    """A safetensors file with its header's keys in order: the library writes those of the metadata
    in another order each time, and equal weights are to have equal checksums."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    text = json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors are aligned to 8 bytes
    return len(text).to_bytes(8, "little") + text + content[end:]


def read_own(
    contents: Contents, path: Path | str
) -> tuple[WeightsMetadata, dict[str, Tensor]] | None:
    """Metadata and weights (of a checkpoint: `evaluated_weights`) of a file of snvideo.

    None for a file of another library.

    Raises:
        SnvideoError: if this version does not understand it.
    """
    stored = contents.extra.get(METADATA_KEY)
    if stored is None:
        return None
    section = WeightsMetadata
    validate = section.model_validate_json if isinstance(stored, str) else section.model_validate
    tensors = evaluated_weights({"model": contents.tensors, **contents.extra})
    try:
        return validate(stored), fold_state_dict(validate_state_dict(tensors, path))
    except ValidationError as error:
        wrong = ", ".join(".".join(map(str, one["loc"])) for one in error.errors())
        raise SnvideoError(
            f"{path} was written by another version of snvideo: cannot read its metadata ({wrong})"
        ) from None


def evaluated_weights(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights of a checkpoint that are tested.

    They are its EMA, where the run has one, with the batch averages that it was validated with,
    where it was.
    """
    weights = checkpoint.get("ema") or checkpoint["model"]
    averages = checkpoint.get("statistics") or {"tensors": {}}
    return {**weights, **averages["tensors"]}


def weights_file(path: Path | str) -> Path:
    """The file of weights: a path itself, the one in the directory of a finished run, or of a
    repository, downloaded.

    Raises:
        SnvideoError: if the run is not finished, or nothing can be downloaded.
    """
    path = download(str(path), WEIGHTS_FILE) if names_repository(path) else Path(path)
    if path.is_dir():
        path = path / WEIGHTS_FILE
        if not path.exists():
            raise SnvideoError(f"{path.parent} has no {WEIGHTS_FILE}: finish the run first")
    return path


def load_model(path: Path | str, device: torch.device | str = "cpu") -> LoadedModel:
    """Load a trained network with its classes and preprocessing.

    Args:
        path: a .safetensors file or a checkpoint of snvideo, the directory of a finished run, or
            `hf:USER/NAME` or `hf:USER/NAME@REVISION`, what `snvideo push` has published.
        device: of the network.

    Raises:
        SnvideoError: if it is no weight file of snvideo, or is damaged.

    Example::

        >>> loaded = load_model("runs/toy")
        >>> frames = torch.zeros(4, 60, 80, 3, dtype=torch.uint8)
        >>> loaded.model(loaded.preprocess(frames)).shape
        torch.Size([1, 8])
        >>> loaded.classes[0]
        'growing'
    """
    path = weights_file(path)
    own = read_own(read_weights(path), path)
    if own is None:
        raise SnvideoError(
            f"{path} does not say which network it is of: expected a file that snvideo has written "
            "(weights of others are for model.weights.source of a training run)"
        )
    metadata, tensors = own
    options = dict(metadata.norm_options)
    if not (metadata.use_batch or options):
        options = {"use_batch": False}
    name, classes, norm = metadata.architecture, len(metadata.classes), metadata.norm
    with torch.device("meta"):  # nothing is initialised only to be replaced
        model = create_model(
            name, classes, norm, metadata.dropout, drop_path=metadata.drop_path, **options
        )
    check_strides(model, metadata, path)
    state = model.state_dict()
    tensors |= {name: tensors[name].to(state[name].dtype) for name in state.keys() & tensors.keys()}
    try:
        model.load_state_dict(tensors, assign=True)
    except RuntimeError:
        raise SnvideoError(
            f"{path}: its tensors are not those of its metadata, {name} with {classes} classes "
            f"and norm {norm}: the file was changed"
        ) from None
    return LoadedModel(model.to(device).eval(), metadata)


def check_strides(model: nn.Module, metadata: WeightsMetadata, path: Path | str) -> None:
    """Refuse weights of a network with other strides.

    Raises:
        SnvideoError: naming the first layer that differs.
    """
    own, stored = layer_strides(model), metadata.strides
    for layer in sorted(own.keys() | stored.keys()):
        if own.get(layer) != stored.get(layer):
            there, here = ("x".join(map(str, s.get(layer, ()))) or "none" for s in (stored, own))
            raise SnvideoError(
                f"{path} holds {metadata.architecture}, a network of other strides: {there} in "
                f"{layer}, here {here}"
            )
