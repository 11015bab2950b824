"""Sources of weights: a file, or a library's own download."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from pathlib import Path

from torch.hub import load_state_dict_from_url

from snvideo.errors import SnvideoError
from snvideo.extras import require
from snvideo.models.pretrained.formats import WeightsSource, identify
from snvideo.models.pretrained.hugging_face import download
from snvideo.models.pretrained.native import WEIGHTS_FILE
from snvideo.models.pretrained.reader import Contents, read_weights, validate_state_dict


def open_weights(source: str) -> WeightsSource:
    """Read weights and identify their format.

    Args:
        source: a file; or what a library downloads, as `torchvision:r3d_18`,
            `torchvision:resnet50:DEFAULT`, `timm:resnet50.a1_in1k`, `pytorchvideo:i3d_r50`; or what
            `snvideo push` has published, `hf:USER/NAME@REVISION`. No code of a hub is run.

    Raises:
        SnvideoError: if they cannot be read or downloaded, or are of no known format.
    """
    library, colon, name = source.partition(":")
    if not colon or library not in _LIBRARIES or os.path.lexists(source):
        return identify(read_weights(Path(source)), source)
    try:
        return _LIBRARIES[library](name, source)
    except SnvideoError:
        raise
    except Exception as error:  # of a network, a disk, a library
        why = str(error).strip().partition("\n")[0][:200]
        raise SnvideoError(
            f"cannot download {source}: {why}; download it elsewhere and name the file"
        ) from None


def _torchvision(name: str, origin: str) -> WeightsSource:
    from torchvision import models

    network, _, variant = name.partition(":")
    try:
        choices = models.get_model_weights(network)
        weights = choices[variant] if variant else choices.DEFAULT
    except (ValueError, KeyError):
        raise SnvideoError(
            f"torchvision has no weights '{name}': expected, for example, resnet50 or "
            "resnet50:IMAGENET1K_V1"
        ) from None
    tensors = weights.get_state_dict(
        progress=True, check_hash=True, map_location="cpu", weights_only=True
    )
    found = identify(Contents(validate_state_dict(tensors, origin), {}, None), origin)
    transforms = weights.transforms()
    return found._replace(
        mean_std=(tuple(transforms.mean), tuple(transforms.std)),
        classes=tuple(weights.meta["categories"]),
    )


# Others of its ResNets have the same tensors as these and other strides or pools.
_TIMM = ("resnet50", "resnet101", "resnet152", "resnet50_gn")


def _timm(name: str, origin: str) -> WeightsSource:
    require("timm", f"weights {origin}")
    timm = importlib.import_module("timm")
    if not timm.is_model(name):
        raise SnvideoError(f"timm has no network '{name}': see timm.list_pretrained('resnet50*')")
    if name.partition(".")[0] not in _TIMM:
        raise SnvideoError(
            f"{origin} is not a plain ResNet, which is what can be inflated: expected one of "
            f"{', '.join(_TIMM)}, as in timm:resnet50.a1_in1k"
        )
    model = timm.create_model(name, pretrained=True)
    found = identify(Contents(model.state_dict(), {}, None), origin)
    config = model.pretrained_cfg
    return found._replace(mean_std=(tuple(config["mean"]), tuple(config["std"])))


def _pytorchvideo(name: str, origin: str) -> WeightsSource:
    urls: dict[str, str] = {}
    for family in ("resnet", "slowfast", "r2plus1d", "x3d", "csn"):
        urls |= importlib.import_module(f"pytorchvideo.models.hub.{family}").checkpoint_paths
    if name not in urls:
        raise SnvideoError(f"pytorchvideo's hub has no '{name}': it has {', '.join(sorted(urls))}")
    state = load_state_dict_from_url(urls[name], map_location="cpu", weights_only=True)
    tensors = validate_state_dict(state["model_state"], origin)
    return identify(Contents(tensors, {}, None, "model_state"), origin)


def _hugging_face(name: str, origin: str) -> WeightsSource:
    return identify(read_weights(download(origin, WEIGHTS_FILE)), origin)


_LIBRARIES: dict[str, Callable[[str, str], WeightsSource]] = {
    "torchvision": _torchvision,
    "timm": _timm,
    "pytorchvideo": _pytorchvideo,
    "hf": _hugging_face,
}
