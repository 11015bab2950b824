"""Explanations of predictions: where in the frames that it saw a network finds a class."""

from typing import NamedTuple

from torch import Tensor

from snvideo.data.dataset import VideoViews
from snvideo.engine.evaluate import view_input
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
    clip, crop = divmod(view, len(views.corners))
    shown = views._replace(clips=views.clips[[clip]], corners=[views.corners[crop]])
    frames = shown.expand(inference.device)
    network = inference.network
    heat = grad_cam(network.model, view_input(frames, inference.config, inference.speed), label)
    probability = float(scores[view, label])
    return Explanation(
        network.classes[label], probability, frames[0].cpu(), seconds[clip], heat.cpu()
    )
