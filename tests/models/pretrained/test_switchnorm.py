"""ResNets for images as the SN paper's authors save them."""

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet50

from snvideo.errors import SnvideoError
from snvideo.models.pretrained import open_weights
from snvideo.norm import convert_norm
from tests.models.pretrained import foreign
from tests.models.pretrained.nets import blank, error, lively, output_of, source, take


@pytest.fixture(scope="module")
def images() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(8, 3, 64, 64)


def image_network(images: Tensor, **options: bool) -> nn.Module:
    with torch.device("meta"):
        net = resnet50()
        convert_norm(net, "sn", dims=2, **options)
    return lively(net.to_empty(device="cpu"), images)


def seen(video: nn.Module, images: Tensor) -> Tensor:
    """The last frame of what the network sees before it pools, of a still clip of every image."""
    return output_of(video.blocks[-2], video, images[:2, :, None].repeat(1, 1, 4, 1, 1))[:, :, -1]


@pytest.fixture(scope="module")
def net(images: Tensor) -> nn.Module:
    return image_network(images)


@pytest.fixture(scope="module")
def expected(net: nn.Module, images: Tensor) -> Tensor:
    return output_of(net.layer4, net, images[:2])


@pytest.mark.parametrize("prefix", ["", "module."])
def test_the_image_network_is_found_in_every_frame_of_a_still_clip(net, images, expected, prefix):
    state = {prefix + name: tensor for name, tensor in foreign.switchnorm(net).items()}
    assert state[f"{prefix}sn1.weight"].shape == (1, 64, 1, 1)
    assert state[f"{prefix}sn1.running_mean"].shape == (1, 64, 1)
    found = source(state)
    assert found.format == "ResNet for images of SwitchNorm" and found.images
    video = blank("i3d_r50_8x8", "sn")
    report = take(video, found, inflate="centre")
    assert error(seen(video, images), expected) < 1e-4
    assert report.count("inflated") == 53 and report.count("loaded") == 6 * 53


def test_a_file_of_it(net, images, expected, tmp_path):
    file = tmp_path / "ResNet50v1+SN(8,32)-77.57.pth"
    state = {f"module.{name}": tensor for name, tensor in foreign.switchnorm(net).items()}
    torch.save({"epoch": 99, "arch": "resnet50v1_sn", "state_dict": state}, file)
    video = blank("c2d_r50_8x8", "sn")
    take(video, open_weights(str(file)))
    assert error(seen(video, images), expected) < 1e-4


def test_importance_logits_keep_their_order(net):
    """Instance, layer, batch."""
    state = foreign.switchnorm(net)
    state["layer2.0.sn2.mean_weight"] = torch.tensor([1.0, 2.0, 3.0])
    state["layer2.0.sn2.var_weight"] = torch.tensor([4.0, 5.0, 6.0])
    video = blank("i3d_r50_8x8", "sn")
    take(video, source(state))
    norm = video.blocks[3].res_blocks[0].branch2.norm_b
    assert norm.mean_logits.tolist() == [1, 2, 3] and norm.var_logits.tolist() == [4, 5, 6]


def test_without_batch_part(images):
    net = image_network(images, use_batch=False)
    state = foreign.switchnorm(net)
    assert state["sn1.mean_weight"].shape == (2,) and "sn1.running_mean" not in state
    video = blank("c2d_r50_8x8", "sn", use_batch=False)
    take(video, source(state))
    assert error(seen(video, images), output_of(net.layer4, net, images[:2])) < 1e-4
    with pytest.raises(SnvideoError, match="SN without its batch part, this network has it"):
        take(blank("c2d_r50_8x8", "sn"), source(state))
