"""ONNX programs: made of traced networks, and run by onnxruntime."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from snvideo.models.clip_lengths import Run


class OnnxProgram:
    """An ONNX program from clips, (clips, 3, frames, crop, crop), to logits.

    It needs the packages of the extra `export`.
    """

    def __init__(self, traced: torch.export.ExportedProgram) -> None:
        program = torch.onnx.export(
            traced, input_names=["clips"], output_names=["logits"], dynamo=True, verbose=False
        )
        assert program is not None
        self._proto = program.model_proto
        _name_sizes(self._proto.graph)

    def save(self, path: Path, facts: Mapping[str, str]) -> None:
        """Write it with entries of its metadata."""
        onnx = importlib.import_module("onnx")
        onnx.helper.set_model_props(self._proto, dict(facts))
        onnx.save(self._proto, path)

    @staticmethod
    def load(path: Path) -> Run:
        """The function of a file."""
        return open_session(path)


def _name_sizes(graph: Any) -> None:
    """Give names to the sizes that are free, which are numbered symbols, as s53."""
    del graph.value_info[:]  # sizes by those symbols; runtimes infer them
    (clips,), (logits,) = graph.input, graph.output
    number, _, frames, _, _ = clips.type.tensor_type.shape.dim
    number.dim_param = logits.type.tensor_type.shape.dim[0].dim_param = "clips"
    if not frames.HasField("dim_value"):
        frames.dim_param = "frames"


def open_session(program: Path | bytes, threads: int | None = None) -> Run:
    """The function of an ONNX program in onnxruntime, on the CPU.

    Args:
        program: a file or its content.
        threads: of one operation; None: as many as the runtime takes by itself.
    """
    runtime = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 4  # a clip that it does not take is an exception anyway
    if threads is not None:
        options.intra_op_num_threads = threads
        # Threads that wait by turning would slow what is measured after this.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    source = program if isinstance(program, bytes) else str(program)
    session = runtime.InferenceSession(source, options, providers=["CPUExecutionProvider"])

    def run(clips: Tensor) -> Tensor:
        (logits,) = session.run(None, {"clips": clips.numpy()})
        return torch.from_numpy(logits)

    return run
