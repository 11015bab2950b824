"""Configuration of a study, and the grid of runs that it stands for."""

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path
from typing import Any, NamedTuple, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from snvideo.base_config import Section, UserPath
from snvideo.engine.config import BatchConfig, RunConfig
from snvideo.errors import SnvideoError
from snvideo.models.config import NormConfig, WeightsConfig
from snvideo.norm import NORMS

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")


class Grid(NamedTuple):
    """Every combination of some norms or variants, batch geometries and seeds."""

    norms: tuple[str, ...]
    batches: tuple[BatchConfig, ...]
    seeds: tuple[int, ...]


class GridConfig(Section):
    """A further grid of a study; what it leaves out is that of the study itself."""

    norms: tuple[str, ...] | None = Field(default=None, min_length=1)
    batches: tuple[BatchConfig, ...] | None = Field(default=None, min_length=1)
    seeds: tuple[NonNegativeInt, ...] | None = Field(default=None, min_length=1)


class StudyConfig(Section):
    """Norms x batch geometries x seeds; everything else is the same in every run."""

    variants: dict[str, NormConfig] = Field(default_factory=dict)
    """Settings of `model.norm` by a name of your own, under which tables, figures and folders have
    them. What a variant leaves out is that of `model.norm`, as for a norm that is named alone."""
    norms: tuple[str, ...] = Field(("sn", "bn", "gn"), min_length=1)
    """Names of norms or variants."""
    batches: tuple[BatchConfig, ...] = Field(min_length=1)
    seeds: tuple[NonNegativeInt, ...] = Field((0,), min_length=1)
    grids: tuple[GridConfig, ...] = ()
    """Further grids: the study is the union of all, seed by seed."""
    rates: tuple[PositiveFloat, ...] = ()
    """Learning rates that every run of the grid is done with, `optim.lr` among them, for a table of
    each norm at the one that is best on `data.val_split`; empty: `optim.lr` alone."""
    reference: str | None = None
    """Norm or variant that the others are compared with; null: SN, or without it the first one."""
    single_frame: UserPath | None = None
    """A finished run with `data.clip.frames: 1` on the same index, outside the study's folder: its
    video top-1 is a line in the figure, of what can be told without motion."""
    sources: dict[str, str] = Field(default_factory=dict)
    """`model.weights.source` of norms or variants that cannot start from the same weights as the
    others."""
    processes: PositiveInt = 1
    """Processes that share each run (more than one goes through torchrun)."""

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        taken = {name.casefold(): name for name in NORMS}
        for name, norm in self.variants.items():
            # Folders have these names, and some file systems do not tell a from A.
            if (other := taken.setdefault(name.casefold(), name)) in NORMS or other != name:
                raise ValueError(f"variants: {name} is called as {other}: give it another name")
            if not _NAME.fullmatch(name):
                raise ValueError(
                    f"variants: {name!r} names folders, too: letters, digits, '_', '.' and '-'"
                )
            if "name" not in norm.model_fields_set:
                raise ValueError(f"variants.{name}: name the norm, as in {{name: gn, groups: 8}}")
        known = [*NORMS, *self.variants]
        used = [name for grid in self.all_grids() for name in grid.norms]
        if self.reference is not None and self.reference not in used:
            raise ValueError(f"reference: {self.reference} is none of the study's norms")
        for name in [*used, *self.sources]:
            if name not in known:
                raise ValueError(f"unknown norm '{name}': expected one of {', '.join(known)}")
        return self

    def all_grids(self) -> list[Grid]:
        """The study's own grid and the further ones, with nothing left out."""
        own = Grid(self.norms, self.batches, self.seeds)
        further = (
            Grid(one.norms or own.norms, one.batches or own.batches, one.seeds or own.seeds)
            for one in self.grids
        )
        return [own, *further]

    def norm_config(self, norm: NormConfig, name: str) -> NormConfig:
        """The config of a norm or variant in a study whose `model.norm` is `norm`.

        Raises:
            SnvideoError: if its settings do not go with those of `model.norm` that it leaves out.
        """
        if name not in self.variants:
            return norm.renamed(name)  # type: ignore[arg-type] # checked above
        own = self.variants[name].model_dump(exclude_unset=True)
        try:
            common = norm.renamed(own["name"]).model_dump()
            return NormConfig(**common | own)
        except ValueError as error:
            reason = error.errors()[0]["msg"]  # type: ignore[attr-defined] # pydantic's
            raise SnvideoError(f"study.variants.{name} over model.norm: {reason}") from None


