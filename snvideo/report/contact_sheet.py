"""Contact sheets: the clips of a training batch, a video's test views, and a prediction."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from torch import Tensor

from snvideo.data.index import Video
from snvideo.data.sampling import Crop
from snvideo.report.style import BLUE, GREEN, MUTED, PALE, VERMILLION, new_figure, png, styled
from snvideo.text import shorten

CLIPS, FRAMES = 12, 8
"""Most clips of a sheet, and most frames of a clip."""
CROP_COLOURS = (VERMILLION, BLUE, GREEN)


def clip_sheet(clips: Tensor, titles: Sequence[str], numbers: Sequence[Sequence[int]]) -> bytes:
    """A PNG of clips, a row each, below its title: frames spread over the clip.

    Shows the first 12 clips and at most 8 frames of each, the first and the last among them.

    Args:
        clips: uint8 (N, T, 3, H, W).
        titles: of the N clips.
        numbers: frame numbers in the video, N of T each.
    """
    count, length, _, height, width = clips.shape
    shown = np.linspace(0, length - 1, min(length, FRAMES)).round().astype(int).tolist()
    title = f"{min(count, CLIPS)} of {count} clips, {len(shown)} of {length} frames each"
    with styled():
        rows = min(count, CLIPS) * (8.5 / len(shown) * height / width + 0.6)
        figure = new_figure(0.5 + rows, f"{title}, {width} x {height}")
        panels = figure.subplots(min(count, CLIPS), squeeze=False)[:, 0]
        for axes, clip, title, number in zip(panels, clips, titles, numbers, strict=False):
            draw_strip(axes, clip[shown], [str(number[frame]) for frame in shown])
            axes.set_title(shorten(title, 130))
        return png(figure)


def view_sheet(
    views: Tensor,
    numbers: np.ndarray,
    video: Video,
    label: str,
    crops: Sequence[Crop],
    frame: np.ndarray,
) -> bytes:
    """A PNG of all test views of a video: their places in time and frame, and their content.

    A column is a clip and a row a crop; of each view it shows the middle frame.

    Args:
        views: uint8 (clips * crops, T, 3, H, W), all crops of the first clip first.
        numbers: int64 (clips, T), frame numbers in the video.
        video: its name, frames and rate.
        label: name of its label.
        crops: squares of the whole frame, in its pixels.
        frame: uint8 (height, width, 3), a whole frame to draw the crops on.
    """
    clips, length = numbers.shape
    seconds, middle = numbers / video.fps, length // 2
    titles = [f"{k + 1}: {second:.2f} s" for k, second in enumerate(seconds[:, middle])]
    with styled():
        heights = [3.0] + [8.5 / clips * views.shape[-2] / views.shape[-1] + 0.4] * len(crops)
        title = f"{shorten(label, 30)}: {shorten(video.name, 50)}"
        figure = new_figure(0.5 + sum(heights), title)
        grid = figure.add_gridspec(len(heights), 2, width_ratios=(1, 2), height_ratios=heights)
        whole, times = (figure.add_subplot(grid[0, column]) for column in (0, 1))
        whole.imshow(frame)
        whole.set_axis_off()
        times.eventplot(list(seconds), lineoffsets=range(1, clips + 1), linelengths=0.7, color=BLUE)
        times.plot(seconds[:, middle], range(1, clips + 1), "|", color=VERMILLION, markersize=12)
        times.set(xlim=(0, video.frames / video.fps), xlabel="seconds", ylabel="clip")
        times.set_title(f"{video.frames} frames at {video.fps:.5g} fps; orange: frames shown")
        times.invert_yaxis()
        size = f"{views.shape[-1]} x {views.shape[-2]}"
        figure.supxlabel(f"{clips} clips of {length} frames, {len(crops)} crops of {size}")
        for number, (top, left, side) in enumerate(crops):
            colour = CROP_COLOURS[number % len(CROP_COLOURS)]
            square = Rectangle((left, top), side, side, fill=False, edgecolor=colour, linewidth=2)
            whole.add_patch(square)
            axes = figure.add_subplot(grid[number + 1, :])
            draw_strip(axes, views[number :: len(crops), middle], titles)
            axes.set_ylabel(f"crop {number + 1}", color=colour)
        return png(figure)


def prediction_sheet(
    frames: Tensor,
    seconds: Sequence[float],
    name: str,
    classes: Sequence[str],
    probabilities: Sequence[float],
) -> bytes:
    """A PNG of at most 8 frames, spread over the time of those given, and of classes, best first.

    Frames are uint8 (F, 3, H, W), with F ascending presentation times in seconds.
    """
    times = np.linspace(seconds[0], seconds[-1], FRAMES)
    shown = np.unique(np.abs(np.asarray(seconds)[:, None] - times).argmin(0)).tolist()
    with styled():
        height = min(5, 8.5 / len(shown) * frames.shape[2] / frames.shape[3])
        heights = [height + 0.4, 0.4 + 0.25 * len(classes)]
        figure = new_figure(0.5 + sum(heights), shorten(name, 70))
        above, below = figure.subplots(2, height_ratios=heights)
        draw_strip(above, frames[shown], [f"{seconds[k]:.2f} s" for k in shown])
        bars = below.barh(range(len(classes)), probabilities, color=PALE)
        below.bar_label(bars, [f"{100 * value:.1f} %" for value in probabilities], padding=3)
        below.set_yticks(range(len(classes)), [shorten(label, 40) for label in classes])
        below.invert_yaxis()
        below.set_xlim(0, 1.1)
        below.grid(False)
        return png(figure)


def draw_strip(axes: Axes, frames: Tensor, titles: Sequence[str]) -> None:
    """Draw frames, uint8 (F, 3, H, W), beside each other, and a title below each."""
    _, _, height, width = frames.shape
    gap = max(1, width // 25)
    strip = np.full((height, len(frames) * (width + gap), 3), 255, np.uint8)
    for number, frame in enumerate(frames.permute(0, 2, 3, 1).cpu().numpy()):
        left = number * (width + gap)
        strip[:, left : left + width] = frame
    axes.imshow(strip)
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    middles = (np.arange(len(frames)) * (width + gap) + width / 2).tolist()
    axes.set_xticks(middles, titles, color=MUTED, fontsize=8)
    axes.set_yticks([])
    axes.tick_params(length=0)
