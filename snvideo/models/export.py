"""Export of networks to ONNX and torch.export, compared with the network itself."""

from __future__ import annotations

import importlib
import io
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from snvideo.atomic import atomic_path, write_atomic
from snvideo.errors import SnvideoError
from snvideo.extras import require
from snvideo.models.pretrained.metadata import METADATA_KEY
from snvideo.models.pretrained.model_card import model_card
from snvideo.models.pretrained.native import LoadedModel, write_weights
from snvideo.norm.inference import inference_copy

TOLERANCE = 1e-4
"""Largest difference of a logit from the network's own, relative to the largest logit."""


def export_model(loaded: LoadedModel, path: Path) -> float | None:
    """Write a network in the format that a path's suffix names.

    - `.onnx`: ONNX, its metadata under the key `snvideo`; run here by onnxruntime.
    - `.pt2`: a program of torch.export, its metadata in the extra file `snvideo`.
    - `.safetensors`: the weights, with a model card beside, `.safetensors.md`.

    A program takes float32 (N, 3, T, crop, crop), normalized, for any N, and gives logits (N,
    classes). It is run on random clips and compared with the network before it is put in place.

    Args:
        loaded: from `snvideo.load_model`; on the CPU.
        path: of the file.

    Returns:
        the difference, as for `TOLERANCE`; None for a file that holds the weights alone.

    Raises:
        SnvideoError: for another suffix, a missing library, a file that cannot be written, or a
            program that does not compute what the network does.
    """
    write = _WRITERS.get(path.suffix)
    if write is None:
        raise SnvideoError(f"{path}: expected a name that ends in {', '.join(_WRITERS)}")
    try:
        with atomic_path(path) as temporary:
            difference = write(loaded, temporary)
            if difference is not None and not difference <= TOLERANCE:  # it may be NaN
                raise SnvideoError(
                    f"{path} was not written: its logits differ from the network's by "
                    f"{difference:.1e} of the largest one, more than {TOLERANCE:.0e}"
                )
        if difference is None:
            write_atomic(path.with_name(f"{path.name}.md"), model_card(loaded.metadata, path.name))
    except OSError as error:
        raise SnvideoError(f"cannot write {path}: {error.strerror or error}") from None
    return difference


def _example(loaded: LoadedModel) -> Tensor:
    """Two random clips, normalized."""
    views = loaded.metadata.preprocessing
    shape = (2, 3, views.frames, views.crop, views.crop)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _trace(loaded: LoadedModel) -> torch.export.ExportedProgram:
    batch = {0: torch.export.Dim("clips")}
    model = inference_copy(loaded.model)
    return torch.export.export(model, (_example(loaded),), dynamic_shapes=(batch,))


def _difference(loaded: LoadedModel, run: Callable[[Tensor], Tensor]) -> float:
    # Over another number of clips than the program was traced with.
    clips = torch.cat([_example(loaded), _example(loaded)[:1].flip(2)])
    with torch.inference_mode():
        expected = loaded.model(clips)
        return float((run(clips) - expected).abs().max() / expected.abs().max())


def _write_pt2(loaded: LoadedModel, path: Path) -> float:
    content = io.BytesIO()  # torch's own writing explains no failure
    metadata = loaded.metadata.model_dump_json()
    torch.export.save(_trace(loaded), content, extra_files={METADATA_KEY: metadata})
    path.write_bytes(content.getbuffer())
    return _difference(loaded, torch.export.load(path).module())


def _write_onnx(loaded: LoadedModel, path: Path) -> float:
    require("export", "exports to ONNX")
    onnx, runtime = (importlib.import_module(name) for name in ("onnx", "onnxruntime"))
    program = torch.onnx.export(
        _trace(loaded), input_names=["clips"], output_names=["logits"], dynamo=True, verbose=False
    )
    assert program is not None
    graph = program.model_proto
    entry = graph.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, loaded.metadata.model_dump_json()
    onnx.save(graph, path)
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(clips: Tensor) -> Tensor:
        (logits,) = session.run(None, {"clips": clips.numpy()})
        return torch.from_numpy(logits)

    return _difference(loaded, run)


_WRITERS: dict[str, Callable[[LoadedModel, Path], float | None]] = {
    ".onnx": _write_onnx,
    ".pt2": _write_pt2,
    ".safetensors": lambda loaded, path: write_weights(path, loaded.model, loaded.metadata),
}
