"""Plans of windows, and the frames of a clip in each, from times alone."""

from fractions import Fraction

import numpy as np
import pytest

from snvideo.data import sampling
from snvideo.data.config import ClipConfig
from snvideo.data.windows import plan_windows, window_frames
from snvideo.errors import SnvideoError


@pytest.mark.parametrize(
    ("window", "step", "last", "expected"),
    [
        (2, 1, Fraction(124, 25), [(0, 2), (1, 3), (2, 4), (3, 5)]),  # 5 s at 25 fps
        (2, 1, Fraction(125, 25), [(0, 2), (1, 3), (2, 4), (3, 5), (4, 6)]),
        (2, 1, Fraction(0), [(0, 2)]),
        (2, 2, Fraction(2), [(0, 2), (2, 4)]),
        (1, 3, Fraction(5), [(0, 1), (3, 4)]),  # the last frame lies between two
        (0.3, 0.1, Fraction(1, 2), [(n / 10, n / 10 + 0.3) for n in range(4)]),
    ],
)
def test_windows_go_on_until_one_holds_the_last_frame(window, step, last, expected):
    planned = list(plan_windows(window, step, last))
    np.testing.assert_allclose(np.array(planned, float), expected)
    endless = plan_windows(window, step)
    assert [next(endless) for _ in planned] == planned


@pytest.mark.parametrize("bad", [0, -1, float("nan"), float("inf"), 1e-9])
def test_lengths_are_positive_numbers(bad):
    with pytest.raises(SnvideoError, match="window is"):
        plan_windows(bad, 1)
    with pytest.raises(SnvideoError, match="step is"):
        plan_windows(1, bad)


@pytest.mark.parametrize("fps", [Fraction(25), Fraction(30000, 1001), Fraction(15, 2)])
@pytest.mark.parametrize("target", [None, 10.0])
@pytest.mark.parametrize("tick", [None, 1000])
def test_even_frames_are_those_of_a_clip_of_as_many(fps, target, tick):
    """Also where a container rounds times to milliseconds, and far into a video."""
    clip = ClipConfig(frames=4, stride=3, target_fps=target)
    times = [k / fps for k in range(100_000, 100_060)]
    if tick:
        times = [Fraction(round(time * tick), tick) for time in times]
    places, found = window_frames(times, clip, 3, [float(fps)])
    starts = sampling.even_starts(3, sampling.last_start(clip, found, 60))
    expected = np.stack([sampling.clip_frames(clip, found, 60, start) for start in starts])
    np.testing.assert_array_equal(places, expected)
    assert found == round(float(fps), 4)


def test_frames_at_uneven_times_are_chosen_by_time():
    # 1 s at 10 fps, then 1 s at 5; 4 frames of 0.5 s from one to the next.
    times = [Fraction(k, 10) for k in range(10)] + [1 + Fraction(k, 5) for k in range(5)]
    clip = ClipConfig(frames=4, stride=5, target_fps=10)
    ((first, second, third, fourth),), fps = window_frames(times, clip, 1, [10.0])
    assert fps == 10.0
    gaps = np.diff([float(times[place]) for place in (first, second, third, fourth)])
    assert abs(gaps - 0.5).max() <= 0.2 + 1e-9  # the slower frames are shown for 0.2 s
    counted, _ = window_frames([Fraction(k, 10) for k in range(15)], clip, 1, [10.0])
    assert counted.tolist() == [[0, 5, 10, 14]] and fourth - third < 5


def test_a_gap_shows_the_frame_before_it():
    times = [Fraction(k, 10) for k in (0, 1, 2, 3, 17, 18, 19)]
    places, _ = window_frames(times, ClipConfig(frames=5, stride=4), 1, [10.0])
    assert places.tolist() == [[2, 3, 3, 3, 5]]


def test_one_frame_is_repeated():
    places, _ = window_frames([Fraction(7)], ClipConfig(frames=4, stride=8), 2, [])
    assert places.tolist() == [[0] * 4] * 2
