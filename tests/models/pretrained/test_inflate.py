"""A network for images inside one for videos: on a still clip it sees what it saw in the image."""

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import resnet50

from snvideo.models.pretrained.load import inflate
from tests.models.pretrained.nets import blank, error, lively, output_of, source, take

IMAGES = 2


@pytest.fixture(scope="module")
def images() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(12, 3, 64, 64)


@pytest.fixture(scope="module")
def net(images: Tensor) -> nn.Module:
    with torch.device("meta"):
        net = resnet50()
    return lively(net.to_empty(device="cpu"), images)


@pytest.fixture(scope="module")
def expected(net: nn.Module, images: Tensor) -> Tensor:
    """What the image network sees before it pools: (N, 2048, 2, 2)."""
    return output_of(net.layer4, net, images[:IMAGES])


def still(images: Tensor, frames: int) -> Tensor:
    return images[:IMAGES, :, None].expand(-1, -1, frames, -1, -1).contiguous()


def in_every_frame(features: Tensor, frames: int) -> Tensor:
    return features[:, :, None].expand(-1, -1, frames, -1, -1)


def replicate_in_time(net: nn.Module) -> None:
    """Let convolutions see, beyond both ends of a clip, its end frames instead of black ones."""
    for module in net.modules():
        if isinstance(module, nn.Conv3d) and module.padding[0]:
            time, *space = module.padding
            module.padding = (0, *space)
            module.register_forward_pre_hook(
                lambda module, inputs, time=time: functional.pad(
                    inputs[0], (0, 0, 0, 0, time, time), mode="replicate"
                )
            )


@pytest.mark.parametrize(
    "name, frames, left",
    [
        ("c2d_r50_8x8", 4, 2),
        ("i3d_r50_8x8", 8, 4),
        ("slow_r50_8x8", 4, 4),
        ("i3d_r50_32x2", 16, 2),
    ],
)
def test_centre_taps_see_every_frame_of_a_still_clip_as_the_image(
    net, images, expected, name, frames, left
):
    """Whatever the strides in time, and for all of torchvision's layers."""
    video = blank(name)
    report = take(video, source(net.state_dict()), inflate="centre")
    seen = output_of(video.blocks[-2], video, still(images, frames))
    assert error(seen, in_every_frame(expected, left)) < 1e-4
    assert report.count("inflated") == 53 and report.count("loaded") == 4 * 53
    assert report.count("reset") == report.count("dropped") == 2


@pytest.mark.parametrize("frames", [3, 5])
def test_repeated_taps_darken_the_frames_at_the_ends_alone(frames):
    """Beyond the ends of a clip is black: there, taps are missing, and only there."""
    torch.manual_seed(0)
    kernel, image = torch.randn(6, 4, 3, 3), torch.randn(2, 4, 9, 9)
    expected = functional.conv2d(image, kernel, padding=1)
    clip = image[:, :, None].expand(-1, -1, 8, -1, -1)
    reach = frames // 2
    seen = functional.conv3d(clip, inflate(kernel, frames, "repeat"), padding=(reach, 1, 1))
    for frame in range(8):
        taps = min(frame, reach) + 1 + min(7 - frame, reach)
        assert error(seen[:, :, frame], expected * taps / frames) < 1e-6


@pytest.mark.parametrize("name, frames, left", [("i3d_r50_8x8", 4, 2), ("i3d_r50_32x2", 16, 2)])
def test_repeated_taps_differ_from_the_image_network_by_their_black_ends_alone(
    net, images, expected, name, frames, left
):
    video = blank(name)
    take(video, source(net.state_dict()), inflate="repeat")
    clip = still(images, frames)
    assert error(output_of(video.blocks[-2], video, clip), in_every_frame(expected, left)) > 0.05
    replicate_in_time(video)
    assert error(output_of(video.blocks[-2], video, clip), in_every_frame(expected, left)) < 1e-4


def test_both_rules_are_one_where_kernels_have_no_time(net):
    states = []
    for rule in ("repeat", "centre"):
        video = blank("c2d_r50_8x8")
        take(video, source(net.state_dict()), inflate=rule)
        states.append(video.state_dict())
    pairs = [(states[0][name], states[1][name]) for name in states[0] if "proj" not in name]
    assert all(torch.equal(*pair) for pair in pairs)


@pytest.mark.parametrize("name, norm", [("resnet50", "bn"), ("resnet50_gn", "gn")])
def test_timm(images, name, norm):
    with torch.device("meta"):
        net = timm.create_model(name)
    net = lively(net.to_empty(device="cpu"), images)
    video = blank("i3d_r50_8x8", norm)
    take(video, source(net.state_dict()), inflate="centre")
    seen = output_of(video.blocks[-2], video, still(images, 4))
    expected = output_of(net.layer4, net, images[:IMAGES])
    assert error(seen, in_every_frame(expected, 2)) < 1e-4


def test_half_precision_is_divided_in_full(net):
    """A third is no number of few bits: the taps of a kernel add up to it all the same."""
    half = {name: tensor.half() for name, tensor in net.state_dict().items()}
    video = blank("i3d_r50_8x8")
    take(video, source(half), inflate="repeat")
    kernel = video.blocks[1].res_blocks[0].branch2.conv_a.weight
    assert kernel.dtype == torch.float32
    assert error(kernel.sum(2), half["layer1.0.conv1.weight"].float()) < 1e-6
