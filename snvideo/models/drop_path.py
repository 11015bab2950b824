"""Drop path: residual branches that are left out for some clips of a training batch."""

from pytorchvideo.models.resnet import ResBlock
from torch import Tensor, nn
from torch.nn import functional

from snvideo.errors import SnvideoError
from snvideo.models.depth import RESIDUAL_BLOCKS, layer_depths
from snvideo.models.dropout import ClipDropout


class DropPath(ClipDropout):
    """Stochastic depth (Huang et al. 2016): zeros for some clips, and for the others x / (1 - p).

    Its masks can be given from outside, (N, 1); without one it draws them by itself.

    Args:
        p: probability that a clip is zeroed.

    Shape:
        (N, *) -> the same.
    """

    def __init__(self, p: float) -> None:
        super().__init__(p, features=1)

    def draw(self, x: Tensor) -> Tensor:
        """x with some of its clips zeroed, at random."""
        kept = x.new_ones(len(x), *(1 for _ in x.shape[1:]))
        return x * functional.dropout(kept, self.p)

    def extra_repr(self) -> str:
        """Settings of the layer."""
        return f"p={self.p}"


class _DroppedSum(nn.Module):
    """Sum of a shortcut and a branch that may be dropped."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.drop_path = DropPath(p)

    def forward(self, shortcut: Tensor, branch: Tensor) -> Tensor:
        """Output of the block, before its activation."""
        return shortcut + self.drop_path(branch)


def add_drop_path(model: nn.Module, rate: float) -> None:
    """Put `DropPath` behind every residual branch, at rates that rise linearly with depth.

    The first block's is 0, which needs no layer, the last one's `rate`, as in timm. Names and
    values of parameters stay.

    Raises:
        SnvideoError: if the network has no residual block of a known kind.
    """
    depths = {
        m: depth for m, depth in layer_depths(model).items() if isinstance(m, RESIDUAL_BLOCKS)
    }
    if not depths:
        raise SnvideoError(
            f"model.drop_path: {type(model).__name__} has no residual branches of pytorchvideo or "
            "torchvision: leave it out"
        )
    first, last = min(depths.values()), max(depths.values())
    for block, depth in depths.items():
        p = rate * (depth - first) / max(1, last - first)
        if not p:
            continue
        if isinstance(block, ResBlock):
            block.branch_fusion = _DroppedSum(p)
        else:
            block.conv2.append(DropPath(p))
