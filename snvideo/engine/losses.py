"""Losses of clips, of one label or of several, and the probabilities that go with them."""

from typing import Literal

from torch import Tensor
from torch.nn import functional

from snvideo.data.index import ClipIndex
from snvideo.engine.config import OptimConfig, RunConfig
from snvideo.errors import SnvideoError

Activation = Literal["softmax", "sigmoid"]


def activation_of(config: OptimConfig) -> Activation:
    """Activation that makes probabilities of logits of a network that is trained by a config."""
    return "sigmoid" if config.loss == "bce" else "softmax"


def probabilities(logits: Tensor, activation: Activation) -> Tensor:
    """Probabilities of classes: of one of all, or of each by itself; (N, classes) both."""
    return logits.sigmoid() if activation == "sigmoid" else logits.softmax(-1)


def check_labels(config: RunConfig, index: ClipIndex) -> None:
    """Raise SnvideoError for settings that expect one label of videos that have several."""
    if not index.multi_label:
        return
    if config.optim.loss != "bce":
        raise SnvideoError(
            f"the index has videos of several labels, and optim.loss={config.optim.loss} expects "
            "one: set optim.loss=bce"
        )
    if config.data.sampling == "balanced":
        raise SnvideoError(
            "data.sampling=balanced expects one label a video, and the index has several: "
            "optim.class_weights=balanced takes them"
        )


def check_labelled(train: ClipIndex) -> None:
    """Raise SnvideoError if a training video has no label."""
    if missing := len(train) - len(train.labelled):
        raise SnvideoError(
            f"{missing} of {len(train)} videos of split {train.split!r} have no label to train on: "
            "give their labels and build the index again, or set data.train_split"
        )


def as_targets(labels: Tensor, classes: int) -> Tensor:
    """Part of each class in clips, float32 (N, classes), of labels (N,) or of such parts."""
    return labels if labels.dim() == 2 else functional.one_hot(labels, classes).float()


def clip_losses(
    logits: Tensor,
    targets: Tensor,
    loss: Literal["cross_entropy", "bce"],
    weight: Tensor | None = None,
    smoothing: float = 0.0,
) -> Tensor:
    """Loss of each clip, float32 (N,).

    Args:
        logits: (N, classes).
        targets: label ids, int64 (N,), or the part of each class, float (N, classes).
        loss: `cross_entropy` of softmax, or the mean over classes of the `bce` of sigmoids.
        weight: of each class, (classes,).
        smoothing: part of a target that is spread evenly over all classes.
    """
    if loss == "cross_entropy":
        return functional.cross_entropy(
            logits, targets, weight=weight, label_smoothing=smoothing, reduction="none"
        )
    classes = logits.shape[1]
    parts = (1 - smoothing) * as_targets(targets, classes) + smoothing / classes
    return functional.binary_cross_entropy_with_logits(
        logits, parts, weight=weight, reduction="none"
    ).mean(1)


def hits(scores: Tensor, labels: Tensor) -> Tensor:
    """True for clips whose class of the highest score is a label of theirs, bool (N,)."""
    best = scores.argmax(1)
    return best == labels if labels.dim() == 1 else labels.gather(1, best[:, None])[:, 0] > 0
