"""Backbones: their published size, their shapes, and the same treatment for every norm."""

import math
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from pytorchvideo.models import hub
from pytorchvideo.models.resnet import ResBlock, ResStage
from torch import Tensor, nn
from torchvision.models import get_model_weights, video
from torchvision.models.video.resnet import BasicBlock

from snvideo.errors import SnvideoError
from snvideo.models import BACKBONES, create_model
from snvideo.models.cost import count_parameters, multiply_adds
from snvideo.norm import NORMS

# Frames, millions of parameters and GFLOPs (multiply-adds of one 256 x 256 view), 400 classes, as
# the pytorchvideo model zoo's architectures have them.
SIZES = {
    "c2d_r50_8x8": (8, 24.33, 25.46),
    "i3d_r50_8x8": (8, 28.04, 37.10),
    "i3d_r50_32x2": (32, 28.04, 43.27),
    "slow_r50_4x16": (4, 32.45, 27.26),
    "slow_r50_8x8": (8, 32.45, 54.52),
    "slowfast_r50_4x16": (32, 34.48, 36.10),
    "slowfast_r50_8x8": (32, 34.57, 65.71),
    "r2plus1d_r50_16x4": (16, 28.11, 75.15),
}

X3D = {
    "x3d_xs": (160, 3.79, 0.60),
    "x3d_s": (160, 3.79, 1.96),
    "x3d_m": (224, 3.79, 4.73),
    "x3d_l": (312, 6.15, 18.37),
}
"""Crops of training, millions of parameters as pytorchvideo's model zoo states them, and GFLOPs of
those crops as PySlowFast's does."""

CSN = {
    "ir_csn_r101_32x2": (22.21, 73.8),
    "ip_csn_r101_32x2": (24.60, 83.0),
    "ir_csn_r152_32x2": (29.70, 96.7),
    "ip_csn_r152_32x2": (33.02, 108.8),
}
"""Millions of parameters, of the first as pytorchvideo's model zoo states them, of the others those
of the blocks added up; GFLOPs of a test view as Tran et al. state them (arXiv 1904.02811)."""

TORCHVISION = ("r3d_18", "mc3_18", "r2plus1d_18")
TINY = tuple(name for name in BACKBONES if name.endswith("_tiny"))

EVERY_NORM = (*TINY, "x3d_xs", "r2plus1d_18")
"""One of each kind; the others are made of the same parts."""


class Published(NamedTuple):
    """A network of pytorchvideo's hub."""

    create: Callable[..., nn.Module]
    softmax: bool = False
    """Whether it ends in one, if it is not told otherwise."""
    alpha: int = 0
    """Frames of its fast pathway per frame of the slow one, if it has two."""


PUBLISHED = {
    "c2d_r50_8x8": Published(hub.c2d_r50),
    "i3d_r50_8x8": Published(hub.i3d_r50),
    "slow_r50_8x8": Published(hub.slow_r50),
    "slowfast_r50_8x8": Published(hub.slowfast_r50, alpha=4),
    "slowfast_r101_8x8": Published(hub.slowfast_r101, alpha=4),
    "r2plus1d_r50_16x4": Published(hub.r2plus1d_r50, softmax=True),
    "ir_csn_r101_32x2": Published(hub.csn_r101),
    "x3d_xs": Published(hub.x3d_xs, softmax=True),
    "x3d_s": Published(hub.x3d_s, softmax=True),
    "x3d_m": Published(hub.x3d_m, softmax=True),
    "x3d_l": Published(hub.x3d_l, softmax=True),
}


def on_meta(name: str, norm: str = "bn", classes: int = 400) -> nn.Module:
    with torch.device("meta"):
        return create_model(name, classes, norm)


@pytest.mark.parametrize("name", SIZES)
def test_parameters_and_flops(name):
    frames, millions, gflops = SIZES[name]
    assert (BACKBONES[name].frames, BACKBONES[name].crop) == (frames, 256)
    model = on_meta(name)
    assert count_parameters(model) / 1e6 == pytest.approx(millions, abs=0.01)
    assert multiply_adds(model, frames, 256) / 1e9 == pytest.approx(gflops, rel=0.005)


