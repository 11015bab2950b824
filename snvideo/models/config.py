"""Configuration of a backbone, its normalization, and the weights it starts from."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, PositiveInt, model_validator

from snvideo.base_config import Section, UserPath, expand_user
from snvideo.errors import SnvideoError
from snvideo.norm.batch_renorm import D_MAX, R_MAX, SCHEDULE
from snvideo.norm.factory import GROUPS, NormName
from snvideo.norm.mixture import (
    PAPER,
    Part,
    Ratios,
    Start,
    mixture_spec,
    ordered_parts,
    start_in_order,
    start_logits,
)

_SETTINGS_OF: dict[str, tuple[str, ...]] = {
    "sn": ("parts", "groups", "ratios"),
    "syncsn": ("parts", "groups", "ratios"),
    "gn": ("groups", "channels_per_group"),
    "brn": ("r_max", "d_max", "schedule"),
}
"""Settings that only some norms have."""

PER_CLIP = frozenset({"gn", "in", "ln", "frozen_bn"})
"""Norms whose result for a clip does not depend on the others of its batch."""


class NormConfig(Section):
    """Normalization layers of the backbone."""

    name: NormName = "sn"
    start: Start | tuple[float, ...] = "equal"
    """Initial importance logits of SN: all parts alike; leaning to batch or layer statistics; by
    depth, from instance to layer statistics; or one number for each part."""
    parts: tuple[Part, ...] | None = None
    """Statistics that SN mixes, some of instance, group, layer and batch; null: those of the paper,
    all but group."""
    ratios: Ratios | None = None
    """Map from SN's logits to its ratios; null: softmax, as in the paper. With l1 and start: batch
    a network begins as with Batch Normalization, exactly, and its ratios can move."""
    groups: PositiveInt | None = None
    """Groups of channels of GN and of SN's group part; null: 32, where the width allows."""
    channels_per_group: PositiveInt | None = None
    """Channels in a group of GN, in place of groups."""
    r_max: float | None = Field(default=None, ge=1)
    """Bounds of Batch Renormalization at the end; null: 3 and 5."""
    d_max: float | None = Field(default=None, ge=0)
    schedule: tuple[int, int, int] | None = None
    """Optimizer steps until which Batch Renormalization is Batch Normalization, at which d_max and
    at which r_max is reached; null: 5,000, 25,000 and 40,000."""
    weight_standardization: bool = False
    """Standardize the weights of all convolutions, whatever the norm."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        own = _SETTINGS_OF.get(self.name, ())
        for setting in {key for keys in _SETTINGS_OF.values() for key in keys}.difference(own):
            if getattr(self, setting) is not None:
                raise ValueError(f"{self.name} has no setting {setting}: leave it out")
        if self.groups and self.channels_per_group:
            raise ValueError("give groups or channels_per_group, not both")
        if self.has_logits:
            if self.groups and "group" not in (self.parts or ()):
                raise ValueError("groups are those of SN's group part: name it in parts")
            spec = mixture_spec(self.parts or PAPER.parts, 1, 1, self.ratios or "softmax")
            start_logits(self.start, spec)
        return self

    @property
    def has_logits(self) -> bool:
        """True for norms that mix statistics by importance logits."""
        return "ratios" in _SETTINGS_OF.get(self.name, ())

    def renamed(self, name: NormName) -> NormConfig:
        """The same with another norm, whose settings alone are kept."""
        keys = {"start", "weight_standardization", *_SETTINGS_OF.get(name, ())}
        return NormConfig(name=name, **self.model_dump(include=keys))

    def effective(self) -> dict[str, Any]:
        """The settings that have an effect, open ones by what they stand for: equal for two configs
        that build the same layers."""
        found: dict[str, Any] = {
            "name": self.name,
            "weight_standardization": self.weight_standardization,
        }
        if self.has_logits:
            named = self.parts or PAPER.parts
            parts, start = ordered_parts(named), start_in_order(self.start, named)
            found |= {"parts": parts, "start": start, "ratios": self.ratios or PAPER.ratios}
            if "group" in parts:
                found["groups"] = self.groups or GROUPS
        elif self.name == "gn":
            own = self.channels_per_group
            found |= {"channels_per_group": own} if own else {"groups": self.groups or GROUPS}
        elif self.name == "brn":
            found |= {"r_max": R_MAX, "d_max": D_MAX, "schedule": SCHEDULE}
            found |= self.model_dump(include=set(_SETTINGS_OF["brn"]), exclude_none=True)
        return found

    def drops_batch_part(self, clips_per_gpu: int) -> bool:
        """True where SN has no batch part, as batch and instance statistics are equal."""
        mixes_batch = "batch" in (self.parts or PAPER.parts)
        return self.name == "sn" and clips_per_gpu == 1 and mixes_batch

    def uses_batch_statistics(self, clips_per_gpu: int) -> bool:
        """True if the result for a clip depends on the others of its batch."""
        if self.has_logits:
            mixes_batch = "batch" in (self.parts or PAPER.parts)
            return mixes_batch and not self.drops_batch_part(clips_per_gpu)
        return self.name not in PER_CLIP

    def options(self, clips_per_gpu: int) -> dict[str, Any]:
        """Keyword arguments of every layer for `snvideo.norm.create_norm`, but for its groups.

        Raises:
            SnvideoError: if that leaves SN nothing to mix.
        """
        options = self.model_dump(include=set(_SETTINGS_OF.get(self.name, ())), exclude_none=True)
        if not self.has_logits:
            return options
        parts, start = self.parts or PAPER.parts, self.start
        if self.drops_batch_part(clips_per_gpu):
            if not isinstance(start, str):
                start = tuple(z for z, part in zip(start, parts, strict=True) if part != "batch")
                if self.ratios == "l1" and not any(start):  # it was the batch part alone
                    start = "equal"
            elif start == "batch":
                start = "equal"
            parts = tuple(part for part in parts if part != "batch")
            if not parts:
                raise SnvideoError("one clip per GPU leaves model.norm.parts nothing but the batch")
            options |= {"parts": parts}
        return options if start == "equal" else options | {"start": start}


def _expand_source(source: str) -> str:
    return str(expand_user(source)) if source.startswith("~") else source


class WeightsConfig(Section):
    """Weights that training starts from."""

    source: Annotated[str, AfterValidator(_expand_source)]
    """A file, a library's own download, `torchvision:NAME`, `timm:NAME` or `pytorchvideo:NAME`, or
    what `snvideo push` has published: `hf:USER/NAME`, `hf:USER/NAME@REVISION`."""
    inflate: Literal["repeat", "centre"] = "repeat"
    """Inflation of 2D kernels to 3D: repeated over time and divided, or in the middle frame."""
    norms: Literal["keep", "new"] = "keep"
    """Norms of the source are loaded, or start anew, as of another kind they must."""
    head: Literal["match", "new"] = "match"
    """The classifier is loaded, class by class by name, or starts anew. That of an image network
    always does."""
    classes: UserPath | None = None
    """Names of the source's classes in their order, where the file does not say: a text file with
    one a line, or JSON (a list, names to numbers, or an index's)."""


class ModelConfig(Section):
    """A backbone by name; the number of classes comes from the index's label map."""

    name: str = "i3d_r50_8x8"
    norm: NormConfig = NormConfig()
    dropout: float = Field(default=0.5, ge=0, lt=1)
    """Rate before the classifier."""
    drop_path: float = Field(default=0.0, ge=0, lt=1)
    """Part of the clips for which the last residual branch is left out (stochastic depth, Huang et
    al. 2016); it rises from 0 at the first one, linearly with depth."""
    zero_init_last: bool = True
    """Residual branches start at zero, by the scale of their last norm; otherwise at one."""
    weights: WeightsConfig | None = None
    """null: random ones, from the run's seed."""
