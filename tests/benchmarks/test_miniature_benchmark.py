"""The comparison of a miniature with the network that it stands for."""

import sys
from pathlib import Path

import pytest

from snvideo import load_config

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from miniature import stages, training


def test_channels_a_group_of_the_study_are_those_of_a_resnet_50():
    large = stages(load_config("kinetics400/i3d_r50_8x8/sn_8x8"), 32)
    small = stages(load_config("toy/study"), 8)
    assert [stage.per_group for stage in small] == [stage.per_group for stage in large]
    assert small[-1].per_group == (16, 64)
    assert [stage.norms for stage in small] == [1, 7, 7, 7, 7]
    assert [stage.positions for stage in large][-1] == (4 * 7 * 7, 4 * 14 * 14)


def test_the_way_of_a_parameter_is_the_sum_of_the_learning_rates():
    config = load_config(
        "toy/study", ["optim.schedule=constant", "optim.warmup_epochs=0", "optim.lr=0.4"]
    )
    found = training(config, 960)
    assert found["steps"] == 720 and found["peak learning rate"] == pytest.approx(0.1)
    assert found["sum of learning rates"] == pytest.approx(72)
    assert found["way at a gradient of 1"] == pytest.approx(720)
