"""Grad-CAM: where in a clip a network finds a class (Selvaraju et al., ICCV 2017)."""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate


def grad_cam(model: nn.Module, clip: Tensor, label: int) -> Tensor:
    r"""Grad-CAM of a class over time and space.

    Of the activations A of the last block that still has positions,

    .. math::
        L = \mathrm{ReLU}\Big(\sum_k \alpha_k A_k\Big), \qquad
        \alpha_k = \frac{1}{|S|} \sum_{s \in S} \frac{\partial y}{\partial A_{ks}}

    (Eq. 1 and 2), where y is the logit of the class and S are all positions in time and space.
    The sum is brought to the clip's size before the ReLU, and added over the pathways of a network
    that has several.

    Args:
        model: a network of `blocks`, as all of this package, in evaluation mode.
        clip: (1, 3, T, H, W), normalized.
        label: number of the class.

    Returns:
        float32 (T, H, W), 0 or more, in logits: zero everywhere if nothing speaks for the class.
    """
    outputs: list[list[Tensor]] = []

    def record(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        # A list of its own: SlowFast's blocks write into the list that they are given.
        outputs.append(list(output) if isinstance(output, list | tuple) else [output])

    handles = [block.register_forward_hook(record) for block in _blocks(model)]
    with torch.inference_mode(False), torch.enable_grad():
        try:
            # The input asks for gradients, as parameters need not.
            logits = model(clip.detach().clone().requires_grad_())
        finally:
            for handle in handles:
                handle.remove()
        last = next(one for one in reversed(outputs) if all(map(_has_positions, one)))
        gradients = torch.autograd.grad(logits[0, label], last)
    size = clip.shape[2:]
    maps = torch.zeros(size, device=clip.device)
    for activation, gradient in zip(last, gradients, strict=True):
        weights = gradient.float().mean((2, 3, 4), keepdim=True)
        weighted = (weights * activation.detach().float()).sum(1, keepdim=True)
        maps += interpolate(weighted, size, mode="trilinear", align_corners=False)[0, 0]
    return maps.relu()


def _blocks(model: nn.Module) -> nn.ModuleList:
    return cast(nn.ModuleList, model.blocks)


def _has_positions(output: Tensor) -> bool:
    return output.dim() == 5 and output.shape[3:].numel() > 1
