"""Schema of results.json and evaluation.json."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from pydantic import BaseModel, ConfigDict

from snvideo.engine.config import RunConfig, StatisticsConfig
from snvideo.errors import SnvideoError

if TYPE_CHECKING:
    from snvideo.data.index import ClipIndex
    from snvideo.engine.evaluate import Evaluation

_ACCURACIES = ("clip_top1", "clip_top5", "video_top1", "video_top5")
_PER_CLASS = ("per_class_accuracy", "per_class_precision", "per_class_videos", "confusion")
_AVERAGE_PRECISION = ("mean_average_precision", "per_class_average_precision")
_EVALUATED = (*_ACCURACIES, *_PER_CLASS, "failed")
_PUBLISHED = {
    *(*_ACCURACIES, "videos", "failed_videos", "views", "gpus", "clips_per_gpu", "seed", "epochs"),
    *("mean_average_precision", "steps", "statistics", "index_hash", "amp", "parameters"),
}


StatisticsOrigin: TypeAlias = Literal["weights", "run", "index", "moving"]
"""Origin of the statistics of an evaluation: held by the weights, averaged over the run's own
training clips or those of the index tested on, or the moving averages of training."""


DENSE = 500
"""Classes up to which the confusion matrix is stored as such: beyond, nearly all of it is zeros."""


class LayerImportance(BaseModel):
    """Importance ratios of one SN layer."""

    layer: str
    depth: float = 0.0
    mean: tuple[float, ...]
    variance: tuple[float, ...]
    parts: tuple[str, ...] = ("instance", "layer", "batch")
    """Names of the ratios; of older files the first ones count."""


class ViewCounts(BaseModel):
    """Test views of a video: clips x crops."""

    clips: int
    crops: int


class Results(BaseModel):
    """Results of a run, or of a later evaluation. Accuracies are fractions, times are seconds.

    Fields with a default are missing in files of older versions, or do not apply.
    """

    model_config = ConfigDict(frozen=True)

    norm: str
    model: str
    gpus: int
    clips_per_gpu: int
    seed: int
    epochs: int | None = None
    """None of a run whose length was stated in steps."""
    statistics: StatisticsConfig | None = None
    index_hash: str
    classes: list[str]
    clip_top1: float | None
    """None, as the three that follow, in an evaluation of videos without labels, never of a run."""
    clip_top5: float | None
    video_top1: float | None
    video_top5: float | None
    per_class_accuracy: list[float | None] = []
    """Recall: part of a class's videos that are predicted right; None of a class without videos."""
    per_class_precision: list[float | None] = []
    """Part of the predictions of a class that are right; None of one that is never predicted."""
    per_class_videos: list[int] = []
    """Support: videos of each class."""
    mean_average_precision: float | None = None
    """Of an index of several labels a video, as `per_class_average_precision`, of which it is the
    mean over classes with videos; recall and precision are then those of probabilities >= 0.5."""
    per_class_average_precision: list[float | None] | None = None
    confusion: list[list[int]] = []
    """Videos by true class (rows) and predicted class (columns); empty if they have several labels,
    and with more than `DENSE` classes."""
    confusion_entries: list[tuple[int, int, int]] = []
    """The same with more classes, without zeros: true class, predicted class, videos."""
    videos: int
    unlabelled_videos: int = 0
    """Those of `videos` without a label, which count in no figure."""
    failed_videos: int
    failed: list[tuple[str, str]] = []
    """Name and reason of videos that could not be read."""
    views: ViewCounts
    checkpoint: str | None = None
    """Evaluated weights."""
    statistics_from: StatisticsOrigin | None = None
    """Of a later evaluation, as all fields below are of a run; None: the norms have none."""
    steps: int = 0
    skipped_steps: int = 0
    best_validation: dict[str, Any] | None = None
    """Step and clip top-1."""
    validation_split: str | None = None
    """`data.val_split`, on which that was measured; None: on the split of the test."""
    amp: str = "none"
    replaced_samples: int = 0
    quarantined_videos: int = 0
    train_seconds: float = 0.0
    test_seconds: float = 0.0
    parameters: int = 0
    importance: list[LayerImportance] | None = None
    started_from: dict[str, Any] | None = None
    """A summary of the weights that training began from."""

    @classmethod
    def of(cls, config: RunConfig, index: ClipIndex, found: Evaluation, **more: Any) -> Results:
        """Results of an evaluation over the test views of a config, and `more` fields."""
        batch, test = config.batch, config.data.test
        evaluated = {name: getattr(found, name) for name in _EVALUATED}
        if len(index.labels) > DENSE and found.confusion:
            counts = np.array(evaluated.pop("confusion"))
            places = np.nonzero(counts)
            evaluated["confusion_entries"] = np.stack([*places, counts[places]], 1).tolist()
        values = {
            "norm": config.model.norm.name,
            "model": config.model.name,
            **batch.model_dump(include={"gpus", "clips_per_gpu"}),
            "seed": config.seed,
            "epochs": config.optim.epochs,
            "statistics": config.statistics.model_dump(),
            "index_hash": index.hash,
            "classes": list(index.labels),
            **evaluated,
            **{name: v for name in _AVERAGE_PRECISION if (v := getattr(found, name)) is not None},
            "videos": len(found.rows),
            **({"unlabelled_videos": found.unlabelled} if found.unlabelled else {}),
            "failed_videos": len(found.failed),
            "views": test.model_dump(include={"clips", "crops"}),
        }
        return cls.model_validate(values | more)

    @property
    def accuracy(self) -> float:
        """Video top-1 of a run, which has one: it is not begun without test videos with labels."""
        assert self.video_top1 is not None
        return self.video_top1

    @property
    def labelled_videos(self) -> int:
        """Videos that count in the figures."""
        return self.videos - self.unlabelled_videos

    def confusion_matrix(self) -> np.ndarray:
        """Videos by true and predicted class, int64 (classes, classes)."""
        if not self.confusion_entries:
            return np.array(self.confusion, np.int64)
        counts = np.zeros((len(self.classes), len(self.classes)), np.int64)
        true, predicted, videos = np.array(self.confusion_entries).T
        counts[true, predicted] = videos
        return counts

    def __str__(self) -> str:
        tops = (self.clip_top1, self.clip_top5, self.video_top1, self.video_top5)
        labelled, of = self.labelled_videos, ""
        if not labelled:
            return (
                f"predictions and no accuracy, as none of {self.videos} videos has a label "
                f"({self.failed_videos} unreadable)"
            )
        if self.unlabelled_videos:
            of = f"the {labelled} with a label of "
        clip1, clip5, video1, video5 = (f"{100 * (top or 0):.1f} %" for top in tops)
        mean = self.mean_average_precision
        first = "" if mean is None else f"mAP {100 * mean:.1f} %, "
        return (
            f"{first}clip top-1 {clip1} top-5 {clip5}, video top-1 {video1} top-5 {video5} over "
            f"{of}{self.videos} videos ({self.failed_videos} unreadable)"
        )

    def stored(self) -> dict[str, Any]:
        """Content of the JSON file: all fields that were set."""
        return self.model_dump(mode="json", exclude_unset=True)

    def published(self) -> dict[str, Any]:
        """The part that goes with published weights, without tables."""
        return self.model_dump(mode="json", exclude_unset=True, include=_PUBLISHED)


def read_results(folder: Path) -> Results | None:
    """Read the results of a run; None if it has none yet.

    Raises:
        SnvideoError: if results.json does not hold the results of a run.
    """
    file = folder / "results.json"
    if not file.exists():
        return None
    try:
        return Results.model_validate_json(file.read_text(encoding="utf-8"))
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise SnvideoError(f"{file}: {reason}; delete it and resume") from None
