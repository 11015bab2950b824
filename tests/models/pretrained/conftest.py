"""Networks of pytorchvideo's hub, built once for all tests of this folder."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import pytest
import torch
from pytorchvideo.models import hub
from torch import Tensor, nn

from tests.models.pretrained.nets import CLASSES, lively


class Theirs(NamedTuple):
    """A network of another library, and what it says of a clip."""

    net: nn.Module
    clip: Tensor
    """(N, 3, T, H, W), RGB."""
    logits: Tensor

    def of(self, clip: Tensor) -> Tensor:
        """Logits of a clip."""
        with torch.no_grad():
            return self.net(_inputs(self.net, clip))


SHAPES = {
    "c2d_r50": (8, 64),
    "i3d_r50": (8, 64),
    "slow_r50": (8, 64),
    "slowfast_r50": (32, 64),
    "r2plus1d_r50": (16, 64),
    "x3d_xs": (4, 160),
}
"""Frames and pixels. X3D's are those it was made for: its pool has a fixed size."""


def _inputs(net: nn.Module, clip: Tensor) -> Any:
    """SlowFast of the hub takes two clips: every fourth frame, and all."""
    two = hasattr(net.blocks[0], "multipathway_blocks")
    return [clip[:, :, ::4], clip] if two else clip


@pytest.fixture(scope="package")
def theirs() -> Callable[..., Theirs]:
    """A network of the hub by name, with the options of its builder.

    Its pool, of a fixed size for 224 pixels, is replaced by one over everything, as it is there;
    so is the softmax that some have.
    """

    @cache
    def build(name: str, **options: Any) -> Theirs:
        with torch.device("meta"):
            net = getattr(hub, name)(model_num_class=len(CLASSES), **options)
        net.to_empty(device="cpu")
        net.blocks[-1].activation = None
        if name == "slowfast_r50":
            net.blocks[-2].pool = nn.ModuleList([nn.AdaptiveAvgPool3d(1) for _ in range(2)])
        elif name != "x3d_xs":
            net.blocks[-1].pool = nn.AdaptiveAvgPool3d(1)
        frames, pixels = SHAPES[name]
        torch.manual_seed(2)
        clip = torch.randn(2, 3, frames, pixels, pixels)
        found = Theirs(lively(net, _inputs(net, clip)), clip, torch.empty(0))
        return found._replace(logits=found.of(clip))

    return build
