"""Configuration of a study: the grid of runs that is put side by side."""

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from snvideo.base_config import Section
from snvideo.engine.config import BatchConfig
from snvideo.norm import NORMS


class StudyConfig(Section):
    """Norms x batch geometries x seeds; everything else is the same in every run."""

    norms: tuple[Literal[NORMS], ...] = Field(("sn", "bn", "gn"), min_length=1)
    batches: tuple[BatchConfig, ...] = Field(min_length=1)
    seeds: tuple[NonNegativeInt, ...] = Field((0,), min_length=1)
    sources: dict[Literal[NORMS], str] = Field(default_factory=dict)
    """`model.weights.source` of norms that cannot start from the same weights as the others."""
    processes: PositiveInt = 1
    """Processes that share each run (more than one goes through torchrun)."""
