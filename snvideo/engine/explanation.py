"""Explanations of predictions: where in the frames that it saw a network finds a class."""

from typing import NamedTuple

import torch
from torch import Tensor

from snvideo.data.dataset import VideoViews
from snvideo.engine.inference import Inference
from snvideo.models.grad_cam import grad_cam


class Explanation(NamedTuple):
    """Grad-CAM of one view of a video."""

    label: str
    probability: float
    """Of the view alone."""
    frames: Tensor
    """uint8 (T, 3, H, W), as the network saw them before they were normalized."""
    seconds: list[float]
    """Times of the frames in the video."""
    heat: Tensor
    """float32 (T, H, W), 0 or more, in logits (`snvideo.models.grad_cam`)."""


def explain_prediction(
    inference: Inference, views: VideoViews, scores: Tensor, seconds: list[list[float]]
) -> Explanation:
    """Explain the most probable class of a video, in the view that speaks most for it.

    Args:
        inference: that gave the scores.
        views: of the video.
        scores: probabilities (views, classes).
        seconds: times of each clip's frames.
    """
    label = int(scores.mean(0).argmax())
    view = int(scores[:, label].argmax())
    frames = views.expand(torch.device("cpu"))[view]
    heat = grad_cam(inference.network.model, inference.normalized(frames[None]), label).cpu()
    times = seconds[view // len(views.corners)]
    return Explanation(
        inference.network.classes[label], float(scores[view, label]), frames, times, heat
    )
