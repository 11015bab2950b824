"""The engine of evaluation: clip and video accuracy over test views, every video counted once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

from snvideo.data import sampling
from snvideo.data.augmentation import to_input, train_input
from snvideo.data.config import MEAN, STD, DataConfig
from snvideo.data.index import ClipIndex
from snvideo.data.loader import test_loader, train_loader
from snvideo.data.quarantine import Quarantine
from snvideo.engine.batch_plan import BatchPlan
from snvideo.engine.config import RunConfig, SpeedConfig
from snvideo.engine.distributed import World
from snvideo.engine.performance import autocast, memory_format
from snvideo.norm import average_statistics, tracking_layers


@dataclass
class Evaluation:
    """Accuracies (fractions) and predictions; views are clips x crops."""

    loss: float
    clip_top1: float
    clip_top5: float
    video_top1: float
    video_top5: float
    per_class_accuracy: list[float]
    confusion: list[list[int]]
    """Videos by true class (rows) and predicted class (columns)."""
    failed: list[tuple[str, str]]
    """Name and reason of videos that could not be read; they are left out of all figures."""
    rows: np.ndarray = field(repr=False)
    """Rows of the index, int64 (videos,), sorted."""
    labels: np.ndarray = field(repr=False)
    """int64 (videos,)."""
    probabilities: np.ndarray = field(repr=False)
    """float32 (videos, classes): softmax averaged over the views."""

    def save_predictions(self, path: Path, index: ClipIndex) -> None:
        """Write names, labels and probabilities of all videos as a .npz file."""
        np.savez_compressed(
            path,
            videos=np.array([index[int(row)].name for row in self.rows]),
            labels=self.labels,
            probabilities=self.probabilities,
            classes=np.array(index.labels),
        )


def refresh_statistics(
    model: nn.Module,
    index: ClipIndex,
    config: RunConfig,
    plan: BatchPlan,
    epoch: int,
    world: World,
    quarantine: Quarantine,
) -> int:
    """Average batch statistics over training clips, in the groups of the run's batch plan.

    Returns:
        the number of groups; 0 if the model has no statistics or the config keeps moving averages.
    """
    if not tracking_layers(model) or not config.statistics.batches:
        return 0
    passes = ((epoch, group) for group in plan.statistics(len(index), config.statistics.batches))
    stream = sampling.STATISTICS
    batches = train_loader(index, config.data, config.seed, passes, stream, quarantine)

    def inputs() -> Iterator[Tensor]:
        for batch in batches:
            yield train_input(batch, config.data, world.device, memory_format(config.speed))

    with autocast(config.speed, world.device):
        return average_statistics(model, inputs(), config.statistics.kind)


@torch.inference_mode()
def evaluate_views(
    model: nn.Module,
    index: ClipIndex,
    config: RunConfig,
    world: World,
    clips: int,
    crops: int,
    quarantine: Quarantine,
    rows: Sequence[int] | None = None,
) -> Evaluation:
    """Evaluate a model over views of videos of an index.

    A clip counts by its own softmax; a video by the softmax averaged over its views. Each process
    takes every W-th video, and all return the same figures.

    Args:
        model: in whatever mode; it is left in evaluation mode.
        index: videos of the test split.
        config: views, precision and batch size.
        world: the processes that share the work.
        clips, crops: views of each video.
        quarantine: videos that are not opened; what proves unreadable is added to it.
        rows: of the index; None: all of them.
    """
    model.eval()
    device, classes, batch_size = world.device, len(index.labels), config.test_batch
    metrics = _metrics(classes).to(device)
    failed: list[tuple[str, str]] = []
    no_rows = np.empty(0, np.int64)
    parts = [(no_rows, no_rows, np.empty((0, classes), np.float32))]
    mine = (range(len(index)) if rows is None else rows)[world.rank :: world.size]
    for batch in test_loader(index, config.data, mine, batch_size, clips, crops, quarantine):
        failed += batch.unreadable
        if not len(batch.videos):
            continue
        truth = batch.labels.to(device)
        views = torch.cat([views.expand(device) for views in batch.views])
        logits = view_logits(model, views, config.data, config.speed, batch_size, device)
        softmax = logits.softmax(-1)
        video = softmax.unflatten(0, (len(truth), -1)).mean(1)
        view_truth = truth.repeat_interleave(clips * crops)
        metrics["loss"].update(nn.functional.cross_entropy(logits, view_truth, reduction="none"))
        for name in ("clip_top1", "clip_top5"):
            metrics[name].update(softmax, view_truth)
        for name in ("video_top1", "video_top5", "confusion"):
            metrics[name].update(video, truth)
        parts.append((batch.videos.numpy(), batch.labels.numpy(), video.cpu().numpy()))
    gathered = world.gather((parts, failed))
    columns = zip(*(part for some, _ in gathered for part in some), strict=True)
    all_rows, labels, probabilities = (np.concatenate(column) for column in columns)
    order = np.argsort(all_rows)
    values = metrics.compute()
    confusion = values.pop("confusion").cpu()
    return Evaluation(
        **{name: float(value) for name, value in values.items()},
        per_class_accuracy=(confusion.diag() / confusion.sum(1).clamp_min(1)).tolist(),
        confusion=confusion.tolist(),
        failed=[video for _, some in gathered for video in some],
        rows=all_rows[order],
        labels=labels[order],
        probabilities=probabilities[order],
    )


def _metrics(classes: int) -> MetricCollection:
    def top(k: int) -> MulticlassAccuracy:
        return MulticlassAccuracy(num_classes=classes, top_k=min(k, classes), average="micro")

    return MetricCollection(
        {
            "loss": MeanMetric(),
            "clip_top1": top(1),
            "clip_top5": top(5),
            "video_top1": top(1),
            "video_top5": top(5),
            "confusion": MulticlassConfusionMatrix(num_classes=classes),
        },
        compute_groups=False,  # clips and videos are counted apart
    )


def view_logits(
    model: nn.Module,
    views: Tensor,
    data: DataConfig,
    speed: SpeedConfig,
    batch: int,
    device: torch.device,
) -> Tensor:
    """Logits of test views, a limited number at a time.

    Args:
        model: in evaluation mode.
        views: uint8 (N, T, 3, H, W), on the device.
        data: mean and standard deviation that the input is normalized with.
        speed: precision and memory format.
        batch: views in one forward pass.
        device: of the model.

    Returns:
        float32 (N, classes).
    """
    parts = []
    mean, std = data.mean or MEAN, data.std or STD
    for part in views.split(batch):
        clips = to_input(part, mean, std, memory_format(speed))
        with autocast(speed, device):
            parts.append(model(clips))
    return torch.cat(parts).float()
