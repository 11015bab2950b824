"""Configuration of a backbone and its normalization."""

from typing import Literal

from pydantic import Field

from snvideo.norm import NORMS
from snvideo.schema import Section


class NormConfig(Section):
    """Which normalization every layer of the backbone gets."""

    name: Literal[NORMS] = "sn"
    start: Literal["equal", "batch"] = "equal"
    """Where SN's importance logits begin: all alike, or leaning towards batch statistics."""


class ModelConfig(Section):
    """A backbone by name; the number of classes comes from the index's label map."""

    name: str = "i3d_r50_8x8"
    norm: NormConfig = NormConfig()
    dropout: float = Field(0.5, ge=0, lt=1)
