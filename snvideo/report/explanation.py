"""Explanations as pictures: frames, and the same frames under Grad-CAM."""

import io
from fractions import Fraction

import av
import matplotlib
import numpy as np
import torch
from torch import Tensor

from snvideo.engine.explanation import Explanation
from snvideo.report.contact_sheet import draw_strip
from snvideo.report.style import new_figure, png, styled
from snvideo.text import shorten

FRAMES = 8
"""Most frames of a strip."""
_OPACITY = 0.65  # of the greatest heat; where there is none the frame shows as it is
_SIDE = 224  # smallest height of a video, in pixels


def explanation_strip(explanation: Explanation, name: str) -> bytes:
    """A PNG of at most 8 frames of a clip, and below them the same in grey under the heat."""
    label, probability, frames, seconds, heat = explanation
    shown = np.linspace(0, len(frames) - 1, min(FRAMES, len(frames))).round().astype(int).tolist()
    with styled():
        height = 8.5 / len(shown) * frames.shape[2] / frames.shape[3]
        figure = new_figure(1.2 + 2 * height, shorten(name, 70))
        above, below = figure.subplots(2)
        draw_strip(above, frames[shown], [""] * len(shown))
        above.set_title(f"{shorten(label, 60)}, {100 * probability:.1f} % in this view")
        draw_strip(below, overlay(explanation)[shown], [f"{seconds[k]:.2f} s" for k in shown])
        below.set_title(_legend(heat))
        return png(figure)


def explanation_video(explanation: Explanation) -> bytes:
    """An MP4 in the time of the clip: frames on the left, in grey under the heat on the right."""
    _, _, frames, seconds, _ = explanation
    pairs = torch.cat([frames, overlay(explanation)], 3)
    scale = max(1, round(_SIDE / frames.shape[2]))
    pairs = pairs.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    pairs = pairs[:, :, : pairs.shape[2] // 2 * 2, : pairs.shape[3] // 2 * 2]  # 4:2:0 has pairs
    lasts = seconds[-1] - seconds[0]
    rate = Fraction((len(seconds) - 1) / lasts if lasts > 0 else 1).limit_denominator(1000)
    content = io.BytesIO()
    with av.open(content, "w", format="mp4") as file:
        stream = file.add_stream("libx264", rate=rate)
        stream.height, stream.width = pairs.shape[2:]
        stream.pix_fmt = "yuv420p"
        for frame in pairs.permute(0, 2, 3, 1).contiguous().numpy():
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode())
    return content.getvalue()


def overlay(explanation: Explanation) -> Tensor:
    """Frames in grey with the heat over them, uint8 (T, 3, H, W): the warmer, the more opaque."""
    greatest = explanation.heat.max()
    heat = explanation.heat / greatest if greatest > 0 else explanation.heat
    colours = matplotlib.colormaps["inferno"](heat.numpy())[..., :3]
    warm = torch.from_numpy(255 * colours).permute(0, 3, 1, 2)
    opacity = _OPACITY * heat[:, None]
    grey = explanation.frames.float().mean(1, keepdim=True)
    return (grey * (1 - opacity) + warm * opacity).round().to(torch.uint8)


def _legend(heat: Tensor) -> str:
    if not heat.max() > 0:
        return "Grad-CAM: nothing speaks for this class"
    return "Grad-CAM: bright where the class is found, as far as the last block tells"
