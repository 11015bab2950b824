"""The pictures of a study. Each function gives a figure, or None where there is nothing to draw."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from snvideo.atomic import write_atomic
from snvideo.report.figures.accuracy import accuracy
from snvideo.report.figures.confusion import confusion
from snvideo.report.figures.curves import curves
from snvideo.report.figures.importance import importance_by_depth, importance_by_geometry
from snvideo.report.figures.style import STYLE
from snvideo.report.style import png, styled
from snvideo.study.runs import Run


@dataclass(frozen=True)
class Picture:
    """A figure of the study: its file's name, what it shows in words, and how it is drawn."""

    name: str
    caption: str
    draw: Callable[[list[Run]], Figure | None]


PICTURES = (
    Picture(
        "accuracy.png",
        "Video top-1 accuracy against clips per GPU, one line a norm. Bars are 95 % confidence "
        "intervals over seeds (Student t).",
        accuracy,
    ),
    Picture(
        "importance_by_geometry.png",
        "Importance ratios that SN has learned, averaged over its layers (and seeds), for every "
        "batch geometry; after the figure of the SN paper (arXiv 1806.10779).",
        importance_by_geometry,
    ),
    Picture(
        "importance_by_depth.png",
        "Importance ratios that SN has learned in every layer, from the input to the output, "
        "averaged over seeds.",
        importance_by_depth,
    ),
    Picture(
        "curves.png",
        "Training loss, and top-1 accuracy of the validation (centre clip, centre crop).",
        curves,
    ),
    Picture(
        "confusion.png",
        "Confusion matrix of the SN run with the highest video top-1 (of the best run, if none is "
        "SN): the share of each true class's videos that is predicted as each class.",
        confusion,
    ),
)


def save_figures(runs: list[Run], folder: Path) -> dict[str, Path]:
    """Draw all that can be drawn into a folder, and remove what can not be drawn any more.

    Returns:
        caption -> PNG file.
    """
    saved = {}
    with styled(STYLE):
        for picture in PICTURES:
            path = folder / picture.name
            figure = picture.draw(runs)
            if figure is None:
                path.unlink(missing_ok=True)
                continue
            write_atomic(path, png(figure))
            saved[picture.caption] = path
    return saved
