"""Accuracies of an evaluation, of videos of one label or of several."""

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MultilabelStatScores,
)
from torchmetrics.functional.classification import (
    multiclass_confusion_matrix,
    multilabel_average_precision,
)

from snvideo.data.index import ClipIndex


@dataclass
class Evaluation:
    """Accuracies (fractions) and predictions; views are clips x crops.

    Of videos of several labels, top-1 and top-5 say that one of the best classes is a label; recall
    and precision are those of probabilities of at least one half. All figures are those of videos
    with a label, and None if there is none.
    """

    loss: float | None
    clip_top1: float | None
    clip_top5: float | None
    video_top1: float | None
    video_top5: float | None
    per_class_accuracy: list[float | None]
    """Recall; None of a class without videos."""
    per_class_precision: list[float | None]
    """None of a class that is never predicted."""
    per_class_videos: list[int]
    confusion: list[list[int]]
    """Videos by true class (rows) and predicted class (columns); empty with several labels, and
    without any."""
    failed: list[tuple[str, str]]
    """Name and reason of videos that could not be read; they are left out of all figures."""
    rows: np.ndarray = field(repr=False)  # rows of the index, int64 (videos,), sorted
    labels: np.ndarray = field(repr=False)
    """int64 (videos,), or 0 and 1 (videos, classes); -1 of a video without a label."""
    probabilities: np.ndarray = field(repr=False)
    """float32 (videos, classes): softmax or sigmoids averaged over the views."""
    mean_average_precision: float | None = None
    """Of videos of several labels: the mean of the average precisions of classes with videos."""
    per_class_average_precision: list[float | None] | None = None
    """None of a class without videos."""

    @property
    def unlabelled(self) -> int:
        """Number of videos without a label."""
        return int((self.labels.reshape(len(self.labels), -1)[:, 0] < 0).sum())

    @property
    def score(self) -> float | None:
        """Figure that the best validation has the highest of: mAP, or clip top-1 with one label."""
        mean = self.mean_average_precision
        return self.clip_top1 if mean is None else mean

    def save_predictions(self, path: Path, index: ClipIndex) -> None:
        """Write names, labels and probabilities of all videos as a .npz file."""
        np.savez_compressed(
            path,
            videos=np.array([index[int(row)].name for row in self.rows]),
            labels=self.labels,
            probabilities=self.probabilities,
            classes=np.array(index.labels),
        )


def no_figures(classes: int) -> dict[str, Any]:
    """Fields of an `Evaluation` of videos none of which has a label."""
    return {
        **{f"{unit}_top{k}": None for unit in ("clip", "video") for k in (1, 5)},
        "per_class_accuracy": [None] * classes,
        "per_class_precision": [None] * classes,
        "per_class_videos": [0] * classes,
        "confusion": [],
        "loss": None,
    }


def _shares(parts: Tensor, totals: Tensor) -> list[float | None]:
    """Quotients of counts; None where there is nothing to divide by."""
    pairs = zip(parts.tolist(), totals.tolist(), strict=True)
    return [part / total if total else None for part, total in pairs]


class SingleLabelFigures(nn.Module):
    """Accuracies, and the confusion matrix of videos, over all processes."""

    def __init__(self, classes: int) -> None:
        super().__init__()

        def top(k: int) -> MulticlassAccuracy:
            return MulticlassAccuracy(num_classes=classes, top_k=min(k, classes), average="micro")

        # No groups: clips and videos are counted apart.
        self._clip, self._video = (
            MetricCollection({f"{unit}_top{k}": top(k) for k in (1, 5)}, compute_groups=False)
            for unit in ("clip", "video")
        )
        self._classes = classes

    def update(self, clip: Tensor, clip_truth: Tensor, video: Tensor, truth: Tensor) -> None:
        """Count probabilities (N, classes) and labels (N,), of clips and of videos."""
        self._clip.update(clip, clip_truth)
        self._video.update(video, truth)

    def compute(self, scores: Tensor, labels: Tensor) -> dict[str, Any]:
        """Fields of an `Evaluation`, given what all processes have of all videos; all call."""
        confusion = multiclass_confusion_matrix(scores, labels, self._classes)
        right, videos, predicted = confusion.diag(), confusion.sum(1), confusion.sum(0)
        accuracies = {**self._clip.compute(), **self._video.compute()}
        return {
            **{name: float(value) for name, value in accuracies.items()},
            "per_class_accuracy": _shares(right, videos),
            "per_class_precision": _shares(right, predicted),
            "per_class_videos": videos.tolist(),
            "confusion": confusion.tolist(),
        }


class MultiLabelFigures(nn.Module):
    """Hits among the best classes, and precisions of each class, over all processes."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        names = [f"{unit}_top{k}" for unit in ("clip", "video") for k in (1, 5)]
        self._hits = MetricCollection({name: MeanMetric() for name in names}, compute_groups=False)
        self._counts = MultilabelStatScores(num_labels=classes, average=None)

    def update(self, clip: Tensor, clip_truth: Tensor, video: Tensor, truth: Tensor) -> None:
        """Count probabilities and labels (0 or 1), (N, classes) both, of clips and of videos."""
        for unit, scores, labels in (("clip", clip, clip_truth), ("video", video, truth)):
            for k in (1, 5):
                best = scores.topk(min(k, scores.shape[1])).indices
                self._hits[f"{unit}_top{k}"].update(labels.gather(1, best).amax(1))
        self._counts.update(video, truth.long())

    def compute(self, scores: Tensor, labels: Tensor) -> dict[str, Any]:
        """Fields of an `Evaluation`, given what all processes have of all videos; all call."""
        right, wrong, _, missed, videos = self._counts.compute().cpu().T
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of classes without videos, which are left out
            precisions = multilabel_average_precision(
                scores, labels.long(), scores.shape[1], average=None
            )
        known = videos > 0
        values = zip(precisions.tolist(), known.tolist(), strict=True)
        return {
            **{name: float(value) for name, value in self._hits.compute().items()},
            "per_class_accuracy": _shares(right, right + missed),
            "per_class_precision": _shares(right, right + wrong),
            "per_class_videos": videos.tolist(),
            "per_class_average_precision": [value if some else None for value, some in values],
            "mean_average_precision": float(precisions[known].mean()) if known.any() else None,
            "confusion": [],
        }
