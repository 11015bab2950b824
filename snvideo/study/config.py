"""Configuration of a study, and the grid of runs that it stands for."""

from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from pydantic import Field, NonNegativeInt, PositiveInt

from snvideo.base_config import Section
from snvideo.engine.config import BatchConfig, RunConfig
from snvideo.errors import SnvideoError
from snvideo.models.config import WeightsConfig
from snvideo.norm.factory import NormName


class StudyConfig(Section):
    """Norms x batch geometries x seeds; everything else is the same in every run."""

    norms: tuple[NormName, ...] = Field(("sn", "bn", "gn"), min_length=1)
    batches: tuple[BatchConfig, ...] = Field(min_length=1)
    seeds: tuple[NonNegativeInt, ...] = Field((0,), min_length=1)
    sources: dict[NormName, str] = Field(default_factory=dict)
    """`model.weights.source` of norms that cannot start from the same weights as the others."""
    processes: PositiveInt = 1
    """Processes that share each run (more than one goes through torchrun)."""


@dataclass(frozen=True)
class Cell:
    """One run of the grid."""

    name: str
    """The name of the run's folder, as in `sn_2x8_seed0`."""
    norm: str
    gpus: int
    clips_per_gpu: int
    seed: int
    config: RunConfig
    """The study's run config with this norm, geometry and seed, writing to the run's own folder."""

    @property
    def folder(self) -> Path:
        """The run directory."""
        return self.config.output

    def __str__(self) -> str:
        return f"{self.norm} ({self.gpus}, {self.clips_per_gpu}) seed {self.seed}"


def cells(config: RunConfig, study: StudyConfig) -> list[Cell]:
    """All runs of a study: `config` with each norm, batch geometry and seed, in folders of its own.

    The order is seed by seed: a study that is cut short has whole comparisons for its first seeds.
    Raises SnvideoError if the study names a run twice.
    """
    grid: dict[str, Cell] = {}
    for seed, batch, norm in product(study.seeds, study.batches, study.norms):
        name, model = f"{norm}_{batch.gpus}x{batch.clips_per_gpu}_seed{seed}", config.model
        changed: dict[str, Any] = {"norm": model.norm.renamed(norm)}
        if (source := study.sources.get(norm)) is not None:
            weights = model.weights or WeightsConfig(source=source)
            changed["weights"] = weights.model_copy(update={"source": source})
        model = model.model_copy(update=changed)
        changes = {"model": model, "batch": batch, "seed": seed, "output": config.output / name}
        own = config.model_copy(update=changes)
        if name in grid:
            raise SnvideoError(
                f"the study asks for {name} twice: name every norm, batch geometry and seed once"
            )
        grid[name] = Cell(name, norm, batch.gpus, batch.clips_per_gpu, seed, own)
    return list(grid.values())
