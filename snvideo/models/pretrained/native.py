"""Weight files of our own: safetensors that say what they are, and networks made from them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from pydantic import ValidationError
from safetensors.torch import save
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as transforms

from snvideo.atomic import write_atomic
from snvideo.errors import SnvideoError
from snvideo.models.pretrained.metadata import ABOUT, About, strides
from snvideo.models.pretrained.reader import Contents, checked, read
from snvideo.models.registry import BACKBONES, build_model

MODEL = "model.safetensors"
"""The finished weights in a run's folder."""


class LoadedModel(NamedTuple):
    """A network that is ready to be used, and what it was made for."""

    model: nn.Module
    """In evaluation mode: (N, 3, T, H, W) -> logits (N, classes)."""
    about: About

    @property
    def classes(self) -> tuple[str, ...]:
        """Names, in the order of the logits."""
        return self.about.classes

    def preprocess(self, frames: Tensor) -> Tensor:
        """The centre view of a clip, as the network was tested with.

        Args:
            frames: uint8 (T, H, W, 3), RGB, at the stride of `about.preprocessing`.

        Returns:
            float32 (1, 3, T, crop, crop), on the frames' device.
        """
        seen = self.about.preprocessing
        height, width = frames.shape[1:3]
        # Cut out before it is resized, as the views of a test are.
        short = min(height, width)
        side = max(1, min(short, round(short * seen.crop / seen.short_side)))
        across, down = width - side, height - side
        top = down // 2 if width >= height else round(down * 0.5)
        left = round(across * 0.5) if width >= height else across // 2
        square = frames[:, top : top + side, left : left + side].movedim(-1, 1)
        pictures = transforms.resize(square, [seen.crop, seen.crop], antialias=True)
        values = transforms.to_dtype(pictures, torch.float32, scale=True)
        return transforms.normalize(values, seen.mean, seen.std).transpose(0, 1)[None]


def write_weights(path: Path, model: nn.Module, about: About) -> None:
    """Write a network's parameters and statistics with what they mean, whole or not at all.

    Args:
        path: the .safetensors file.
        model: on whatever device.
        about: stored in the metadata, as JSON.

    Raises:
        OSError: if it cannot be written.
    """
    tensors = {name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()}
    write_atomic(path, save(tensors, {"format": "pt", ABOUT: about.model_dump_json()}))


def about_of(contents: Contents, path: Path) -> About | None:
    """What a file of ours says of itself; None for a file of others.

    Raises:
        SnvideoError: if it says what this version does not understand.
    """
    stated = contents.facts.get(ABOUT)
    if stated is None:
        return None
    try:
        text = isinstance(stated, str)
        about = About.model_validate_json(stated) if text else About.model_validate(stated)
    except ValidationError as error:
        wrong = ", ".join(".".join(map(str, one["loc"])) or "the whole" for one in error.errors())
        raise SnvideoError(
            f"{path} was written by another version of snvideo: cannot read what it says of {wrong}"
        ) from None
    if about.architecture not in BACKBONES:
        raise SnvideoError(
            f"{path} is of a network that this version does not know, '{about.architecture}'"
        )
    return about


def tested_tensors(contents: Contents, path: Path | str) -> dict[str, Tensor]:
    """Of a file of ours: weights averaged over steps, where a checkpoint has them."""
    averaged = contents.facts.get("ema")
    return checked(averaged, path) if isinstance(averaged, Mapping) else contents.tensors


def load_model(path: Path | str, device: torch.device | str = "cpu") -> LoadedModel:
    """A trained network in one line, with its classes and preprocessing.

    Args:
        path: a .safetensors file of ours, a checkpoint, or the folder of a finished run.
        device: where to put it.

    Raises:
        SnvideoError: if it is no weight file of ours, or is damaged.

    Example::

        >>> model, about = snvideo.load_model("runs/toy")
        >>> about.classes[model(clips).argmax(1)[0]]
        'swipe left'
    """
    path = Path(path)
    if path.is_dir():
        path = path / MODEL
        if not path.exists():
            raise SnvideoError(f"{path.parent} has no {MODEL}: finish the run first")
    contents = read(path)
    about = about_of(contents, path)
    if about is None:
        raise SnvideoError(
            f"{path} does not say which network it is of: expected a file that snvideo has written "
            "(weights of others are for model.weights.source of a training run)"
        )
    options = {} if about.use_batch else {"use_batch": False}
    with torch.device("meta"):  # nothing is drawn or held in memory only to be replaced
        model = build_model(about.architecture, len(about.classes), about.norm, **options)
    check_strides(model, about, path)
    tensors = tested_tensors(contents, path)
    own = model.state_dict()
    kinds = {name: own[name].dtype for name in own.keys() & tensors.keys()}
    tensors |= {name: tensors[name].to(kind) for name, kind in kinds.items()}
    try:
        model.load_state_dict(tensors, assign=True)
    except RuntimeError:
        raise SnvideoError(
            f"{path}: its tensors are not those of {about.architecture} with {about.norm} and "
            f"{len(about.classes)} classes, as it says: the file was changed"
        ) from None
    return LoadedModel(model.to(device).eval(), about)


def check_strides(model: nn.Module, about: About, path: Path) -> None:
    """Refuse weights of a network whose strides are others.

    Raises:
        SnvideoError: naming the first layer that differs.
    """
    own, stated = strides(model), dict(about.strides)
    for layer in sorted(own.keys() | stated.keys()):
        if own.get(layer) != stated.get(layer):
            raise SnvideoError(
                f"{path} holds {about.architecture}, a network of other strides: "
                f"{_stride(stated, layer)} in {layer}, here {_stride(own, layer)}"
            )


def _stride(found: dict[str, tuple[int, ...]], layer: str) -> str:
    return "x".join(map(str, found[layer])) if layer in found else "none"
