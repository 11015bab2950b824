"""The layers of a ResNet in words that all libraries share, and where they stand in a network.

    stem.conv  stem.norm  res2.0.conv_a  res2.0.norm_a ...  res5.2.norm_c  head
    res2.0.shortcut.conv  res2.0.shortcut.norm      the projection beside a stage's first block

In a network of two pathways all but the head begin with `slow.` or `fast.`, and `fuse1` to `fuse4`
(`.conv`, `.norm`) carry the fast one over after the stem and the first three stages.
"""

from __future__ import annotations

import re

from torch import nn

_PATHWAYS = ("slow.", "fast.")
_INSIDE = re.compile(r"res_blocks\.(\d+)\.(branch1_conv|branch1_norm|branch2\.(?:conv|norm)_[abc])")
_SHORTCUT = {"branch1_conv": "shortcut.conv", "branch1_norm": "shortcut.norm"}


def layers(model: nn.Module) -> dict[str, str]:
    """Where the layers of a network of pytorchvideo's builders stand: shared name -> module name.

    Layers that have no shared name, as those of X3D and R(2+1)D, are left out.
    """
    found: dict[str, str] = {}
    stages: list[str] = []
    for name, module in model.named_modules():
        if not any(True for _ in module.parameters(recurse=False)):
            continue
        block, _, rest = name.removeprefix("blocks.").partition(".")
        pathway = ""
        if rest.startswith("multipathway_blocks."):
            pathway, rest = _PATHWAYS[int(rest[20])], rest[22:]
        inside = _INSIDE.fullmatch(rest)
        if inside:
            if block not in stages:
                stages.append(block)
            part = _SHORTCUT.get(inside[2], inside[2].removeprefix("branch2."))
            found[f"{pathway}res{stages.index(block) + 2}.{inside[1]}.{part}"] = name
        elif rest.startswith("multipathway_fusion."):
            part = "conv" if rest.endswith("conv_fast_to_slow") else "norm"
            found[f"fuse{len(stages) + 1}.{part}"] = name
        elif block == "0" and rest in ("conv", "norm"):
            found[f"{pathway}stem.{rest}"] = name
        elif isinstance(module, nn.Linear):
            found["head"] = name
    return found


def classifier(model: nn.Module) -> str:
    """Name of the layer that gives the logits: the last, in all networks of ours, and linear."""
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear)][-1]
