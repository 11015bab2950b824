"""Int8 programs of trained networks: calibrated on some videos of an index, compared on others."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from snvideo.atomic import write_atomic
from snvideo.data import sampling
from snvideo.data.index import ClipIndex
from snvideo.data.loader import test_loader
from snvideo.engine.evaluate import view_input
from snvideo.engine.inference import Inference
from snvideo.errors import SnvideoError
from snvideo.models.int8 import MEAN_TOLERANCE, TOP1_TOLERANCE, Agreement, quantize
from snvideo.models.onnx_program import open_session

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CalibrationClips:
    """Clips of different videos, uint8 (N, T, 3, crop, crop)."""

    calibration: Tensor
    others: Tensor  # of other videos, to compare logits on
    inference: Inference

    def inputs(self, clips: Tensor) -> Iterator[Tensor]:
        """The clips as the network's input, one by one, float32 (1, 3, T, crop, crop)."""
        config, speed = self.inference.config, self.inference.speed
        return (view_input(clip, config, speed) for clip in clips.split(1))

    @property
    def other_inputs(self) -> Tensor:
        """All clips of other videos as the network's input."""
        return torch.cat(list(self.inputs(self.others)))


class Int8Program(NamedTuple):
    """Content of an ONNX file, and its agreement with the network."""

    content: bytes
    agreement: Agreement


def read_calibration(
    inference: Inference, index_file: Path, split: str, videos: int
) -> CalibrationClips:
    """Read the centre clip of videos that are drawn from an index.

    Args:
        inference: on the CPU, of one view.
        index_file, split: of the videos; they are drawn by a fixed seed.
        videos: to calibrate on, and as many others to compare logits on; half of all, if there are
            fewer.

    Raises:
        SnvideoError: if there is no such index, or less than two of its videos can be read.
    """
    index = ClipIndex.load(index_file, split)
    rows = sampling.epoch_order(0, 0, len(index))[: 2 * videos].tolist()
    clips: list[Tensor] = []
    for read in test_loader(index, inference.config, rows, 1, 1, 1):
        for name, reason in read.unreadable:
            log.warning("calibration goes without %s: %s", name, reason)
        clips += [views.expand(inference.device) for views in read.views]
    if len(clips) < 2:
        raise SnvideoError(
            f"{index_file}: {len(clips)} videos of split {split!r} can be read, and int8 needs "
            "two: one to calibrate on and another to compare logits on"
        )
    half = len(clips) // 2
    return CalibrationClips(torch.cat(clips[:half]), torch.cat(clips[half:]), inference)


@torch.inference_mode()
def make_int8(program: Path, clips: CalibrationClips, threads: int | None = None) -> Int8Program:
    """Quantize an ONNX program, and compare its logits with the network's.

    Args:
        program: a file, of the network of the clips.
        clips: from `read_calibration`.
        threads: of onnxruntime, as for `open_session`.
    """
    log.info(
        "int8: calibrating on %d videos, comparing on %d", len(clips.calibration), len(clips.others)
    )
    content = quantize(program, clips.inputs(clips.calibration))
    run, network = open_session(content, threads), clips.inference.network.model
    logits = [(run(clip), network(clip)) for clip in clips.inputs(clips.others)]
    found, expected = (torch.cat(parts) for parts in zip(*logits, strict=True))
    return Int8Program(content, Agreement.of(found, expected))


def write_int8(path: Path, program: Int8Program) -> None:
    """Write an int8 program, if its logits are within the tolerances.

    Raises:
        SnvideoError: saying how far it is off; or if it cannot be written.
    """
    if not program.agreement.within_int8_tolerance:
        raise SnvideoError(
            f"{path} was not written: {program.agreement}. Expected at least "
            f"{100 * TOP1_TOLERANCE:g} % and a mean of at most {MEAN_TOLERANCE:g}: calibrate on "
            "more videos"
        )
    try:
        write_atomic(path, program.content)
    except OSError as error:
        raise SnvideoError(f"cannot write {path}: {error.strerror or error}") from None
