"""Decoders as parameters of tests; one that cannot be used here is skipped, with the reason."""

import pytest

from snvideo.data.decoding import missing
from snvideo.data.index import DECODERS


def parameter(decoder: str) -> object:
    return pytest.param(
        decoder, marks=pytest.mark.skipif(bool(missing(decoder)), reason=missing(decoder))
    )


ALL = [parameter(decoder) for decoder in DECODERS]
OTHERS = ALL[1:]
"""All but PyAV."""