@pytest.mark.parametrize("name", X3D)
def test_parameters_and_flops_of_x3d(name):
    crop, millions, gflops = X3D[name]
    model = on_meta(name)
    assert count_parameters(model) / 1e6 == pytest.approx(millions, abs=0.01)
    found = multiply_adds(model, BACKBONES[name].frames, crop) / 1e9
    assert found == pytest.approx(gflops, abs=0.006)


def test_parameters_and_flops_of_non_local_i3d():
    """As mmaction2 states them (configs/recognition/i3d/metafile.yml). It pools behind phi and g,
    which sees four times as much; PySlowFast, and what is here, before."""
    model = on_meta("i3d_nln_r50_32x2")
    assert count_parameters(model) / 1e6 == pytest.approx(35.4, abs=0.05)
    pooled = 3 / 4 * 2 * (2 * 4 * 32 * 32 * 512 * 256 + 3 * 4 * 16 * 16 * 1024 * 512)
    found = multiply_adds(model, 32, 256) + pooled
    assert found / 1e9 == pytest.approx(59.3, rel=0.005)


def test_parameters_and_flops_of_tsm():
    """As the paper (24.3 M) and, of eight frames of 224 pixels, mmaction2 (32.88) state them."""
    model = on_meta("tsm_r50_8x8")
    assert count_parameters(model) / 1e6 == pytest.approx(24.33, abs=0.01)
    assert multiply_adds(model, 8, 224) / 1e9 == pytest.approx(32.88, rel=0.01)


@pytest.mark.parametrize("name", CSN)
def test_parameters_and_flops_of_csn(name):
    millions, gflops = CSN[name]
    model, view = on_meta(name), BACKBONES[name]
    assert count_parameters(model) / 1e6 == pytest.approx(millions, abs=0.01)
    found = multiply_adds(model, view.frames, view.crop) / 1e9
    assert found == pytest.approx(gflops, abs=0.1)


@pytest.mark.parametrize("name", TORCHVISION)
def test_parameters_and_flops_of_torchvision(name):
    stated = get_model_weights(name).DEFAULT.meta
    model, view = on_meta(name), BACKBONES[name]
    assert count_parameters(model) == stated["num_params"]
    found = multiply_adds(model, view.frames, view.crop) / 1e9
    assert found == pytest.approx(stated["_ops"], abs=0.001)


@pytest.mark.parametrize("name", TINY)
def test_tiny_networks_are_tiny(name):
    view = BACKBONES[name]
    assert (view.frames * view.stride, view.crop) == (32, 48)
    model = on_meta(name, classes=5)
    assert count_parameters(model) < 1.1e6
    assert multiply_adds(model, view.frames, view.crop) < 1e8


def give_weights(shapes: dict[str, Tensor], *models: nn.Module) -> None:
    """Let networks share random weights and statistics of these names and shapes."""
    rng, state = torch.Generator().manual_seed(0), {}
    for name, value in shapes.items():
        if value.dim() == 0:
            state[name] = torch.tensor(1)
        elif value.dim() > 1:
            fan_in = math.prod(value.shape[1:])
            state[name] = torch.randn(value.shape, generator=rng) / math.sqrt(fan_in)
        elif name.endswith(("bias", "running_mean")):
            state[name] = 0.1 * torch.randn(value.shape, generator=rng)
        else:  # scales and variances
            state[name] = 0.5 + torch.rand(value.shape, generator=rng)
    for model in models:
        model.load_state_dict(state, strict=True, assign=True)
        model.eval()


def assert_equal_logits(found: Tensor, expected: Tensor) -> None:
    size = float(expected.abs().max())
    assert expected.std() > 0.05 * size
    assert torch.allclose(found, expected, rtol=0, atol=1e-5 * size)


def cover(pool: nn.AvgPool3d, inputs: tuple[Tensor]) -> None:
    """Make a pool as large as what reaches it, as pools for 224 pixels are with 224 pixels."""
    pool.kernel_size = tuple(inputs[0].shape[2:])


