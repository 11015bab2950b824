"""Pooled layers: names, layouts of outputs, and what is refused."""

import pytest
import torch
from torch import nn

from snvideo.errors import SnvideoError
from snvideo.models.features import PooledLayer
from snvideo.models.registry import create_model


def test_both_pathways_of_slowfast_stand_one_behind_the_other():
    model = create_model("slowfast_tiny", 5).eval()
    seen = []
    model.blocks[3].register_forward_hook(lambda _, __, out: seen.append([o.clone() for o in out]))
    layer = PooledLayer(model, "blocks.3")
    with torch.no_grad(), layer.recorded() as found:
        model(torch.randn(2, 3, 16, 48, 48))
    expected = torch.cat([out.mean((2, 3, 4)) for out in seen[0]], 1)
    assert torch.equal(found[0], expected)
    assert expected.shape[1] == sum(out.shape[1] for out in seen[0])
    with torch.no_grad():
        model(torch.randn(2, 3, 16, 48, 48))
    assert len(found) == 1  # nothing is recorded any more


class Tokens(nn.Module):
    """A network whose layers give (N, L, C), and of whose outputs the last is of another kind."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.act = nn.Linear(3, 6), nn.LayerNorm(6), nn.GELU()
        self.block, self.head = nn.Sequential(nn.Linear(6, 6), nn.GELU()), nn.Linear(6, 4)
        self.unused = nn.Linear(1, 1)
        self.sizes = _Sizes(6)

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        tokens = self.norm(self.embed(clips.flatten(2).transpose(1, 2)))
        tokens, _ = self.sizes(self.act(self.block(tokens)))
        return self.head(tokens.mean(1))


class _Sizes(nn.Linear):
    def __init__(self, features: int) -> None:
        super().__init__(features, features)

    def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, list[int]]:  # type: ignore
        return super().forward(tokens), [*tokens.shape]


@pytest.mark.parametrize("name", ["embed", "norm", "block", "sizes"])
def test_tokens_are_averaged(name):
    torch.manual_seed(0)
    model, seen = Tokens(), []
    model.get_submodule(name).register_forward_hook(lambda _, __, out: seen.append(out))
    with torch.no_grad(), PooledLayer(model, name).recorded() as found:
        model(torch.randn(2, 3, 2, 4, 4))
    tokens = seen[0][0] if name == "sizes" else seen[0]
    assert tokens.shape == (2, 32, 6)
    assert torch.equal(found[0], tokens.mean(1))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("blocks.3.res_block.0", "no layer 'blocks.3.res_block.0'; near it: blocks.3.res_blocks.0"),
        ("", "no layer ''"),
        ("blocks", "a list of layers: name one in it, as 'blocks.0'"),
    ],
)
def test_wrong_names_are_answered_with_near_ones(name, message):
    with pytest.raises(SnvideoError, match=message):
        PooledLayer(create_model("i3d_tiny", 5), name)


def test_a_layer_of_unknown_layout_is_refused():
    with pytest.raises(SnvideoError, match="'act' has no weights"):
        PooledLayer(Tokens(), "act")
