"""Masks of dropout and drop path, which depend on a clip's place in the run alone."""

import torch
from torch import Tensor, nn

from snvideo.data import sampling
from snvideo.models.drop_path import DropPath
from snvideo.models.dropout import ClipDropout


class DropoutMasks:
    """Masks of all clips of an optimizer step, the same on any number of processes.

    Those of a layer are a function of the seed, the step, and its number among layers of its kind.
    """

    def __init__(self, model: nn.Module, seed: int, clips: int, device: torch.device) -> None:
        """`clips` is the number of clips in a step, over all processes."""
        layers = [m for m in model.modules() if isinstance(m, ClipDropout) and m.p]
        paths = [layer for layer in layers if isinstance(layer, DropPath)]
        others = [layer for layer in layers if not isinstance(layer, DropPath)]
        self._layers = [
            (layer, (seed, stream), number)
            for stream, kind in ((sampling.DROPOUT, others), (sampling.DROP_PATH, paths))
            for number, layer in enumerate(kind)
        ]
        self._clips, self._device = clips, device
        self._masks: list[Tensor] = []

    def draw(self, step: int) -> None:
        """Draw the masks of a step."""
        drawn = (
            layer.sample_masks(sampling.generator(*stream, step, number), self._clips)
            for layer, stream, number in self._layers
        )
        cuda = self._device.type == "cuda"
        self._masks = [mask.pin_memory() if cuda else mask for mask in drawn]

    def give(self, clips: range) -> None:
        """Give the layers the masks of the clips, by their places in the step, of the next pass."""
        for (layer, _, _), mask in zip(self._layers, self._masks, strict=True):
            part = mask[clips.start : clips.stop]
            layer.mask = part.to(self._device, non_blocking=True)
