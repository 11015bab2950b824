"""Export of networks to ONNX and torch.export, compared with the network itself."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from snvideo.atomic import atomic_path, write_atomic
from snvideo.errors import SnvideoError
from snvideo.extras import require
from snvideo.models.clip_lengths import (
    ClipLengths,
    Run,
    find_clip_lengths,
    logit_difference,
)
from snvideo.models.onnx_program import OnnxProgram
from snvideo.models.pretrained.metadata import METADATA_KEY
from snvideo.models.pretrained.model_card import model_card
from snvideo.models.pretrained.native import LoadedModel, write_weights
from snvideo.norm.inference import inference_copy
from snvideo.text import shorten

log = logging.getLogger(__name__)

TOLERANCE = 1e-4
"""Largest difference of a logit from the network's own, relative to the largest logit."""

LENGTHS_KEY = f"{METADATA_KEY}_frames"
"""The key of a program's `ClipLengths` in its file, JSON."""


class ExportCheck(NamedTuple):
    """Comparison of a program with the network that it was made of."""

    difference: float  # as for `TOLERANCE`
    lengths: ClipLengths


def export_model(loaded: LoadedModel, path: Path) -> ExportCheck | None:
    """Write a network in the format that a path's suffix names.

    - `.onnx`: ONNX, its metadata under the key `snvideo`; run here by onnxruntime.
    - `.pt2`: a program of torch.export, its metadata in the extra file `snvideo`.
    - `.safetensors`: the weights, with a model card beside, `.safetensors.md`.

    A program takes float32 (N, 3, T, crop, crop), normalized, for any N, and gives logits (N,
    classes). Which T it takes is found by trying, and stated beside the metadata under
    `LENGTHS_KEY`. It is run on random clips and compared with the network before it is put in
    place.

    Args:
        loaded: from `snvideo.load_model`; on the CPU.
        path: of the file.

    Returns:
        the comparison; None for a file that holds the weights alone.

    Raises:
        SnvideoError: for another suffix, a missing library, a file that cannot be written, or a
            program that does not compute what the network does.
    """
    if path.suffix not in (*_FORMATS, ".safetensors"):
        expected = ", ".join((*_FORMATS, ".safetensors"))
        raise SnvideoError(f"{path}: expected a name that ends in {expected}")
    if path.suffix == ".onnx":
        require("export", "exports to ONNX")
    try:
        if path.suffix == ".safetensors":
            write_weights(path, loaded.model, loaded.metadata)
            write_atomic(path.with_name(f"{path.name}.md"), model_card(loaded.metadata, path.name))
            return None
        with atomic_path(path) as temporary:
            check = _write_program(loaded, temporary)
            if not check.difference <= TOLERANCE:  # it may be NaN
                raise SnvideoError(
                    f"{path} was not written: its logits differ from the network's by "
                    f"{check.difference:.1e} of the largest one, more than {TOLERANCE:.0e}"
                )
    except OSError as error:
        raise SnvideoError(f"cannot write {path}: {error.strerror or error}") from None
    return check


def _write_program(loaded: LoadedModel, path: Path) -> ExportCheck:
    """Write a program for clips of any length, or of the network's own where that cannot be."""
    kind, frames = _FORMATS[path.suffix], loaded.metadata.preprocessing.frames
    clips = random_clips(loaded, 2)
    try:
        program: TorchProgram | OnnxProgram = kind(_trace(loaded, any_length=True))
        program.save(path, {})
        lengths = find_clip_lengths(loaded.model, kind.load(path), clips[:1], TOLERANCE)
    except (OSError, SnvideoError):
        raise
    except Exception as error:  # torch has many for what it cannot export
        reason = f"{error}".strip().partition("\n")[0] or type(error).__name__
        log.warning("the length of a clip is fixed at %d frames: %s", frames, shorten(reason, 200))
        program, lengths = kind(_trace(loaded, any_length=False)), ClipLengths(frames, frames)
    facts = {METADATA_KEY: loaded.metadata.model_dump_json()}
    program.save(path, facts | {LENGTHS_KEY: json.dumps(lengths._asdict())})
    # Over another number of clips than the program was traced with.
    more = torch.cat([clips, clips[:1].flip(2)])
    with torch.inference_mode():
        return ExportCheck(logit_difference(kind.load(path)(more), loaded.model(more)), lengths)


def random_clips(loaded: LoadedModel, number: int) -> Tensor:
    """Random clips of a network's length and crop, normalized, always the same."""
    views = loaded.metadata.preprocessing
    shape = (number, 3, views.frames, views.crop, views.crop)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _trace(loaded: LoadedModel, any_length: bool) -> torch.export.ExportedProgram:
    free = {0: torch.export.Dim("clips")} | ({2: torch.export.Dim.AUTO} if any_length else {})
    return torch.export.export(
        inference_copy(loaded.model), (random_clips(loaded, 2),), dynamic_shapes=(free,)
    )


class TorchProgram:
    """A program of torch.export."""

    def __init__(self, traced: torch.export.ExportedProgram) -> None:
        self._traced = traced

    def save(self, path: Path, facts: Mapping[str, str]) -> None:
        """Write it with extra files."""
        content = io.BytesIO()  # torch's own writing explains no failure
        torch.export.save(self._traced, content, extra_files=dict(facts))
        path.write_bytes(content.getbuffer())

    @staticmethod
    def load(path: Path) -> Run:
        """The function of a file."""
        return torch.export.load(path).module()


_FORMATS: dict[str, type[TorchProgram | OnnxProgram]] = {".onnx": OnnxProgram, ".pt2": TorchProgram}
