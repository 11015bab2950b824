"""Configuration of clips: which videos, which frames, which crops."""

from pathlib import Path

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from snvideo.schema import Section


class ClipConfig(Section):
    """Which frames make a clip."""

    frames: PositiveInt = 8
    stride: PositiveInt = 8
    """Frames of the video from one clip frame to the next."""
    target_fps: PositiveFloat | None = None
    """Count strides at this frame rate whatever the file's own is; null: at the file's own."""


class TrainViewConfig(Section):
    """Random view for training: scale jitter, crop, flip."""

    short_side: tuple[PositiveInt, PositiveInt] = (256, 320)
    crop: PositiveInt = 224
    flip: bool = True

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
    crops: int = Field(3, ge=1, le=3)

    @model_validator(mode="after")
    def _crop_fits(self) -> "TestViewConfig":
        if self.crop > self.short_side:
            raise ValueError(f"need crop <= short_side, got {self.crop} > {self.short_side}")
        if self.crops == 2:
            raise ValueError("crops is 1 (centre) or 3 (both ends and the centre of the long side)")
        return self


class DataConfig(Section):
    """The clip index and what is read from it."""

    index: Path
    root: Path | None = None
    """Folder that the index's paths start from; null: the one stated beside the index."""
    train_split: str = "train"
    test_split: str = "val"
    workers: int = Field(4, ge=0)
    clip: ClipConfig = ClipConfig()
    train: TrainViewConfig = TrainViewConfig()
    test: TestViewConfig = TestViewConfig()
    mean: tuple[float, float, float] = (0.45, 0.45, 0.45)
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = (0.225, 0.225, 0.225)
