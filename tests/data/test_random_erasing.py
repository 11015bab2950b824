"""Random erasing: rectangles by their distribution, and what becomes of a clip."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from snvideo.data.augmentation import AugmentationParams, sample_augmentation, train_input
from snvideo.data.config import DataConfig, RandAugmentConfig, RandomErasingConfig, TrainViewConfig
from snvideo.data.dataset import Batch
from snvideo.data.random_erasing import Rectangle, erase, sample_rectangle

CPU = torch.device("cpu")


def test_rectangles_are_as_they_are_asked_for():
    config = RandomErasingConfig(probability=0.5)
    rng = np.random.default_rng(0)
    drawn = [sample_rectangle(rng, config, 112) for _ in range(2000)]
    found = [rectangle for rectangle in drawn if rectangle is not None]
    assert len(found) / 2000 == pytest.approx(0.5, abs=0.04)
    areas = np.array([one.height * one.width for one in found]) / 112**2
    ratios = np.log([one.height / one.width for one in found])
    assert 0.018 < areas.min() < 0.03 and 0.31 < areas.max() < 0.345
    assert areas.mean() == pytest.approx((0.02 + 1 / 3) / 2, abs=0.015)
    assert np.abs(ratios).max() < -np.log(0.28) and ratios.mean() == pytest.approx(0, abs=0.1)
    assert all(0 <= one.top <= 112 - one.height for one in found)
    assert all(0 <= one.left <= 112 - one.width for one in found)
    assert {one.top + one.height for one in found} >= {112}  # to the edges
    assert {one.noise for one in found} == {None}


def test_what_is_off_draws_nothing_and_leaves_the_rest_as_it_was():
    view = TrainViewConfig(rand_augment=RandAugmentConfig(), mixup=0.8)
    more = view.model_copy(update={"random_erasing": RandomErasingConfig(probability=1)})
    plain = sample_augmentation(np.random.default_rng(3), view)
    erased = sample_augmentation(np.random.default_rng(3), more)
    assert plain.erased is None and erased.erased is not None
    assert erased._replace(erased=None) == plain
    assert sample_augmentation(np.random.default_rng(3), more) == erased  # a function of the seed


@pytest.mark.parametrize("noise", [None, 7])
def test_all_frames_of_a_clip_lose_the_same_rectangle_and_neighbours_none(noise):
    clips = torch.randn(3, 3, 4, 10, 12)
    before, rectangle = clips.clone(), Rectangle(2, 3, 5, 4, noise)
    assert erase(clips, [None, rectangle, None]) is clips
    inside = torch.zeros(10, 12, dtype=torch.bool)
    inside[2:7, 3:7] = True
    assert torch.equal(clips[[0, 2]], before[[0, 2]])
    assert torch.equal(clips[1][..., ~inside], before[1][..., ~inside])
    filled = clips[1][..., inside]
    assert torch.equal(filled, filled[:, :1].expand_as(filled))
    if noise is None:
        assert not filled.any()
        return
    assert filled.std() == pytest.approx(1, abs=0.3)
    again = erase(before.clone(), [None, rectangle, None])
    assert torch.equal(again, clips)
    other = erase(before.clone(), [None, rectangle._replace(noise=8), None])
    assert not torch.equal(other, clips)


def test_a_batch_is_erased_after_it_is_normalized():
    """So that what is constant has the mean colour, whatever that is; bytes stay as they are."""
    clips = torch.randint(1, 256, (2, 4, 3, 8, 8), dtype=torch.uint8)
    before = clips.clone()
    params = [AugmentationParams(True, erased=Rectangle(0, 0, 4, 8)), AugmentationParams(False)]
    batch = Batch(clips, params, torch.tensor([0, 1]), [], [0, 1])
    config = DataConfig.model_validate({"index": "index.csv", "mean": (0.1, 0.5, 0.9)})
    inputs = train_input(batch, config, CPU, torch.channels_last_3d)
    assert not inputs[0, :, :, :4].any()
    plain = batch._replace(augmentation=[AugmentationParams(True), AugmentationParams(False)])
    expected = train_input(plain, config, CPU)
    assert torch.equal(inputs[0, :, :, 4:], expected[0, :, :, 4:])
    assert torch.equal(inputs[1], expected[1]) and torch.equal(clips, before)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"area": (0.5, 0.2)}, "need area[0] <= area[1] < 1, got 0.5, 0.2"),
        ({"area": (0.5, 1.0)}, "need area[0] <= area[1] < 1, got 0.5, 1"),
        ({"aspect": (2, 0.5)}, "need aspect[0] <= aspect[1], got 2, 0.5"),
        ({"probability": 1.5}, "less than or equal to 1"),
        ({"fill": "rand"}, "'const' or 'pixel'"),
    ],
)
def test_what_is_no_rectangle_is_refused(values, message):
    with pytest.raises(ValidationError) as error:
        RandomErasingConfig.model_validate(values)
    assert message in str(error.value)
