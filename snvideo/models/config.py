"""Configuration of a backbone, its normalization, and the weights it starts from."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from snvideo.base_config import Section
from snvideo.norm.factory import NormName


class NormConfig(Section):
    """Normalization layers of the backbone."""

    name: NormName = "sn"
    start: Literal["equal", "batch"] = "equal"
    """Initial importance logits of SN: all alike, or leaning towards batch statistics."""


class WeightsConfig(Section):
    """Weights that training starts from."""

    source: str
    """A file, or a library's own download: `torchvision:NAME`, `timm:NAME`, `pytorchvideo:NAME`."""
    inflate: Literal["repeat", "centre"] = "repeat"
    """Inflation of 2D kernels to 3D: repeated over time and divided, or in the middle frame."""
    norms: Literal["keep", "new"] = "keep"
    """Norms of the source are loaded, or start anew, as of another kind they must."""
    head: Literal["match", "new"] = "match"
    """The classifier is loaded, class by class by name, or starts anew. That of an image network
    always does."""
    classes: Path | None = None
    """Names of the source's classes in their order, where the file does not say: a text file with
    one a line, or JSON (a list, names to numbers, or an index's)."""


class ModelConfig(Section):
    """A backbone by name; the number of classes comes from the index's label map."""

    name: str = "i3d_r50_8x8"
    norm: NormConfig = NormConfig()
    dropout: float = Field(default=0.5, ge=0, lt=1)
    weights: WeightsConfig | None = None
    """null: random ones, from the run's seed."""