@dataclass(frozen=True)
class Cell:
    """One run of the grid."""

    name: str
    """The name of the run's folder, as in `sn_2x8_seed0`."""
    norm: str
    """The name of its norm or variant."""
    gpus: int
    clips_per_gpu: int
    seed: int
    config: RunConfig
    """The study's run config with this norm, geometry and seed, writing to the run's own folder."""

    @property
    def folder(self) -> Path:
        """The run directory."""
        return self.config.output

    @property
    def lr(self) -> float:
        """The learning rate."""
        return self.config.optim.lr

    def __str__(self) -> str:
        rate = f" lr {self.lr:g}" if f"_lr{self.lr:g}_" in self.name else ""
        return f"{self.norm} ({self.gpus}, {self.clips_per_gpu}){rate} seed {self.seed}"


def cells(config: RunConfig, study: StudyConfig) -> list[Cell]:
    """All runs of a study: `config` with each norm, batch geometry and seed, in folders of its own.

    The order is seed by seed: a study that is cut short has whole comparisons for its first seeds.
    Raises SnvideoError if a grid names a run twice, or if two names stand for the same norm.
    """
    _check_rates(config, study)
    norms = _distinct_norms(config.model.norm, study)
    grid: dict[str, Cell] = {}
    combined = product(_combinations(study), study.rates or (None,))
    for (batch, norm, seed), rate in combined:
        name, model = _run_name(batch, norm, seed, rate), config.model
        if name in grid:  # of another grid
            continue
        changed: dict[str, Any] = {"norm": norms[norm]}
        source = study.sources.get(norm, study.sources.get(norms[norm].name))
        if source is not None:
            weights = model.weights or WeightsConfig(source=source)
            changed["weights"] = weights.model_copy(update={"source": source})
        model = model.model_copy(update=changed)
        changes = {"model": model, "batch": batch, "seed": seed, "output": config.output / name}
        if rate is not None:
            changes["optim"] = config.optim.model_copy(update={"lr": rate})
        own = config.model_copy(update=changes)
        grid[name] = Cell(name, norm, batch.gpus, batch.clips_per_gpu, seed, own)
    return list(grid.values())


def _check_rates(config: RunConfig, study: StudyConfig) -> None:
    """Raise SnvideoError for rates of which none can be chosen, or not without the test."""
    if not study.rates:
        return
    data, optim = config.data, config.optim
    rates = ", ".join(f"{rate:g}" for rate in study.rates)
    if data.val_split is None or data.val_split in (data.test_split, data.train_split):
        raise SnvideoError(
            "study.rates: the best rate is chosen on a split that is neither trained nor tested "
            f"on: set data.val_split (now {data.val_split or 'null'}, data.test_split="
            f"{data.test_split}, data.train_split={data.train_split})"
        )
    if not config.log.validate_epochs or config.log.validate_epochs > (optim.epochs or math.inf):
        raise SnvideoError(
            "study.rates: runs are never validated, so that no rate can be chosen: set "
            f"log.validate_epochs (now {config.log.validate_epochs})"
        )
    if len({f"{rate:g}" for rate in study.rates}) < len(study.rates):
        raise SnvideoError(f"study.rates: {rates}: name every rate once, to six digits")
    if optim.lr not in study.rates:
        raise SnvideoError(f"study.rates: optim.lr={optim.lr:g} is none of {rates}: add it")


def _run_name(batch: BatchConfig, norm: str, seed: int, rate: float | None = None) -> str:
    """The name of a run's folder; `snvideo.study.runs` reads it."""
    lr = "" if rate is None else f"_lr{rate:g}"
    return f"{norm}_{batch.gpus}x{batch.clips_per_gpu}{lr}_seed{seed}"


def _combinations(study: StudyConfig) -> Iterator[tuple[BatchConfig, str, int]]:
    """Batch, norm and seed of every run, seed by seed."""
    grids = study.all_grids()
    seeds = dict.fromkeys(seed for grid in grids for seed in grid.seeds)
    for grid in grids:
        combined = product(grid.batches, grid.norms, grid.seeds)
        named = Counter(_run_name(*combination) for combination in combined)
        if twice := [name for name, times in named.items() if times > 1]:
            raise SnvideoError(
                f"the study asks for {twice[0]} twice: name every norm, batch geometry and seed of "
                "a grid once"
            )
    for seed, grid in product(seeds, grids):
        if seed in (grid.seeds):
            for batch, norm in product(grid.batches, grid.norms):
                yield batch, norm, seed


def _distinct_norms(common: NormConfig, study: StudyConfig) -> dict[str, NormConfig]:
    """The config of every norm and variant that the study runs, by name; no two are the same."""
    names = dict.fromkeys(name for grid in study.all_grids() for name in grid.norms)
    norms = {name: study.norm_config(common, name) for name in names}
    for one, other in combinations(norms, 2):
        if norms[one].effective() == norms[other].effective():
            raise SnvideoError(
                f"study.norms: {one} and {other} are the same norm with the same settings: leave "
                "one out"
            )
    return norms
