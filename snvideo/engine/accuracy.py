"""Accuracies of an evaluation, of videos of one label or of several."""

import warnings
from typing import Any

from torch import Tensor, nn
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassConfusionMatrix,
    MultilabelAveragePrecision,
    MultilabelStatScores,
)


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
        self._confusion = MulticlassConfusionMatrix(num_classes=classes)

    def update(self, clip: Tensor, clip_truth: Tensor, video: Tensor, truth: Tensor) -> None:
        """Count probabilities (N, classes) and labels (N,), of clips and of videos."""
        self._clip.update(clip, clip_truth)
        self._video.update(video, truth)
        self._confusion.update(video, truth)

    def compute(self) -> dict[str, Any]:
        """Fields of an `Evaluation`; all processes call."""
        confusion = self._confusion.compute().cpu()
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
        self._precision = MultilabelAveragePrecision(num_labels=classes, average=None)

    def update(self, clip: Tensor, clip_truth: Tensor, video: Tensor, truth: Tensor) -> None:
        """Count probabilities and labels (0 or 1), (N, classes) both, of clips and of videos."""
        for unit, scores, labels in (("clip", clip, clip_truth), ("video", video, truth)):
            for k in (1, 5):
                best = scores.topk(min(k, scores.shape[1])).indices
                self._hits[f"{unit}_top{k}"].update(labels.gather(1, best).amax(1))
        self._counts.update(video, truth.long())
        self._precision.update(video, truth.long())

    def compute(self) -> dict[str, Any]:
        """Fields of an `Evaluation`; all processes call."""
        right, wrong, _, missed, videos = self._counts.compute().cpu().T
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of classes without videos, which are left out
            precisions = self._precision.compute().cpu()
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
