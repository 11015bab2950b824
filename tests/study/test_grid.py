"""The grid: every combination once, and nothing but norm, geometry, seed and place differs."""

from pathlib import Path

import pytest

from snvideo.engine.config import flatten
from snvideo.errors import SnvideoError
from snvideo.study.config import cells
from tests.study.fakes import run_config, study_config


def test_every_norm_geometry_and_seed_once(tmp_path: Path):
    study = study_config(((2, 8), (16, 1)), ("sn", "bn"), (0, 1))
    names = [cell.name for cell in cells(run_config(tmp_path), study)]
    assert names == [
        "sn_2x8_seed0", "bn_2x8_seed0", "sn_16x1_seed0", "bn_16x1_seed0",
        "sn_2x8_seed1", "bn_2x8_seed1", "sn_16x1_seed1", "bn_16x1_seed1",
    ]  # fmt: skip


def test_all_else_is_the_same(tmp_path: Path):
    config = run_config(tmp_path, seed=9, batch={"gpus": 3, "clips_per_gpu": 5})
    common = flatten(config.model_dump(mode="json"))
    for cell in cells(config, study_config(((2, 8), (16, 1)), seeds=(0, 1))):
        own = flatten(cell.config.model_dump(mode="json"))
        changed = {key: value for key, value in own.items() if common[key] != value}
        assert changed.pop("output") == str(tmp_path / cell.name)
        assert changed.pop("seed") == cell.seed
        assert changed.pop("batch.gpus") == cell.gpus
        assert changed.pop("batch.clips_per_gpu") == cell.clips_per_gpu
        changed.pop("model.norm.name", None)
        assert own["model.norm.name"] == cell.norm
        assert not changed


def test_a_run_named_twice_is_refused(tmp_path: Path):
    with pytest.raises(SnvideoError, match="sn_2x8_seed0 twice"):
        cells(run_config(tmp_path), study_config(((2, 8), (2, 8))))
