"""Which frames and which crops: ends included, nothing outside, nothing remembered."""

import numpy as np
import pytest

from snvideo.data import sampling
from snvideo.data.config import ClipConfig, TestViewConfig, TrainViewConfig


def test_draws_depend_on_their_place_alone():
    first = sampling.generator(3, sampling.TRAIN, 1, 7).random(4)
    sampling.generator(3, sampling.TRAIN, 1, 6).random(100)
    assert (sampling.generator(3, sampling.TRAIN, 1, 7).random(4) == first).all()
    others = [(4, sampling.TRAIN, 1, 7), (3, sampling.STATISTICS, 1, 7), (3, sampling.TRAIN, 2, 7)]
    assert all((sampling.generator(*place).random(4) != first).any() for place in others)


def test_an_epoch_visits_every_video_once():
    orders = [sampling.epoch_order(0, epoch, 100) for epoch in (0, 1)]
    assert all(sorted(order) == list(range(100)) for order in orders)
    assert (orders[0] != orders[1]).any()
    assert (sampling.epoch_order(0, 1, 100) == orders[1]).all()


def test_a_balanced_epoch_has_as_many_places_for_every_class():
    labels = np.repeat([0, 1, 3], [70, 25, 5])  # class 2 has no video
    orders = [sampling.balanced_order(0, epoch, labels) for epoch in range(20)]
    for order in orders:
        assert order.shape == (100,) and order.dtype == np.int64
        assert sorted(np.bincount(labels[order])) == [0, 33, 33, 34]
        visits = np.bincount(order, minlength=100)
        for label in (0, 1, 3):  # by turns
            assert np.ptp(visits[labels == label]) <= 1
    left_over = {int(np.bincount(labels[order]).argmax()) for order in orders}
    assert left_over == {0, 1, 3}
    assert (sampling.balanced_order(0, 1, labels) == orders[1]).all()
    assert (orders[0] != orders[1]).any()
    assert len(sampling.balanced_order(0, 0, np.array([4]))) == 1
    # more classes than places for each
    assert sorted(sampling.balanced_order(0, 0, np.arange(3))) == [0, 1, 2]


def test_clip_frames_step_by_the_stride_and_fit():
    clip = ClipConfig(frames=8, stride=4)
    latest = sampling.last_start(clip, fps=30, frames=50)
    assert latest == 50 - 1 - 28
    frames = sampling.clip_frames(clip, 30, 50, latest)
    assert list(frames) == list(range(21, 50, 4))


@pytest.mark.parametrize("fps", [12, 15, 25, 30, 60])
def test_target_rate_gives_equal_time_at_any_rate(fps):
    clip = ClipConfig(frames=8, stride=4, target_fps=15)
    seconds = sampling.clip_frames(clip, fps, 10 * fps, 0.0) / fps
    np.testing.assert_allclose(seconds, np.arange(8) * 4 / 15, atol=0.5 / fps + 1e-9)


def test_a_short_video_repeats_its_last_frame():
    clip = ClipConfig(frames=8, stride=8)
    assert sampling.last_start(clip, 30, 20) == 0
    assert list(sampling.clip_frames(clip, 30, 20, 0.0)) == [0, 8, 16, 19, 19, 19, 19, 19]
    assert list(sampling.clip_frames(clip, 30, 1, 0.0)) == [0] * 8


def test_random_starts_reach_both_ends_and_no_further():
    rng = np.random.default_rng(0)
    starts = [sampling.random_start(rng, 5.0) for _ in range(300)]
    assert set(starts) == {0, 1, 2, 3, 4, 5}
    assert min(starts.count(value) for value in set(starts)) > 25


def test_test_clips_are_even_with_both_ends():
    np.testing.assert_allclose(sampling.even_starts(10, 90.0), np.arange(10) * 10)
    np.testing.assert_allclose(sampling.even_starts(1, 90.0), [45])


@pytest.mark.parametrize(("height", "width"), [(240, 320), (320, 240), (256, 256), (240, 900)])
def test_test_crops_cover_the_long_side(height, width):
    view = TestViewConfig(short_side=256, crop=256)
    crops = sampling.even_crops(height, width, view)
    short, long = min(height, width), max(height, width)
    assert all(crop.side == short for crop in crops)
    along = [crop.left if width >= height else crop.top for crop in crops]
    assert along == [0, round((long - short) / 2), long - short]
    across = [crop.top if width >= height else crop.left for crop in crops]
    assert across == [0, 0, 0]


def test_centre_crop_is_in_the_middle():
    view = TestViewConfig(short_side=256, crop=224, crops=1)
    (crop,) = sampling.even_crops(256, 340, view)
    assert crop == (16, 58, 224)


def test_random_crops_stay_inside_and_jitter_in_scale():
    view = TrainViewConfig(short_side=(256, 320), crop=224)
    rng = np.random.default_rng(0)
    crops = [sampling.random_crop(rng, 240, 320, view) for _ in range(500)]
    assert all(c.top >= 0 and c.top + c.side <= 240 for c in crops)
    assert all(c.left >= 0 and c.left + c.side <= 320 for c in crops)
    assert min(c.side for c in crops) == 240 * 224 // 320
    assert max(c.side for c in crops) == 240 * 224 // 256
    assert len({c.left for c in crops}) > 100


def test_tiny_videos_have_crops_too():
    view = TrainViewConfig(short_side=(256, 320), crop=224)
    crop = sampling.random_crop(np.random.default_rng(0), 2, 1, view)
    assert crop.side == 1


def test_every_frame_is_in_reach_of_a_consecutive_clip():
    clip = ClipConfig(frames=4, stride=3, target_fps=10)
    cases = {(25.0, 1): 1, (25.0, 29): 1, (25.0, 30): 1, (25.0, 31): 2, (29.97, 900): 25}
    for (fps, frames), clips in {**cases, (30.0, 36): 1, (5.0, 17): 3}.items():
        length = clip.frames * sampling.frame_step(clip, fps)
        starts = sampling.consecutive_starts(clip, fps, frames)
        assert starts[0] == 0 and np.all(np.diff(starts) <= length + 1e-9)
        assert starts[-1] + length > frames - 1
        assert len(starts) == clips
