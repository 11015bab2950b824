"""Features: what a layer of a network gives for each clip, averaged over space and time."""

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from snvideo.errors import SnvideoError
from snvideo.models.pretrained.name_mapping import classifier_name

_CHANNELS_LAST = (nn.Linear, nn.LayerNorm)


class PooledLayer:
    """A layer of a network whose outputs are recorded, averaged over space and time.

    Outputs are (N, C, *) or, where the last weights of the layer are those of an nn.Linear or an
    nn.LayerNorm, (N, *, C). Of several outputs, as those of the two pathways of SlowFast, the
    averages stand one behind the other, in their order.

    Args:
        model: the network.
        layer: a name of `model.named_modules()`; None: the input of the classifier, which the head
            has pooled.

    Raises:
        SnvideoError: if there is no such layer, or nothing tells where its channels are.
    """

    def __init__(self, model: nn.Module, layer: str | None = None) -> None:
        self._of_input = layer is None
        name = classifier_name(model) if layer is None else layer
        self.name = f"input of {name}" if layer is None else name
        self._module = _find(model, name)
        self._last = _channels_last(model, self._module, name)

    @contextmanager
    def recorded(self) -> Iterator[list[Tensor]]:
        """Record the layer in the forward passes of the block.

        Yields:
            a list, to which each run of the layer adds float32 (N, C).
        """
        found: list[Tensor] = []

        def record_input(module: nn.Module, arguments: tuple[Any, ...]) -> None:
            found.append(self._pool(arguments[0]))

        def record_output(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
            # At once: SlowFast's blocks write into the list that they are given.
            found.append(self._pool(output))

        if self._of_input:
            handle = self._module.register_forward_pre_hook(record_input)
        else:
            handle = self._module.register_forward_hook(record_output)
        try:
            yield found
        finally:
            handle.remove()

    def _pool(self, output: Any) -> Tensor:
        several = output if isinstance(output, list | tuple) else [output]
        tensors = [one for one in several if isinstance(one, Tensor)]
        if not tensors or any(one.dim() < 2 for one in tensors):
            raise SnvideoError(f"layer '{self.name}' gives no tensors (N, C, ...): name another")
        return torch.cat([self._average(one.float()) for one in tensors], 1)

    def _average(self, output: Tensor) -> Tensor:
        if output.dim() == 2:
            return output.clone()  # which the network may go on to change
        places = range(1, output.dim() - 1) if self._last else range(2, output.dim())
        return output.mean(tuple(places))


def _find(model: nn.Module, name: str) -> nn.Module:
    known = {key: module for key, module in model.named_modules() if key}
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3) or list(known)[:3]
        raise SnvideoError(f"the network has no layer '{name}'; near it: {', '.join(near)}")
    if isinstance(known[name], nn.ModuleList | nn.ModuleDict):
        inner = next(iter(known[name].named_children()))[0]
        raise SnvideoError(f"'{name}' is a list of layers: name one in it, as '{name}.{inner}'")
    return known[name]


def _channels_last(model: nn.Module, layer: nn.Module, name: str) -> bool:
    """True if a layer's outputs are (N, *, C)."""
    weighted = [one for one in layer.modules() if [*one.parameters(recurse=False)]]
    if weighted:
        return isinstance(weighted[-1], _CHANNELS_LAST)
    if any(isinstance(one, nn.LayerNorm) for one in model.modules()):
        raise SnvideoError(
            f"layer '{name}' has no weights, which would tell where its channels are: name the "
            "layer before or around it"
        )
    return False
