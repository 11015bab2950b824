"""Configuration of clips: videos, frames, crops, augmentation."""

from pathlib import PurePath
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from snvideo.base_config import Section, UserPath, expand_user
from snvideo.data.remote import is_url

RGB = tuple[float, float, float]
MEAN: RGB = (0.45, 0.45, 0.45)
STD: RGB = (0.225, 0.225, 0.225)
"""Normalization where nothing else is stated, as in PySlowFast."""


def _as_text(path: Any) -> Any:
    return str(path) if isinstance(path, PurePath) else path


def _expanded(path: str) -> str:
    return path if is_url(path) else str(expand_user(path))


class ClipConfig(Section):
    """Frames of a clip."""

    frames: PositiveInt = 8
    stride: PositiveInt = 8
    """Frames of the video from one clip frame to the next."""
    target_fps: PositiveFloat | None = None
    """Count strides at this frame rate whatever the file's own is, which is taken for constant (the
    index remarks `frames at uneven times`); null: at the file's own."""


class ColorConfig(Section):
    """Random brightness, contrast, saturation and hue, in random order; 0 leaves one as it is.

    Strengths mean what they mean in torchvision's ColorJitter.
    """

    brightness: NonNegativeFloat = 0.0
    """The factor is uniform in [1 - brightness, 1 + brightness], never below 0."""
    contrast: NonNegativeFloat = 0.0
    """As brightness, on the distance from a frame's mean grey."""
    saturation: NonNegativeFloat = 0.0
    """As brightness, on the distance from a pixel's own grey."""
    hue: float = Field(default=0.0, ge=0, le=0.5)
    """The shift is uniform in [-hue, hue], in turns of the colour circle."""
    probability: float = Field(default=0.8, ge=0, le=1)
    """Part of the clips that are changed."""


class RandAugmentConfig(Section):
    """RandAugment (Cubuk et al. 2020): operations from a fixed list, all of one magnitude."""

    operations: PositiveInt = 2
    """Chosen at random from the 14 of the list; one may come twice."""
    magnitude: int = Field(default=9, ge=0, le=30)
    """From 0, the weakest, to 30; the same strengths as torchvision's 31 bins."""
    probability: float = Field(default=1.0, ge=0, le=1)
    """Part of the clips that are changed."""


class RandomErasingConfig(Section):
    """Random erasing (Zhong et al. 2017): a rectangle of all frames of a clip is filled."""

    probability: float = Field(default=0.25, ge=0, le=1)
    """Part of the clips that are changed."""
    area: tuple[PositiveFloat, PositiveFloat] = (0.02, 1 / 3)
    """Least and greatest part of the frame."""
    aspect: tuple[PositiveFloat, PositiveFloat] = (0.3, 1 / 0.3)
    """Least and greatest ratio of height to width."""
    fill: Literal["const", "pixel"] = "const"
    """`const`: the mean colour; `pixel`: normal noise, the same in all frames."""

    @model_validator(mode="after")
    def _ranges_are_some(self) -> "RandomErasingConfig":
        if not self.area[0] <= self.area[1] < 1:
            raise ValueError(f"need area[0] <= area[1] < 1, got {self.area[0]:g}, {self.area[1]:g}")
        if self.aspect[0] > self.aspect[1]:
            raise ValueError(
                f"need aspect[0] <= aspect[1], got {self.aspect[0]:g}, {self.aspect[1]:g}"
            )
        return self


class TrainViewConfig(Section):
    """Random view for training: scale jitter, crop, flip, colour changes, erasing and mixing."""

    short_side: tuple[PositiveInt, PositiveInt] = (256, 320)
    crop: PositiveInt = 224
    flip: bool = True
    color: ColorConfig = ColorConfig()
    rand_augment: RandAugmentConfig | None = None
    random_erasing: RandomErasingConfig | None = None
    mixup: NonNegativeFloat = 0.0
    """Alpha of Beta(alpha, alpha), which gives mixup's weights (Zhang et al. 2018); 0: off."""
    cutmix: NonNegativeFloat = 0.0
    """As mixup, for CutMix (Yun et al. 2019); with both, either for half of the mixed clips."""
    mix_probability: float = Field(default=1.0, ge=0, le=1)
    """Part of the clips that are mixed, if mixup or cutmix is on."""

    @property
    def mixes(self) -> bool:
        """True if clips are mixed with others of their GPU."""
        return bool(self.mixup or self.cutmix)

    @model_validator(mode="after")
    def _crop_fits(self) -> "TrainViewConfig":
        low, high = self.short_side
        if not self.crop <= low <= high:
            raise ValueError(
                f"need crop <= short_side[0] <= short_side[1], got {self.crop}, {low}, {high}"
            )
        return self


class TestViewConfig(Section):
    """Views for testing: clips spread evenly over the video, crops along the long side."""

    __test__ = False  # not a test case, whatever pytest makes of the name

    short_side: PositiveInt = 256
    crop: PositiveInt = 256
    clips: PositiveInt = 10
    crops: int = Field(default=3, ge=1, le=3)

    @model_validator(mode="after")
    def _crop_fits(self) -> "TestViewConfig":
        if self.crop > self.short_side:
            raise ValueError(f"need crop <= short_side, got {self.crop} > {self.short_side}")
        if self.crops == 2:
            raise ValueError("crops is 1 (centre) or 3 (both ends and the centre of the long side)")
        return self


class DataConfig(Section):
    """The clip index and what is read from it."""

    index: UserPath
    root: Annotated[str, BeforeValidator(_as_text), AfterValidator(_expanded)] | None = None
    """Folder or URL that the index's paths start from; null: the one stated beside the index."""
    train_split: str = "train"
    val_split: str | None = None
    """Split that training is validated on, which chooses `best.pt`; null: `test_split`."""
    test_split: str = "val"
    """Split of the test at the end, and of later evaluations."""
    workers: int = Field(default=4, ge=0)
    """Processes that read videos; with 0 the main process does, which a broken video may hang."""
    start_method: Literal["fork", "spawn", "forkserver"] | None = None
    """How workers start; null: as Python does by itself."""
    timeout: float = Field(default=60.0, gt=0, le=300)
    """Seconds without a packet or a frame of a video after which it goes into quarantine; the work
    that a long one takes has no limit."""
    quarantine: UserPath | None = None
    """Videos not to open: the `quarantine.csv` of another run."""
    sampling: Literal["shuffled", "balanced"] = "shuffled"
    """Order of an epoch's training clips: each video once; or as many clips, equally many of each
    class, for which videos of rare classes come several times."""
    repeats: PositiveInt = 1
    """Clips of each video in a step, with augmentation of their own (repeated augmentation, Hoffer
    et al. 2020); an epoch has as many clips as before, of so many times fewer videos."""
    decoder: Literal["pyav", "decord", "torchcodec"] = "pyav"
    """What decodes videos; `decord` and `torchcodec` those that the index trusts them with."""
    clip: ClipConfig = ClipConfig()
    train: TrainViewConfig = TrainViewConfig()
    test: TestViewConfig = TestViewConfig()
    mean: RGB | None = None
    """Of the three channels, for values 0..1; null: that of the weights that a run starts from, or
    0.45."""
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] | None = None
    """As `mean`, or 0.225."""

    @property
    def validation_split(self) -> str:
        """Split that training is validated on."""
        return self.test_split if self.val_split is None else self.val_split