@pytest.mark.parametrize("name", PUBLISHED)
def test_weights_of_pytorchvideo_load_and_mean_the_same(name):
    create, softmax, alpha = PUBLISHED[name]
    with torch.device("meta"):
        published = create(**({"head_activation": None} if softmax else {}))
    model = on_meta(name)
    give_weights(published.state_dict(), published, model)
    for module in published.modules():
        if isinstance(module, nn.AvgPool3d):
            module.register_forward_pre_hook(cover)
    clip = torch.randn(1, 3, 16 if alpha else BACKBONES[name].frames, 64, 64)
    with torch.no_grad():
        expected = published([clip[:, :, ::alpha], clip] if alpha else clip)
        assert_equal_logits(model(clip), expected)


def test_at_the_published_crop_the_published_pool_covers_everything():
    with torch.device("meta"):
        published = hub.x3d_xs(head_activation=None)
    model = on_meta("x3d_xs")
    give_weights(published.state_dict(), published, model)
    clip = torch.randn(1, 3, 4, 160, 160)
    with torch.no_grad():
        assert_equal_logits(model(clip), published(clip))


@pytest.mark.parametrize("name", TORCHVISION)
def test_weights_of_torchvision_load_and_mean_the_same(name):
    with torch.device("meta"):
        published = getattr(video, name)()
    model = on_meta(name)
    give_weights(published.state_dict(), published, model)
    clip = torch.randn(2, 3, 8, 40, 40)
    with torch.no_grad():
        assert torch.equal(model(clip), published(clip))


def stands_everywhere(name: str, norm: str) -> None:
    """No layer keeps a norm that was not asked for, and sizes other than the published work."""
    model = on_meta(name, norm, classes=7)
    kinds = {
        type(module)
        for module in model.modules()
        if list(module.parameters(recurse=False)) and not isinstance(module, (nn.Conv3d, nn.Linear))
    }
    assert len(kinds) == 1
    clips = torch.empty(2, 3, 16, 112, 112, device="meta")
    assert model.eval()(clips).shape == (2, 7)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", EVERY_NORM)
def test_every_norm_stands_everywhere(name, norm):
    stands_everywhere(name, norm)


@pytest.mark.parametrize("name", [name for name in BACKBONES if name not in EVERY_NORM])
def test_every_network_takes_another_norm(name):
    stands_everywhere(name, "gn")


@pytest.mark.parametrize("name", [*EVERY_NORM, "slowfast_r50_4x16", "r2plus1d_r50_16x4"])
def test_options_reach_every_norm(name):
    with torch.device("meta"):
        model = create_model(name, 7, "bn", group_size=2)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm3d)]
    assert len(norms) > 10 and all(layer.group_size == 2 for layer in norms)


SEVERAL_NORMS = [("i3d_tiny", norm) for norm in ("sn", "bn", "gn", "in", "ln")] + [
    (name, norm)
    for name in (
        "slowfast_r50_8x8",
        "slowfast_tiny",
        "r2plus1d_tiny",
        "ip_csn_tiny",
        "x3d_xs",
        "r2plus1d_18",
    )
    for norm in ("sn", "bn")
]


@pytest.mark.parametrize("name, norm", SEVERAL_NORMS)
def test_residual_branches_start_at_zero_for_every_norm(name, norm):
    model = create_model(name, 5, norm)
    last = [m for m in model.modules() if getattr(m, "block_final_bn", False)]
    branches = [m for m in model.modules() if isinstance(m, (ResBlock, BasicBlock))]
    assert len(last) == len(branches) > 0
    assert all(not module.weight.any() for module in last)
    others = [m.weight for m in model.modules() if type(m) is type(last[0]) and m not in last]
    assert len(others) > len(last) and all((weight == 1).all() for weight in others)


@pytest.mark.parametrize(
    "name, norm", [("i3d_r26_tiny", "sn"), ("slowfast_tiny", "bn"), ("x3d_xs", "gn")]
)
def test_residual_branches_start_at_one_if_they_are_to(name, norm):
    model = create_model(name, 5, norm, zero_init_last=False)
    last = [m for m in model.modules() if getattr(m, "block_final_bn", False)]
    assert last and all((module.weight == 1).all() for module in last)


def test_two_blocks_a_stage():
    stages = [m for m in on_meta("i3d_r26_tiny").modules() if isinstance(m, ResStage)]
    assert [len(stage.res_blocks) for stage in stages] == [2, 2, 2, 2]
    kernels = [[block.branch2.conv_a.kernel_size[0] for block in s.res_blocks] for s in stages]
    assert kernels == [[3, 3], [3, 1], [3, 1], [1, 3]]


