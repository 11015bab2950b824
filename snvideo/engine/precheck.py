"""Checks of a run before its first step, by training and dry runs alike."""

from typing import NamedTuple

import torch
from torch import nn

from snvideo.data.config import ClipConfig
from snvideo.data.index import ClipIndex
from snvideo.data.sampling import is_short
from snvideo.engine.config import RunConfig
from snvideo.engine.losses import check_labelled, check_labels
from snvideo.errors import SnvideoError
from snvideo.models.cost import multiply_adds, without_memory

FILES = 5  # video files of each split that are looked for
SHOWN = 5  # classes that a line names
SAMPLE = 1000  # videos of each split, spread evenly, whose length is compared with a clip


class Splits(NamedTuple):
    """Videos that a run is trained on, validated on and tested on."""

    train: ClipIndex
    val: ClipIndex  # the same object as `test` if one split is both
    test: ClipIndex

    def by_use(self) -> dict[str, ClipIndex]:
        """Each split once, by what it is for."""
        own = {} if self.val is self.test else {"validation": self.val}
        return {"training": self.train, **own, "test": self.test}


def load_splits(config: RunConfig) -> Splits:
    """The splits of a run.

    Raises SnvideoError if one is missing or empty, or its labels are not what the run needs.
    """
    data = config.data
    train, test = (
        ClipIndex.load(data.index, split, data.root)
        for split in (data.train_split, data.test_split)
    )
    own = data.validation_split != data.test_split
    val = ClipIndex.load(data.index, data.validation_split, data.root) if own else test
    check_labels(config, train)
    check_labelled(train)
    if not len(val.labelled):
        raise SnvideoError(
            f"no video of split {val.split!r} has a label, so that training cannot be validated: "
            f"set data.{'val' if own else 'test'}_split to a split with labels; "
            "'snvideo evaluate' then predicts this one"
        )
    if not len(test.labelled):
        raise SnvideoError(
            f"no video of split {test.split!r} has a label, so that the run cannot be tested: set "
            "data.test_split to a split with labels; 'snvideo evaluate' then predicts this one"
        )
    return Splits(train, val, test)


class SplitSummary(NamedTuple):
    """The usable videos of a split."""

    use: str  # training, validation or test
    name: str
    videos: int
    short: float  # part of them that is shorter than a clip, whose last frame is then repeated
    missing: list[str]  # names of those among the first few that have no file
    classes: int
    empty: list[str]  # names of classes without videos
    unlabelled: int = 0  # videos without a label

    def warnings(self) -> list[str]:
        """Lines if files or labels are missing."""
        found = []
        if self.missing:
            found.append(
                f"{len(self.missing)} of the first {min(FILES, self.videos)} videos of split "
                f"{self.name!r} are missing: {', '.join(self.missing)}"
            )
        if self.unlabelled:
            found.append(
                f"{self.unlabelled} of {self.videos} videos of split {self.name!r} have no label "
                "and count in no figure"
            )
        return found

    def empty_classes(self) -> list[str]:
        """A line if there are classes without videos."""
        if not self.empty:
            return []
        some = ", ".join(self.empty[:SHOWN]) + ", ..." * (len(self.empty) > SHOWN)
        return [
            f"{len(self.empty)} of {self.classes} classes have no usable video in split "
            f"{self.name!r}: {some}"
        ]


def check_index(splits: Splits, clip: ClipConfig) -> list[SplitSummary]:
    """Summaries of the splits of a run, each once: training, validation if it has its own, test.

    Raises SnvideoError if there is one class alone, or no video where the index says.
    """
    labels = splits.train.labels
    if len(labels) < 2:
        raise SnvideoError(
            f"the index has one class, {labels[0]!r}: there is nothing to tell apart; add "
            "videos of another one and build it again with 'snvideo index build'"
        )
    return [_summarize(index, clip, use) for use, index in splits.by_use().items()]


def _summarize(index: ClipIndex, clip: ClipConfig, use: str) -> SplitSummary:
    """Videos of a split, an estimate of the short ones if there are many; files must be there."""
    first = [index[row] for row in range(min(FILES, len(index)))]
    missing = [video for video in first if not video.source.is_there()]
    if len(missing) == len(first):
        raise SnvideoError(
            f"split {index.split!r}: none of its first {len(first)} videos is there, as "
            f"{missing[0].path}: set data.root to where the videos are (now {index.root})"
        )
    looked = min(SAMPLE, len(index))
    videos = [index[number * len(index) // looked] for number in range(looked)]
    short = sum(is_short(clip, video.fps, video.frames) for video in videos) / looked
    counts = index.label_counts()
    empty = [name for name, count in zip(index.labels, counts, strict=True) if not count]
    names = [video.name for video in missing]
    unlabelled = len(index) - len(index.labelled)
    return SplitSummary(
        *(use, index.split, len(index), short, names, len(counts), empty), unlabelled
    )


def view_cost(model: nn.Module, config: RunConfig) -> tuple[int, int]:
    """Multiply-adds of a training and of a test view; SnvideoError if the network cannot take
    one."""
    frames, data = config.data.clip.frames, config.data
    crops = {"data.train.crop": data.train.crop, "data.test.crop": data.test.crop}
    costs = []
    for key, crop in crops.items():
        try:
            costs.append(multiply_adds(model, frames, crop))
            if key == "data.train.crop" and config.batch.clips_per_gpu == 1:
                _train_on_one_clip(model, config.model.norm.name, frames, crop)
        except (ValueError, RuntimeError) as error:
            why = str(error).partition("\n")[0]
            clips = f"{frames} frame{'s' * (frames > 1)}, {crop} x {crop} pixels"
            raise SnvideoError(
                f"{config.model.name} cannot take clips of {clips}: {why}: change "
                f"data.clip.frames or {key}"
            ) from error
    return costs[0], costs[1]


def _train_on_one_clip(model: nn.Module, norm: str, frames: int, crop: int) -> None:
    """Raise ValueError where batch statistics would be those of a single value."""
    if norm in ("bn", "brn"):
        model = without_memory(model, torch.device("meta")).train()
        with torch.no_grad():
            model(torch.empty(1, 3, frames, crop, crop, device="meta"))
