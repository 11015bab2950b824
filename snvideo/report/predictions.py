"""Predictions for people and programs: on a terminal, through a pipe, as CSV and as JSON."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from snvideo.atomic import write_atomic
from snvideo.engine.predictor import Prediction
from snvideo.errors import SnvideoError
from snvideo.text import shorten

COLUMNS = ("video", "rank", "class", "probability", "reason", "remark")
_BAR = 20
"""Characters of a probability of 1."""


def show(predictions: Iterable[Prediction], total: int) -> list[Prediction]:
    """Print predictions as they come, with progress if somebody is looking; then how it went.

    Answers go to the standard output: a table for eyes on a terminal, else lines of tab-separated
    values. All else goes to the standard error.

    Args:
        predictions: as `predict` yields them.
        total: how many there will be.

    Returns:
        all of them.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # names are of any script, terminals are not
    on_terminal, begun = sys.stdout.isatty(), time.monotonic()
    console = Console(stderr=not on_terminal, highlight=False)
    columns = (
        TextColumn("predicting"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    hidden = total < 2 or not console.is_terminal
    shown: list[Prediction] = []
    with Progress(*columns, console=console, transient=True, disable=hidden) as progress:
        task = progress.add_task("", total=total)
        for prediction in predictions:
            shown.append(prediction)
            if on_terminal:
                console.print(for_eyes(prediction), soft_wrap=True)
            else:
                print(*for_programs(prediction), sep="\n", flush=True)
            progress.advance(task)
    print(_summary(shown, time.monotonic() - begun), file=sys.stderr)
    return shown


def for_eyes(prediction: Prediction) -> Text:
    """A video's name, and beneath it a line a class with a bar."""
    text = Text(_line(str(prediction.video)), "bold")
    if prediction.remark:
        text.append(f"  ({prediction.remark})", "not bold yellow")
    if not prediction.classes:
        text.append(f"\n  {_line(prediction.reason)}", "not bold red")
    answers = zip(prediction.classes, prediction.probabilities, strict=True)
    for rank, (label, probability) in enumerate(answers):
        filled = round(_BAR * probability)
        style = "not bold dim" if rank else "not bold"
        text.append(f"\n  {100 * probability:5.1f} %  ", style)
        text.append("━" * filled, "not bold blue")
        text.append("─" * (_BAR - filled), "not bold dim")
        text.append(f"  {_line(label)}", style)
    return text.append("\n")


def for_programs(prediction: Prediction) -> list[str]:
    """A line a class: video, rank from 1, probability, class; or the video and why it has none."""
    name = _line(str(prediction.video))
    if not prediction.classes:
        return [f"{name}\tunreadable: {_line(prediction.reason)}"]
    answers = zip(prediction.classes, prediction.probabilities, strict=True)
    return [
        f"{name}\t{rank}\t{probability:.4f}\t{_line(label)}"
        for rank, (label, probability) in enumerate(answers, 1)
    ]


def check_out(path: Path) -> None:
    """Find out before the work whether its results can be written.

    Raises:
        SnvideoError: if the name is of another kind, or the place cannot be written to.
    """
    if path.suffix.lower() not in (".csv", ".json"):
        raise SnvideoError(f"out {path}: call it something.csv or something.json")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SnvideoError(f"out {path}: cannot be written: {error.strerror}") from None
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise SnvideoError(f"out {path}: cannot be written there: choose another place")


def write(path: Path, predictions: Iterable[Prediction]) -> None:
    """Write a .csv, a row for each video and rank, or a .json, an object for each video.

    Raises:
        SnvideoError: if it cannot be written.
    """
    as_text = _json if path.suffix.lower() == ".json" else _csv
    try:
        write_atomic(path, as_text(predictions).encode("utf-8", "surrogateescape"))
    except OSError as error:
        raise SnvideoError(f"out {path}: cannot be written: {error.strerror}") from None


def _csv(predictions: Iterable[Prediction]) -> str:
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(COLUMNS)
    for video, classes, probabilities, reason, remark in predictions:
        if not classes:
            writer.writerow((video, "", "", "", reason, remark))
        for rank, (label, probability) in enumerate(zip(classes, probabilities, strict=True), 1):
            writer.writerow((video, rank, label, f"{probability:.6f}", reason, remark))
    return table.getvalue()


def _json(predictions: Iterable[Prediction]) -> str:
    values = [
        {
            "video": str(video),
            "top": [
                {"class": label, "probability": round(probability, 6)}
                for label, probability in zip(classes, probabilities, strict=True)
            ],
            "reason": reason,
            "remark": remark,
        }
        for video, classes, probabilities, reason, remark in predictions
    ]
    return json.dumps(values, indent=1) + "\n"  # ASCII: names may be bytes that are no UTF-8


def _line(text: str) -> str:
    """Text in one line, without what cannot be printed."""
    return shorten(text, len(text) + 1)


def _summary(shown: list[Prediction], seconds: float) -> str:
    lost = sum(not prediction.classes for prediction in shown)
    unread = f", {lost} could not be read" if lost else ""
    plural = "s" if len(shown) != 1 else ""
    return f"{len(shown)} video{plural} in {seconds:.1f} s{unread}"
