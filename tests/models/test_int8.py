"""Int8 programs: what quantization keeps, and which logits are near enough."""

import pytest
import torch

from snvideo.models.int8 import Agreement, quantize
from snvideo.models.onnx_program import open_session

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def test_agreement_is_relative_to_the_largest_logit():
    expected = torch.tensor([[4.0, 0.0], [0.0, 2.0], [1.0, 0.0], [0.0, -1.0]])
    found = expected + torch.tensor([[-0.4, 0.0], [0.0, 0.4], [0.0, 1.12], [0.0, 0.0]])
    agreement = Agreement.of(found, expected)
    assert agreement == pytest.approx((0.28, 0.06, 0.75, 4))
    assert str(agreement) == (
        "top-1 equal on 75.0 % of 4 clips, logits differ by 2.8e-01 (mean 6.0e-02)"
    )


@pytest.mark.parametrize(
    ("mean", "top1", "agrees"),
    [(0.02, 0.98, True), (0.021, 1.0, False), (0.0, 0.97, False), (float("nan"), 1.0, False)],
)
def test_int8_is_judged_by_mean_and_top1(mean, top1, agrees):
    assert Agreement(1.0, mean, top1, 100).within_int8_tolerance is agrees


@pytest.fixture
def program(tmp_path):
    """A file of one 3D convolution, ReLU and mean, and torch's function of the same."""
    weight = torch.randn(6, 3, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [
        helper.make_node("Conv", ["clips", "weight"], ["maps"], kernel_shape=[1, 3, 3]),
        helper.make_node("Relu", ["maps"], ["active"]),
        helper.make_node("ReduceMean", ["active"], ["logits"], axes=[2, 3, 4], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "conv",
        [helper.make_tensor_value_info("clips", kind, ["clips", 3, "frames", 8, 8])],
        [helper.make_tensor_value_info("logits", kind, ["clips", 6])],
        [onnx.numpy_helper.from_array(weight.numpy(), "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {"snvideo": "facts"})
    path = tmp_path / "conv.onnx"
    onnx.save(model, path)
    return path, lambda x: torch.nn.functional.conv3d(x, weight).relu().mean((2, 3, 4))


def test_static_quantization_holds_where_it_was_calibrated(program):
    path, network = program
    clips = torch.randn(8, 3, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    content = quantize(path, clips.split(1))
    made = onnx.load_from_string(content)
    operations = {node.op_type for node in made.graph.node}
    assert {"QuantizeLinear", "DequantizeLinear", "Conv"} <= operations
    assert {entry.key: entry.value for entry in made.metadata_props}["snvideo"] == "facts"
    run = open_session(content, 1)
    others = torch.randn(5, 3, 7, 8, 8, generator=torch.Generator().manual_seed(2))
    near = Agreement.of(run(others), network(others))
    assert near.within_int8_tolerance and 0 < near.mean < 0.01
    # Activations beyond the range of the calibration are cut off.
    assert Agreement.of(run(20 * others), network(20 * others)).mean > 0.2
