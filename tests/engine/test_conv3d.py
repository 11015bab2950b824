"""The self-test of convolutions, with a stand-in for those of a GPU."""

import pytest
import torch

from snvideo.engine import conv3d

CUDA, CPU = torch.device("cuda"), torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_right_convolutions_have_a_small_error(dtype, monkeypatch):
    monkeypatch.setattr(conv3d, "_SHAPE", (1, 8, 4, 9, 9))
    error, slowdown = conv3d.compare_conv3d(dtype, CPU)
    assert (0 < error < conv3d.TOLERANCE / 2) if dtype == torch.bfloat16 else error == 0
    assert slowdown > 0


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ((0.004, 0.5), None),
        ((0.004, 2.0), None),
        ((0.004, 12.0), "12.0 times as slow as in float32"),
        ((0.31, 0.5), "off by 31.0%"),
        ((float("nan"), 0.5), "off by nan%"),
    ],
)
def test_slow_and_wrong_ones_are_said_with_the_remedy(monkeypatch, found, said):
    monkeypatch.setattr(conv3d, "compare_conv3d", lambda dtype, device: found)
    line = conv3d.conv3d_warning(torch.bfloat16, CUDA)
    if said is None:
        assert line is None
    else:
        assert f"in bfloat16 are {said} (torch " in line
        assert line.endswith("or train with speed.amp=none") and "nvidia-cudnn" in line


def test_a_wrong_convolution_is_found(monkeypatch):
    right = torch.nn.functional.conv3d

    def wrong(x, weight, **options):
        y = right(x, weight, **options)
        return y if x.dtype == torch.float32 else y.roll(1, -1)

    monkeypatch.setattr(conv3d, "_SHAPE", (1, 8, 4, 9, 9))
    monkeypatch.setattr(torch.nn.functional, "conv3d", wrong)
    assert conv3d.compare_conv3d(torch.bfloat16, CPU)[0] > conv3d.TOLERANCE


@pytest.mark.parametrize(("dtype", "device"), [(torch.bfloat16, CPU), (torch.float32, CUDA)])
def test_nothing_is_run_on_a_cpu_or_in_single_precision(monkeypatch, dtype, device):
    monkeypatch.setattr(conv3d, "compare_conv3d", lambda *_: pytest.fail("it was run"))
    assert conv3d.conv3d_warning(dtype, device) is None
