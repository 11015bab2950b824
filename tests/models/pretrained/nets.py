"""Networks in which no layer is trivial, and networks that hold nothing until they take something
over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from snvideo.models import create_model
from snvideo.models.config import WeightsConfig
from snvideo.models.pretrained import (
    LoadReport,
    Preprocessing,
    WeightsMetadata,
    WeightsSource,
    has_batch_part,
    layer_strides,
    load_weights_into,
)
from snvideo.models.pretrained.formats import identify
from snvideo.models.pretrained.metadata import METADATA_KEY
from snvideo.models.pretrained.reader import Contents

Norm = nn.modules.batchnorm._NormBase

CLASSES = ("archery", "juggling balls", "tap dancing", "washing dishes", "yoga")


def lively(net: nn.Module, *inputs: Any, seed: int = 0) -> nn.Module:
    """Draw all parameters, and batch statistics near those of the inputs; in evaluation mode.

    Activations keep their scale from layer to layer, so an error anywhere shows at the end.
    """
    torch.manual_seed(seed)
    with torch.no_grad():
        for module in net.modules():
            weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
            if isinstance(module, (Norm, nn.GroupNorm)):
                weight.uniform_(0.5, 1.5)
                bias.normal_(0, 0.3)
            elif weight is not None:
                weight.normal_(0, (2 / weight[0].numel()) ** 0.5)
                if bias is not None:
                    bias.normal_(0, 0.3)
        norms = [module for module in net.modules() if isinstance(module, Norm)]
        for norm in norms:
            for logits in (getattr(norm, "mean_logits", None), getattr(norm, "var_logits", None)):
                if logits is not None:
                    logits.normal_()
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = 1.0
        net.train()(*inputs)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            if norm.running_mean is not None:
                norm.running_mean += 0.2 * norm.running_var.sqrt() * torch.randn_like(norm.bias)
                norm.running_var *= torch.empty_like(norm.bias).uniform_(0.7, 1.4)
    return net.eval()


def blank(name: str, norm: str = "bn", classes: int = len(CLASSES), **options: Any) -> nn.Module:
    """A network of ours, in evaluation mode, that holds no number: what is not loaded shows."""
    with torch.device("meta"):
        net = create_model(name, classes, norm, **options)
    net.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in net.state_dict().values():
            tensor.fill_(torch.nan if tensor.is_floating_point() else 0)
    return net.eval()


def source(state: Mapping[str, Tensor], **facts: Any) -> WeightsSource:
    """Weights as if they had been read from a file."""
    return identify(Contents(dict(state), facts, None, "model_state"), "weights.pth")


def own(net: nn.Module, name: str, norm: str, classes: Sequence[str] = CLASSES) -> WeightsMetadata:
    """What a file of ours says of a network."""
    seen = Preprocessing(
        mean=(0.4, 0.4, 0.4), std=(0.2, 0.2, 0.2), frames=8, stride=4, short_side=56, crop=48
    )
    return WeightsMetadata(
        architecture=name,
        strides=layer_strides(net),
        norm=norm,
        use_batch=has_batch_part(net),
        statistics=None,
        classes=tuple(classes),
        preprocessing=seen,
    )


def own_source(net: nn.Module, name: str, norm: str) -> WeightsSource:
    """A network as if it had been read from a file of ours."""
    return source(net.state_dict(), **{METADATA_KEY: own(net, name, norm).model_dump_json()})


def clips(count: int, seed: int, frames: int = 8, pixels: int = 48) -> Tensor:
    """Smooth clips that differ in brightness and contrast, as videos do: (N, 3, T, H, W)."""
    rng = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 3, 4, 8, 8, generator=rng)
    smooth = functional.interpolate(coarse, (frames, pixels, pixels), mode="trilinear")
    contrast = torch.rand(count, 3, 1, 1, 1, generator=rng) * 1.5 + 0.25
    return smooth * contrast + 0.7 * torch.randn(count, 3, 1, 1, 1, generator=rng)


def take(
    net: nn.Module, weights: WeightsSource, own: Sequence[str] = CLASSES, **options: Any
) -> LoadReport:
    """Start a network of these classes from weights; every tensor of both has to be reported."""
    report = load_weights_into(net, weights, WeightsConfig(source=weights.origin, **options), own)
    sizes = {name: t.numel() for name, t in net.state_dict().items() if not _counts(name)}
    here = [entry for entry in report.entries if entry.status != "dropped"]
    assert sorted((entry.name, entry.values) for entry in here) == sorted(sizes.items())
    there = sum(not _counts(name) for name in weights.tensors)
    assert len(report.entries) - report.count("reset") == there
    return report


def _counts(name: str) -> bool:
    return name.endswith("num_batches_tracked")


def output_of(module: nn.Module, net: nn.Module, x: Any) -> Tensor:
    """What a module inside a network gives while the network sees x."""
    found = []
    handle = module.register_forward_hook(lambda module, inputs, output: found.append(output))
    with torch.no_grad():
        net(x)
    handle.remove()
    return found[0]


def error(found: Tensor, expected: Tensor) -> float:
    """Largest difference, as part of the largest expected value."""
    assert found.shape == expected.shape
    return ((found - expected).abs().max() / expected.abs().max()).item()
