"""Timelines for people and programs: printed as they come, as CSV and JSON, and drawn."""

from __future__ import annotations

import csv
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from snvideo.atomic import atomic_path
from snvideo.data.remote import Place
from snvideo.engine.events import Event, find_events, smooth_windows
from snvideo.engine.timeline import TimelinePredictor, WindowPrediction
from snvideo.report.predictions import SheetFolder, explained, one_line, probability_bar

WINDOW_COLUMNS = (
    *("video", "start", "end", "frames"),
    *("rank", "class", "probability", "reason", "remark"),
)
EVENT_COLUMNS = ("video", "start", "end", "class", "score", "windows")

Rows = Sequence[Sequence[str]]
Write = Callable[[Rows, dict[str, Any]], None]
"""Takes the rows of a CSV that one object of a JSON file stands for, and that object."""


class TimelineOutput:
    """Files and pictures that timelines go to, beside the standard output.

    Args:
        out: a .csv, a row for each window and rank, or a .json, an object for each window.
        events: a .csv, a row for each event, or a .json, an object for each.
        pictures: folder for a PNG of each video.
        smooth: seconds that windows are averaged over for events and pictures.
        threshold: least smoothed probability in an event.
    """

    def __init__(
        self,
        out: Path | None = None,
        events: Path | None = None,
        pictures: Path | None = None,
        smooth: float = 0.0,
        threshold: float = 0.5,
    ) -> None:
        self.out, self.events, self.smooth, self.threshold = out, events, smooth, threshold
        self.pictures = None if pictures is None else SheetFolder(pictures, "pictures of timelines")
        # Their errors are to come before the work.
        smooth_windows((), 1.0, 1.0, smooth)
        find_events((), (), threshold)


def print_timelines(
    predictor: TimelinePredictor, videos: Iterable[Place | str], output: TimelineOutput
) -> bool:
    """Print the windows of videos as they are predicted, and write what `output` asks for.

    They go to the standard output: the best class of each on a terminal, else lines of
    tab-separated values. A last line with their number goes to the standard error.

    Returns:
        true if every video has an answer for one window at least.

    Raises:
        SnvideoError: if a file cannot be written, or the device has too little memory.
    """
    begun, unread = time.monotonic(), 0
    printer = _Printer()
    with ExitStack() as files:
        write_window = write_event = None
        if output.out is not None:
            write_window = files.enter_context(rows_file(output.out, WINDOW_COLUMNS))
        if output.events is not None:
            write_event = files.enter_context(rows_file(output.events, EVENT_COLUMNS))
        for video in videos:
            answered = printer.answered
            windows = _each(predictor.predict(video), printer.show, write_window, window_rows)
            _follow(predictor, str(video), windows, output, write_event)
            unread += printer.answered == answered
    lost = printer.windows - printer.answered
    parts = [f"{printer.windows} window{'s' * (printer.windows != 1)}"]
    parts += [f"{lost} without an answer"] * bool(lost)
    parts += [f"{printer.remarks} with a remark"] * bool(printer.remarks)
    print(f"{', '.join(parts)}, in {time.monotonic() - begun:.1f} s", file=sys.stderr)
    return not unread


def _follow(
    predictor: TimelinePredictor,
    video: str,
    windows: Iterable[WindowPrediction],
    output: TimelineOutput,
    write_event: Write | None,
) -> None:
    """Go through the windows of a video, write its events and draw it."""
    cells = smooth_windows(
        (one for one in windows if one.end), predictor.window, predictor.step, output.smooth
    )
    picture = None
    if output.pictures is not None:
        from snvideo.report.timeline_figure import TimelinePicture

        picture = TimelinePicture(video, predictor.classes, output.threshold, output.smooth)
        cells = _each(cells, picture.add)
    for event in find_events(cells, predictor.classes, output.threshold):
        if write_event is not None:
            write_event(*event_rows(event))
        if picture is not None:
            picture.add_event(event)
    if output.pictures is not None and picture is not None and picture.has_content:
        output.pictures.write(Path(video).name, picture.png())


def _each(
    items: Iterable[Any],
    see: Callable[[Any], None],
    write: Write | None = None,
    rows: Callable[[Any], tuple[Rows, dict[str, Any]]] | None = None,
) -> Iterator[Any]:
    """Items as they come, each seen and written first."""
    for item in items:
        see(item)
        if write is not None and rows is not None:
            write(*rows(item))
        yield item


