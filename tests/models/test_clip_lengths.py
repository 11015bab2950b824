"""Clip lengths that programs take: found by trying, stated in the file, and true."""

import json

import pytest
import torch

from snvideo.errors import SnvideoError
from snvideo.models import create_model
from snvideo.models import export as exports
from snvideo.models.clip_lengths import ClipLengths, DifferentLogitsError, find_clip_lengths
from snvideo.models.export import LENGTHS_KEY, export_model
from snvideo.models.pretrained import LoadedModel
from tests.models.pretrained.test_native import CLASSES, SEEN, about


def taking(accepted, gain=lambda frames: 1.0):
    """A function of clips that takes some lengths alone."""

    def run(clip):
        frames = clip.shape[2]
        if not accepted(frames):
            raise ValueError(f"not of {frames}")
        return gain(frames) * clip.mean((3, 4)).cumsum(2)[:, :, -1]

    return run


@pytest.mark.parametrize(
    ("network", "program", "found", "said"),
    [
        (lambda t: True, lambda t: True, (1, None, 1), "any number of frames from 1"),
        (lambda t: t > 1, lambda t: True, (2, None, 1), "any number of frames from 2"),
        (lambda t: True, lambda t: t >= 3, (3, None, 1), "any number of frames from 3"),
        (lambda t: True, lambda t: 2 <= t <= 9, (2, 8, 1), "any number of frames from 2 to 8"),
        (lambda t: True, lambda t: t == 8, (8, 8, 1), "8 frames alone"),
        (lambda t: t == 8, lambda t: True, (8, 8, 8), "8 frames alone"),
        (lambda t: t % 4 == 0, lambda t: True, (4, None, 4), "multiples of 4 frames from 4"),
        (lambda t: t % 4 == 0, lambda t: t > 4, (8, None, 4), "multiples of 4 frames from 8"),
        (lambda t: t % 5 == 3, lambda t: True, (8, 8, 1), "8 frames alone"),
    ],
)
def test_lengths_are_those_that_both_take(network, program, found, said):
    clip = torch.rand(1, 3, 8, 2, 2, generator=torch.Generator().manual_seed(0))
    lengths = find_clip_lengths(taking(network), taking(program), clip, 1e-6)
    assert lengths == ClipLengths(*found) and str(lengths) == said


@pytest.mark.parametrize("wrong", [4, 9, 16])
@pytest.mark.parametrize("gain", [1.01, float("nan")])
def test_a_length_with_other_logits_is_no_length(wrong, gain):
    network = taking(lambda t: True)
    program = taking(lambda t: t >= 4, lambda t: gain if t == wrong else 1.0)
    with pytest.raises(DifferentLogitsError, match=f"logits of {wrong} frames differ"):
        find_clip_lengths(network, program, torch.rand(1, 3, 8, 2, 2), 1e-3)


def loaded(name, frames, norm="sn"):
    torch.manual_seed(0)
    model = create_model(name, len(CLASSES), norm).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    seen = SEEN.model_copy(update={"frames": frames})
    metadata = about(model, name, norm).model_copy(update={"preprocessing": seen})
    return LoadedModel(model, metadata)


@pytest.mark.parametrize(
    ("name", "frames", "suffix", "expected", "others", "refused"),
    [
        ("i3d_tiny", 8, "pt2", (4, None, 1), (4, 11, 24), (1, 2)),
        ("slowfast_tiny", 8, "pt2", (8, None, 4), (12, 32), (4, 9)),
        ("slowfast_tiny", 8, "onnx", (4, None, 4), (4, 12, 32), (5, 9)),
        ("ip_csn_tiny", 8, "pt2", (5, 8, 1), (5, 7), (4, 9)),
    ],
)
@pytest.mark.process
def test_programs_of_other_lengths_equal_the_network(
    tmp_path, name, frames, suffix, expected, others, refused
):
    if suffix == "onnx":
        pytest.importorskip("onnxruntime")
    network, path = loaded(name, frames), tmp_path / f"net.{suffix}"
    assert export_model(network, path).lengths == expected
    run, stated = exports._FORMATS[f".{suffix}"].load(path), {LENGTHS_KEY: ""}
    if suffix == "pt2":
        torch.export.load(path, extra_files=stated)
    else:
        onnx = pytest.importorskip("onnx")
        program = onnx.load(path)
        stated = {entry.key: entry.value for entry in program.metadata_props}
        sizes = program.graph.input[0].type.tensor_type.shape.dim
        assert [size.dim_param or size.dim_value for size in sizes] == [
            *("clips", 3, "frames", 32, 32)
        ]
    assert ClipLengths(**json.loads(stated[LENGTHS_KEY])) == expected
    for length in others:
        clips = torch.randn(3, 3, length, 32, 32)
        with torch.inference_mode():
            torch.testing.assert_close(run(clips), network.model(clips), rtol=1e-4, atol=1e-4)
    for length in refused:
        with pytest.raises(Exception, match=r"Guard|guard|Reshape|reshape|range|size"):
            run(torch.randn(1, 3, length, 32, 32))


class FramesByNumber(torch.nn.Module):
    """A network whose way depends on the number of frames, as programs cannot."""

    def forward(self, clips):
        total = clips.new_zeros(())
        for frame in clips.unbind(2):
            total = total + frame.mean()
        return clips.mean((2, 3, 4)) + total


@pytest.mark.process
def test_what_torch_cannot_export_for_any_length_is_exported_for_its_own(tmp_path):
    known = loaded("i3d_tiny", 8)
    network = known._replace(model=FramesByNumber())
    check = export_model(network, tmp_path / "net.pt2")
    assert check.lengths == ClipLengths(8, 8) and check.difference < 1e-6
    run = exports.TorchProgram.load(tmp_path / "net.pt2")
    with pytest.raises(Exception, match="8"):
        run(torch.randn(1, 3, 9, 32, 32))


def test_a_refusal_is_one_line_and_the_length_is_fixed(tmp_path, caplog, monkeypatch):
    traced = []

    def refuse(_, any_length):
        traced.append(any_length)
        raise ValueError("it cannot be\nfor many reasons") if any_length else SnvideoError("last")

    monkeypatch.setattr(exports, "_trace", refuse)
    with pytest.raises(SnvideoError, match="last"):
        export_model(loaded("i3d_tiny", 8), tmp_path / "net.pt2")
    assert traced == [True, False] and list(tmp_path.iterdir()) == []
    assert caplog.messages == ["the length of a clip is fixed at 8 frames: it cannot be"]
