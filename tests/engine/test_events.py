"""Smoothing of windows and events, on hand-made scores."""

import itertools

import pytest
import torch

from snvideo.engine.events import Event, find_events, smooth_windows
from snvideo.engine.timeline import WindowPrediction
from snvideo.report.timeline_figure import COLUMNS, TimelinePicture


def windows(scores: list[float | None], window: float = 2, step: float = 1, end: float = 0):
    """Windows with a score of the first of two classes, the last one cut at `end`."""
    spans = [(k * step, k * step + window) for k in range(len(scores))]
    spans[-1] = (spans[-1][0], end or spans[-1][1])
    return [
        WindowPrediction(
            "v", *span, scores=None if score is None else torch.tensor([score, 1 - score])
        )
        for span, score in zip(spans, scores, strict=True)
    ]


def smoothed(scores, seconds, window=2.0, step=1.0, end=0):
    return list(smooth_windows(windows(scores, window, step, end), window, step, seconds))


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, [0.9, 0.3, 0.6, 0.0]),
        (1.9, [0.9, 0.3, 0.6, 0.0]),
        (2, [0.6, 0.6, 0.3, 0.3]),
        (100, [0.45] * 4),
    ],
)
def test_windows_are_averaged_with_their_neighbours(seconds, expected):
    found = smoothed([0.9, 0.3, 0.6, 0.0], seconds)
    assert [one.scores[0].item() for one in found] == pytest.approx(expected)


def test_windows_without_an_answer_stay_so_and_count_for_nothing():
    found = smoothed([0.9, None, 0.5], 2)
    assert found[1].scores is None
    assert [found[k].scores[0].item() for k in (0, 2)] == pytest.approx([0.9, 0.5])


@pytest.mark.parametrize("seconds", [0, 2, 6])
@pytest.mark.parametrize(
    ("window", "step", "end", "expected"),
    [
        (2, 1, 4.6, [0, 1.5, 2.5, 3.5, 4.6]),
        (2, 2, 0, [0, 2, 4, 6, 8]),
        (3, 1, 0, [0, 2, 3, 4, 6]),
    ],
)
def test_each_moment_belongs_to_one_window(seconds, window, step, end, expected):
    found = smoothed([0.5] * 4, seconds, window, step, end)
    assert [found[0].start, *(one.end for one in found)] == pytest.approx(expected)
    assert all(a.end == pytest.approx(b.start) for a, b in itertools.pairwise(found))


def test_windows_apart_and_a_single_one_are_whole():
    spans = [(one.start, one.end) for one in smoothed([0.5] * 3, 0, window=1, step=3)]
    assert spans == [(0, 1), (3, 4), (6, 7)]
    assert [(one.start, one.end) for one in smoothed([0.5], 4, end=1.2)] == [(0, 1.2)]
    assert not list(smooth_windows([], 2, 1, 4))


def test_windows_in_a_row_make_an_event():
    found = smoothed([0.9, 0.7, 0.2, None, 0.8, 0.8, 0.1], 0)
    events = list(find_events(found, ["a", "b"], 0.5))
    expected = [("a", 0, 2.5, 0.8, 2), ("b", 2.5, 3.5, 0.8, 1), ("a", 4.5, 6.5, 0.8, 2)]
    expected.append(("b", 6.5, 8, 0.9, 1))
    assert [
        (e.label, e.start, e.end, pytest.approx(e.score), e.windows) for e in events
    ] == expected


def test_classes_can_be_seen_at_once_and_a_threshold_may_leave_none():
    both = windows([0.6, 0.6])
    both = [one._replace(scores=torch.tensor([0.6, 0.7])) for one in both]
    cells = list(smooth_windows(both, 2, 1, 0))
    assert [event.label for event in find_events(cells, ["a", "b"], 0.5)] == ["a", "b"]
    assert not list(find_events(cells, ["a", "b"], 0.8))


def test_a_picture_of_any_length_holds_as_much():
    picture = TimelinePicture("v", ("a", "b"), 0.5, 0.0)
    count = 2 * COLUMNS + 3
    for cell in smooth_windows(iter(windows([0.25, 0.75] * (count // 2) + [None])), 2, 1, 0):
        picture.add(cell)
    held = len(picture._starts)
    assert COLUMNS / 2 < held <= COLUMNS
    means = picture._sums[:held] / picture._answers[:held, None]
    assert means[: held - 1] == pytest.approx(0.5)
    assert picture._answers.sum() == count // 2 * 2
    picture.add_event(Event("v", 1.0, 2.0, "b", 0.9, 1))
    assert picture.png().startswith(b"\x89PNG")