class _Printer:
    """Prints windows and counts them."""

    def __init__(self) -> None:
        self.windows = self.answered = self.remarks = 0
        self._video: str | None = None
        self._console = Console(highlight=False) if sys.stdout.isatty() else None

    def show(self, window: WindowPrediction) -> None:
        """Print one window."""
        self.windows += window.end > 0
        self.answered += bool(window.classes)
        self.remarks += bool(window.remark)
        if self._console is None:
            print(*window_tsv(window), sep="\n", flush=True)
            return
        if window.video != self._video:
            self._console.print(Text(one_line(window.video), "bold"), soft_wrap=True)
            self._video = window.video
        self._console.print(window_text(window), soft_wrap=True)


def clock(seconds: float) -> str:
    """Seconds as hours, minutes and seconds, `0:01:02.50`."""
    minutes, rest = divmod(round(100 * seconds), 6000)
    return f"{minutes // 60}:{minutes % 60:02}:{rest / 100:05.2f}"


def window_text(window: WindowPrediction) -> Text:
    """A line: time, probability, bar and class; or time and reason."""
    text = Text(f"  {clock(window.start)} - {clock(window.end)}  " if window.end else "  ")
    if not window.classes:
        text.append(one_line(window.reason), "red")
    else:
        probability = window.probabilities[0]
        text.append(f"{100 * probability:5.1f} %  ").append(probability_bar(probability), "blue")
        text.append(f"  {one_line(window.classes[0])}")
    if window.remark:
        text.append(f"  ({one_line(window.remark)})", "yellow")
    return text


def window_tsv(window: WindowPrediction) -> list[str]:
    """Tab-separated lines: video, start, end, rank from 1, probability, class; or video and reason,
    with start and end if there are any."""
    name = one_line(window.video)
    place = f"{name}\t{window.start:.3f}\t{window.end:.3f}" if window.end else name
    if not window.classes:
        what = "no answer" if window.end else "unreadable"
        return [f"{place}\t{what}: {one_line(window.reason)}"]
    answers = zip(window.classes, window.probabilities, strict=True)
    return [
        f"{place}\t{rank}\t{probability:.4f}\t{one_line(label)}"
        for rank, (label, probability) in enumerate(answers, 1)
    ]


@contextmanager
def rows_file(path: Path, columns: Sequence[str]) -> Iterator[Write]:
    """A .csv or .json that is written while its content comes, and is there when all is done.

    Raises:
        SnvideoError: if it cannot be written.
    """
    with (
        explained(path),
        atomic_path(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        if path.suffix.lower() != ".json":
            table = csv.writer(file, lineterminator="\n")
            table.writerow(columns)
            yield lambda rows, _: table.writerows(rows)
            return
        between = "[\n"

        def write(_: Rows, content: dict[str, Any]) -> None:
            nonlocal between
            file.write(between + json.dumps(content))  # ASCII: names may be no UTF-8
            between = ",\n"

        yield write
        file.write("[]\n" if between == "[\n" else "\n]\n")


def window_rows(window: WindowPrediction) -> tuple[Rows, dict[str, Any]]:
    """Rows and object of a window."""
    top = list(zip(window.classes, window.probabilities, strict=True))
    start, end = (round(seconds, 6) for seconds in (window.start, window.end))
    content = {
        **{"video": window.video, "start": start, "end": end, "frames": window.frames},
        "top": [{"class": label, "probability": round(value, 6)} for label, value in top],
        **{"reason": window.reason, "remark": window.remark},
    }
    place = (window.video, f"{start:.3f}", f"{end:.3f}", str(window.frames))
    cells = [(str(rank), label, f"{value:.6f}") for rank, (label, value) in enumerate(top, 1)]
    rows = [(*place, *cell, window.reason, window.remark) for cell in cells or [("", "", "")]]
    return rows, content


def event_rows(event: Event) -> tuple[Rows, dict[str, Any]]:
    """Row and object of an event."""
    start, end, score = (round(value, 6) for value in (event.start, event.end, event.score))
    row = (event.video, f"{start:.3f}", f"{end:.3f}", event.label, f"{score:.6f}")
    values = (event.video, start, end, event.label, score, event.windows)
    return [(*row, str(event.windows))], dict(zip(EVENT_COLUMNS, values, strict=True))
