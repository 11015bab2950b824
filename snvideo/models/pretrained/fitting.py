"""Networks that weights of any format can start."""

import re

import torch

from snvideo.errors import SnvideoError
from snvideo.models.pretrained.formats import WeightsSource
from snvideo.models.pretrained.load import check_layers
from snvideo.models.registry import BACKBONES, create_model


def fitting_backbones(source: WeightsSource) -> list[str]:
    """Names of the networks whose layers are all in the weights, and no other, likeliest first.

    A file of snvideo names its own. Of several with the same tensors, those come first whose name
    the file or the library has; then I3D, for weights of images; then a view of 8 frames, the
    published networks' own.

    Raises:
        SnvideoError: if there is none.
    """
    if source.metadata is not None:
        return [source.metadata.architecture]
    fitting = []
    for name in BACKBONES:
        with torch.device("meta"):
            model = create_model(name, 2)
        try:
            check_layers(model, source, name)
        except SnvideoError:
            continue
        fitting.append(name)
    if not fitting:
        raise SnvideoError(
            f"{source.origin} ({source.format}) fits none of the networks here: 'snvideo models' "
            "lists them"
        )
    words = set(re.split("[^a-z0-9]+", source.origin.lower()))

    def likeliness(name: str) -> tuple[int, bool, bool]:
        named = sum(word in words for word in name.split("_"))
        return named, source.images and name.startswith("i3d_r"), name.endswith("_8x8")

    return sorted(fitting, key=likeliness, reverse=True)