@pytest.mark.parametrize(
    "name, norm",
    [(name, "sn") for name in (*TINY, "x3d_xs")]
    + [("mc3_18", norm) for norm in ("sn", "frozen_bn", "in")],
)
def test_gradients_reach_everything(name, norm):
    """Through operations that work in place, too, as torchvision's do behind its norms."""
    torch.manual_seed(0)
    model = create_model(name, 5, norm).train()
    for module in model.modules():
        if getattr(module, "block_final_bn", False):
            nn.init.ones_(module.weight)
    model(torch.randn(2, 3, 8, 48, 48)).square().sum().backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained)
    assert sum(bool(p.grad.any()) for p in trained) > 0.9 * len(trained)


@pytest.mark.parametrize("name, kernels", [("i3d_tiny", 15), ("x3d_xs", 80), ("r2plus1d_18", 30)])
def test_the_norm_changes_nothing_else(name, kernels):
    """Same seed, same convolutions and classifier, whatever the norm."""
    states = []
    for norm in ("sn", "bn", "gn"):
        torch.manual_seed(3)
        states.append(create_model(name, 5, norm).state_dict())
    drawn = [key for key, value in states[1].items() if value.dim() > 1]
    assert len(drawn) > kernels
    for key in drawn:
        assert torch.equal(states[0][key], states[1][key])
        assert torch.equal(states[2][key], states[1][key])


def test_strides_are_plain_integers():
    for name in ("i3d_r50_8x8", "slowfast_r50_4x16", "x3d_xs", "r3d_18", *TINY):
        for module in on_meta(name).modules():
            if isinstance(module, nn.Conv3d):
                assert all(type(stride) is int for stride in module.stride)


def test_time_is_halved_where_it_should_be():
    shapes = {}

    def keep(module, inputs, output):
        shapes[module] = output.shape[2]

    for name, frames, expected in (
        ("i3d_r50_8x8", 8, 4),
        ("i3d_r50_32x2", 32, 4),
        ("slow_r50_8x8", 8, 8),
        ("r2plus1d_r50_16x4", 16, 4),
        ("x3d_s", 13, 13),
        ("c2d_tiny", 8, 4),
        ("i3d_tiny", 8, 4),
        ("slow_tiny", 8, 8),
        ("r2plus1d_tiny", 8, 2),
        ("ip_csn_tiny", 8, 1),
        ("tsm_tiny", 8, 8),
    ):
        model = on_meta(name).eval()
        last_stage = model.blocks[-2]
        last_stage.register_forward_hook(keep)
        model(torch.empty(1, 3, frames, 64, 64, device="meta"))
        assert shapes[last_stage] == expected


def test_slowfast_takes_one_clip_and_leaves_it():
    torch.manual_seed(0)
    model = create_model("slowfast_tiny", 5, "bn").eval()
    clip = torch.randn(1, 3, 32, 64, 64)
    before = clip.clone()
    assert model(clip).shape == (1, 5)
    assert torch.equal(clip, before)
    with pytest.raises(ValueError, match="expected a multiple of 4 frames"):
        model(clip[:, :, :30])


def test_slow_pathways_get_as_many_frames_as_they_are_called_after():
    for name, slow in (("slowfast_r50_4x16", 4), ("slowfast_r50_8x8", 8)):
        frames, alpha = BACKBONES[name].frames, on_meta(name).alpha
        assert (frames // alpha, BACKBONES[name].stride * alpha) == (slow, 64 // slow)


@pytest.mark.parametrize("name", [*TINY, "x3d_xs", "mc3_18"])
def test_logits_come_without_softmax(name):
    model = create_model(name, 5, "gn", dropout=0.0).eval()
    (classifier,) = (module for module in model.modules() if isinstance(module, nn.Linear))
    nn.init.constant_(classifier.bias, 3.0)
    assert (model(torch.randn(1, 3, 8, 32, 32)).sum() - 15).abs() < 5


def test_unknown_backbone_is_one_line():
    with pytest.raises(SnvideoError, match="unknown model 'i3d': expected one of c2d_r50_8x8"):
        create_model("i3d", 5)
