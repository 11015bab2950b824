"""X3D of PySlowFast in the names of pytorchvideo's, which is the network here."""

from __future__ import annotations

import torch
from torch import Tensor

from snvideo.models.pretrained.formats.source import Rules

STEM = "blocks.0.conv.conv_t"
"""The first convolution of its stem, over space; pytorchvideo calls it by the other's name."""

X3D: Rules = {
    r"s1\.pathway0_stem\.conv_xy": lambda m: STEM,
    r"s1\.pathway0_stem\.conv": lambda m: "blocks.0.conv.conv_xy",
    r"s1\.pathway0_stem\.bn": lambda m: "blocks.0.norm",
    r"s([2-5])\.pathway0_res(\d+)\.branch1(_bn)?": (
        lambda m: f"{_block(m[1], m[2])}.branch1_{'norm' if m[3] else 'conv'}"
    ),
    r"s([2-5])\.pathway0_res(\d+)\.branch2\.([abc])": (
        lambda m: f"{_block(m[1], m[2])}.branch2.conv_{m[3]}"
    ),
    r"s([2-5])\.pathway0_res(\d+)\.branch2\.([ac])_bn": (
        lambda m: f"{_block(m[1], m[2])}.branch2.norm_{m[3]}"
    ),
    r"s([2-5])\.pathway0_res(\d+)\.branch2\.b_bn": (
        lambda m: f"{_block(m[1], m[2])}.branch2.norm_b.0"
    ),
    r"s([2-5])\.pathway0_res(\d+)\.branch2\.se\.fc([12])": (
        lambda m: f"{_block(m[1], m[2])}.branch2.norm_b.1.block.{2 * (int(m[3]) - 1)}"
    ),
    r"head\.conv_5": lambda m: "blocks.5.pool.pre_conv",
    r"head\.conv_5_bn": lambda m: "blocks.5.pool.pre_norm",
    r"head\.lin_5": lambda m: "blocks.5.pool.post_conv",
    r"head\.projection": lambda m: "blocks.5.proj",
}


def _block(stage: str, number: str) -> str:
    return f"blocks.{int(stage) - 1}.res_blocks.{number}"


_EPS = 1e-5
"""Of all its norms."""

FOLDED = (
    "its norm beside the shortcut of res2, which the network here lacks, was put into the layers "
    "before and beside it"
)


def fold_shortcut_norm(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors without the norm of res2's shortcut, where the channels stay the same.

    As it is in an evaluation, its scale goes into the convolution before it, and its shift into the
    last norm of the branch that it is added to.
    """
    place = "blocks.1.res_blocks.0"
    norm = {
        field: tensors.get(f"{place}.branch1_norm.{field}")
        for field in ("weight", "bias", "running_mean", "running_var")
    }
    weight, bias = f"{place}.branch1_conv.weight", f"{place}.branch2.norm_c.bias"
    if any(tensor is None for tensor in norm.values()) or not {weight, bias} <= tensors.keys():
        return tensors  # another network, which is told by what is missing
    gamma, beta, mean, variance = (t.double() for t in norm.values() if t is not None)
    scale = gamma / torch.sqrt(variance + _EPS)
    folded = {
        weight: (tensors[weight] * scale.view(-1, 1, 1, 1, 1)).to(tensors[weight].dtype),
        bias: (tensors[bias] + beta - mean * scale).to(tensors[bias].dtype),
    }
    left = {k: t for k, t in tensors.items() if not k.startswith(f"{place}.branch1_norm.")}
    return left | folded
