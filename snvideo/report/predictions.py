"""Predictions for people and programs: on a terminal, through a pipe, as CSV, JSON and PNG."""

from __future__ import annotations

import csv
import io
import json
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.text import Text

from snvideo.atomic import write_atomic
from snvideo.data.image_sequences import without_pattern
from snvideo.engine.predict import Prediction
from snvideo.errors import SnvideoError
from snvideo.extras import require
from snvideo.report.console import progress
from snvideo.text import shorten

COLUMNS = ("video", "rank", "class", "probability", "reason", "remark")


def print_predictions(
    predictions: Iterable[Prediction], total: int, pictures: Sequence[Pictures] = ()
) -> list[Prediction]:
    """Print predictions as they come, `total` of them, and write their pictures.

    They go to the standard output: a table on a terminal, else lines of tab-separated values. A
    progress bar and a last line with their number go to the standard error.

    Returns:
        all of them, without their frames and explanations.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # names are of any script, terminals are not
    on_terminal, begun = sys.stdout.isatty(), time.monotonic()
    console = Console(stderr=not on_terminal, highlight=False)
    printed: list[Prediction] = []
    hidden = total < 2 or not console.is_terminal
    with progress(console, transient=True, disable=hidden) as update:
        update("predicting", 0, total)
        for prediction in predictions:
            for one in pictures if prediction.classes else ():
                one.write(prediction)
            # Without what would fill the memory.
            printed.append(prediction._replace(frames=None, explanation=None))
            if on_terminal:
                console.print(prediction_text(prediction), soft_wrap=True)
            else:
                print(*prediction_tsv(prediction), sep="\n", flush=True)
            update("predicting", len(printed), total)
    lost = sum(not prediction.classes for prediction in printed)
    unread = f", {lost} could not be read" if lost else ""
    plural, seconds = "s" if len(printed) != 1 else "", time.monotonic() - begun
    print(f"{len(printed)} video{plural} in {seconds:.1f} s{unread}", file=sys.stderr)
    return printed


def prediction_text(prediction: Prediction) -> Text:
    """A video's name, and a line with a bar for each class."""
    text = Text(one_line(str(prediction.video)), "bold")
    if prediction.remark:
        text.append(f"  ({prediction.remark})", "not bold yellow")
    if not prediction.classes:
        text.append(f"\n  {one_line(prediction.reason)}", "not bold red")
    answers = zip(prediction.classes, prediction.probabilities, strict=True)
    for rank, (label, probability) in enumerate(answers):
        style = "not bold dim" if rank else "not bold"
        text.append(f"\n  {100 * probability:5.1f} %  ", style)
        text.append(probability_bar(probability), "not bold blue")
        text.append(f"  {one_line(label)}", style)
    return text.append("\n")


def probability_bar(probability: float) -> str:
    """A bar of 20 characters for a probability."""
    return f"{'━' * round(20 * probability):─<20}"


def prediction_tsv(prediction: Prediction) -> list[str]:
    """Tab-separated lines: video, rank from 1, probability, class; or video and reason."""
    name = one_line(str(prediction.video))
    if not prediction.classes:
        return [f"{name}\tunreadable: {one_line(prediction.reason)}"]
    answers = zip(prediction.classes, prediction.probabilities, strict=True)
    return [
        f"{name}\t{rank}\t{probability:.4f}\t{one_line(label)}"
        for rank, (label, probability) in enumerate(answers, 1)
    ]


def one_line(text: str) -> str:
    """Text in one line, without unprintable characters."""
    return shorten(text, len(text) + 1)


class SheetFolder:
    """A directory of pictures named after their videos.

    Args:
        folder: made if it is missing.
        what: is drawn, in the plural.

    Raises:
        SnvideoError: if the directory cannot be made, or, by `write`, a file.
    """

    def __init__(self, folder: Path, what: str) -> None:
        require("report", what)
        self._folder = folder
        self._taken: Counter[str] = Counter()
        with explained(folder):
            folder.mkdir(parents=True, exist_ok=True)

    def write(self, video: str, png: bytes, mp4: bytes | None = None) -> None:
        """Write the PNG of a video by its name, numbered if there was one of that name before, and
        an MP4 beside it."""
        name = shorten(video, 50)  # at most 200 bytes in any script
        self._taken[name] += 1
        if (number := self._taken[name]) > 1:
            name = f"{name} ({number})"
        for suffix, content in (("png", png), ("mp4", mp4)):
            path = self._folder / f"{name}.{suffix}"
            if content is not None:
                with explained(path):
                    write_atomic(path, content)


class Pictures(Protocol):
    """Pictures of predictions in a directory."""

    def write(self, prediction: Prediction) -> None:
        """Write those of one prediction, which has classes."""


class ContactSheets:
    """Contact sheets in a directory: frames and prediction of each video; see `SheetFolder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = SheetFolder(folder, "contact sheets")

    def write(self, prediction: Prediction) -> None:
        """Write the contact sheet of a prediction that holds frames."""
        from snvideo.report.contact_sheet import prediction_sheet

        assert prediction.frames is not None
        video, classes, probabilities, *_ = prediction
        content = prediction_sheet(*prediction.frames, str(video), classes, probabilities)
        self._folder.write(without_pattern(str(video)).name, content)


class Explanations:
    """Grad-CAM of each video in a directory, as a strip and as an MP4; see `SheetFolder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = SheetFolder(folder, "explanations")

    def write(self, prediction: Prediction) -> None:
        """Write the pictures of a prediction that holds an explanation."""
        from snvideo.report.explanation import explanation_strip, explanation_video

        assert prediction.explanation is not None
        strip = explanation_strip(prediction.explanation, str(prediction.video))
        video = explanation_video(prediction.explanation)
        self._folder.write(without_pattern(str(prediction.video)).name, strip, video)


def check_output(path: Path, option: str = "out") -> None:
    """Check a file of results before the work, and make its folder.

    Raises:
        SnvideoError: if the suffix is unknown, or the folder cannot be made.
    """
    if path.suffix.lower() not in (".csv", ".json") or path.is_dir():
        raise SnvideoError(f"{option} {path}: call it something.csv or something.json")
    with explained(f"{option} {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)


def write_predictions(path: Path, predictions: Iterable[Prediction]) -> None:
    """Write a .csv, a row for each video and rank, or a .json, an object for each video.

    Raises:
        SnvideoError: if it cannot be written.
    """
    rows, objects = [COLUMNS], []
    for video, classes, probabilities, reason, remark, *_ in predictions:
        top = list(zip(classes, probabilities, strict=True))
        best = [{"class": label, "probability": round(value, 6)} for label, value in top]
        objects.append({"video": str(video), "top": best, "reason": reason, "remark": remark})
        cells = [(str(k), label, f"{value:.6f}") for k, (label, value) in enumerate(top, 1)]
        rows += [(str(video), *cell, reason, remark) for cell in cells or [("", "", "")]]
    table = io.StringIO()
    if path.suffix.lower() == ".json":
        table.write(json.dumps(objects, indent=1) + "\n")  # ASCII: names may be no UTF-8
    else:
        csv.writer(table, lineterminator="\n").writerows(rows)
    with explained(f"out {path}"):
        write_atomic(path, table.getvalue().encode("utf-8", "surrogateescape"))


@contextmanager
def explained(path: Path | str) -> Iterator[None]:
    """Failures to write, in one line."""
    try:
        yield
    except OSError as error:
        raise SnvideoError(f"{path}: cannot be written: {error.strerror}") from None
