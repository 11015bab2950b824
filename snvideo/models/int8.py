"""Int8 programs: ONNX programs quantized by onnxruntime, and their agreement with a network."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

INT8_SUFFIX = ".int8.onnx"

MEAN_TOLERANCE = 0.02
"""Largest mean difference of a logit, relative to the largest logit, of a program that agrees."""
TOP1_TOLERANCE = 0.98
"""Least share of clips with the same most probable class."""

_QUANTIZED = ["Conv", "Gemm", "MatMul"]
"""Operations in which the time goes; norms that are not folded stay in float32."""


class Agreement(NamedTuple):
    """Logits of a program compared with those of the network, over all clips and classes."""

    largest: float  # difference, relative to the largest logit
    mean: float
    top1: float  # share of clips with the same most probable class
    clips: int

    @classmethod
    def of(cls, found: Tensor, expected: Tensor) -> Agreement:
        """Agreement of logits, (N, classes)."""
        difference = (found - expected).abs() / expected.abs().max()
        same = found.argmax(1) == expected.argmax(1)
        largest, mean, top1 = difference.max(), difference.mean(), same.float().mean()
        return cls(float(largest), float(mean), float(top1), len(found))

    @property
    def within_int8_tolerance(self) -> bool:
        """True within the tolerances of int8; false for what is not finite."""
        return self.mean <= MEAN_TOLERANCE and self.top1 >= TOP1_TOLERANCE

    def __str__(self) -> str:
        """Such as "top-1 equal on 98.4 % of 64 clips, logits differ by 1.2e-02 (mean 3.0e-03)"."""
        return (
            f"top-1 equal on {100 * self.top1:.1f} % of {self.clips} clips, logits differ by "
            f"{self.largest:.1e} (mean {self.mean:.1e})"
        )


def quantize(program: Path, clips: Iterable[Tensor]) -> bytes:
    """Int8 form of an ONNX program: static quantization with QDQ nodes, by onnxruntime.

    Weights are quantized per channel, symmetrically, to 7 bits, as sums of products of 8 bits
    saturate on x86 processors without VNNI; activations to 8 bits, by the range that they have on
    the clips.

    Args:
        program: a file.
        clips: for calibration, each float32 (1, 3, T, H, W).

    Returns:
        the content of an ONNX file, with the program's metadata.
    """
    onnx = importlib.import_module("onnx")
    quantization = importlib.import_module("onnxruntime.quantization")
    prepare = importlib.import_module("onnxruntime.quantization.shape_inference").quant_pre_process
    logger = logging.getLogger()
    level = logger.level
    with TemporaryDirectory(prefix="snvideo-int8-") as folder:
        prepared, quantized = Path(folder) / "prepared.onnx", Path(folder) / "int8.onnx"
        prepare(str(program), str(prepared), skip_symbolic_shape=True)  # folds norms where it can
        logger.setLevel(logging.ERROR)  # the library's advice goes to the root
        try:
            quantization.quantize_static(
                str(prepared),
                str(quantized),
                _reader(quantization, clips),
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=_QUANTIZED,
                per_channel=True,
                reduce_range=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
            )
        finally:
            logger.setLevel(level)
        made = onnx.load(quantized)
    stated = {entry.key: entry.value for entry in onnx.load(program).metadata_props}
    onnx.helper.set_model_props(made, stated | {"snvideo_int8": "QDQ"})
    return made.SerializeToString()


def _reader(quantization: Any, clips: Iterable[Tensor]) -> Any:
    """The library's interface to calibration data."""

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self._clips: Iterator[Tensor] = iter(clips)

        def get_next(self) -> dict[str, np.ndarray] | None:
            clip = next(self._clips, None)
            return None if clip is None else {"clips": clip.contiguous().numpy()}

    return Reader()
