"""Figures of a study, with captions, and alternative texts made from the numbers."""

from pathlib import Path
from typing import NamedTuple

from snvideo.atomic import write_atomic
from snvideo.report.figures.accuracy import accuracy
from snvideo.report.figures.confusion import confusion
from snvideo.report.figures.curves import curves
from snvideo.report.figures.importance import importance_by_depth, importance_by_geometry
from snvideo.report.style import png, styled
from snvideo.study.runs import StudyRun

FIGURES = {  # name of the file: (drawing function, caption)
    "accuracy.png": (
        accuracy,
        "Video accuracy against clips per GPU, one line a norm. Bars are 95 % confidence "
        "intervals over seeds (Student t).",
    ),
    "importance_by_geometry.png": (
        importance_by_geometry,
        "Importance ratios that SN has learned, averaged over its layers, against clips per GPU: "
        "mean over seeds, bars from the lowest to the highest seed. A part that SN does not mix is "
        "not drawn, as that of the batch with one clip per GPU. "
        "After the figure of the SN paper (arXiv 1806.10779).",
    ),
    "importance_by_depth.png": (
        importance_by_depth,
        "Importance ratios that SN has learned in every layer, from the input to the output: "
        "mean over seeds, bands from the lowest to the highest seed.",
    ),
    "curves.png": (
        curves,
        "Training loss, and accuracy of the validation (centre clip, centre crop).",
    ),
    "confusion.png": (
        confusion,
        "Confusion matrix of the SN run with the highest video top-1 (of the best run, if none is "
        "SN): the share of each true class's videos that is predicted as each class.",
    ),
}


class SavedFigure(NamedTuple):
    """A PNG file, its caption, and the numbers in words for readers who do not see it."""

    path: Path
    content: bytes
    caption: str
    alt: str


def save_figures(
    runs: list[StudyRun], folder: Path, single_frame: float | None = None
) -> list[SavedFigure]:
    """Draw all figures that have data into a folder, and remove those that have none any more.

    Args:
        runs: of the study.
        folder: to write to.
        single_frame: accuracy of a network of single frames, a level to compare with.
    """
    saved = []
    with styled():
        for name, (draw, caption) in FIGURES.items():
            path = folder / name
            drawn = accuracy(runs, single_frame) if draw is accuracy else draw(runs)
            if drawn is None:
                path.unlink(missing_ok=True)
                continue
            content = png(drawn.figure)
            write_atomic(path, content)
            saved.append(SavedFigure(path, content, f"{caption} {drawn.note}".rstrip(), drawn.alt))
    return saved
