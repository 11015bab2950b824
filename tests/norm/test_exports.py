"""Exported norms equal those that they are made of: torch.export, ONNX, traces."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from snvideo.norm import SwitchNorm3d, average_statistics
from snvideo.norm.mixture import PARTS
from tests.norm.test_compilers import assert_near, network, random


def test_exported_program_equals_eager_for_any_number_of_samples():
    model = network().eval()
    shape = (3, 4, 6, 6)
    samples = torch.export.Dim("samples", max=64)
    program = torch.export.export(model, (random(2, *shape),), dynamic_shapes=({0: samples},))
    for count in (1, 2, 5):
        x = random(count, *shape, seed=count)
        assert_near({"y": program.module()(x)}, {"y": model(x)}, 1e-5)


@pytest.mark.filterwarnings("ignore")
def test_onnx_runtime_equals_eager(tmp_path: Path):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    model, shape = network(), (3, 4, 6, 6)
    average_statistics(model, [random(2, *shape, seed=seed) for seed in range(2)])
    model.eval()
    path = tmp_path / "model.onnx"
    samples = torch.export.Dim("samples", max=64)
    torch.onnx.export(
        *(model, (random(2, *shape),), path),
        dynamo=True,
        dynamic_shapes=({0: samples},),
        verbose=False,
    )
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for count in (2, 3):
        x = random(count, *shape, seed=count)
        (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(found), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_traced_equals_eager_for_any_number_of_samples():
    model = network().eval()
    traced = torch.jit.trace(model, random(2, 3, 4, 6, 6))
    x = random(5, 3, 4, 6, 6, seed=1)
    assert_near({"y": traced(x)}, {"y": model(x)}, 1e-5)


MIXTURES = {
    "two": {"parts": ("instance", "layer")},
    "four": {"parts": PARTS, "groups": 3, "start": (0.5, -1.0, 0.0, 1.0)},
    "batch": {"parts": ("batch",)},
    "l1": {"parts": ("layer", "batch"), "ratios": "l1", "start": (1.0, -2.0)},
}


def of_mixture(name: str) -> nn.Module:
    """A layer that has seen a batch, in evaluation."""
    norm = SwitchNorm3d(6, **MIXTURES[name])
    with torch.no_grad():
        norm.weight.copy_(random(6, seed=1) + 1)
        norm.bias.copy_(random(6, seed=2))
        norm(random(4, 6, 2, 3, 3, seed=3) + 1)
    return norm.eval()


@pytest.mark.parametrize("name", MIXTURES)
def test_any_mixture_is_exported_as_it_is(name):
    norm = of_mixture(name)
    samples = torch.export.Dim("samples", max=64)
    program = torch.export.export(
        norm, (random(2, 6, 2, 3, 3),), dynamic_shapes=({0: samples},)
    ).module()
    for count in (1, 3):
        x = random(count, 6, 2, 3, 3, seed=count)
        assert_near({"y": program(x)}, {"y": norm(x)}, 1e-5)


class Side(nn.ModuleList):
    """Layers beside each other."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([norm(x) for norm in self])


@pytest.mark.filterwarnings("ignore")
def test_onnx_runtime_knows_any_mixture(tmp_path: Path):
    """One network of all of them, as an export takes seconds."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    model = Side(of_mixture(name) for name in MIXTURES)
    samples = torch.export.Dim("samples", max=64)
    path, example = tmp_path / "model.onnx", (random(2, 6, 2, 3, 3),)
    torch.onnx.export(
        *(model, example, path), dynamo=True, dynamic_shapes=({0: samples},), verbose=False
    )
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for count in (1, 3):
        x = random(count, 6, 2, 3, 3, seed=count)
        (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(found), model(x), rtol=1e-4, atol=1e-5)
