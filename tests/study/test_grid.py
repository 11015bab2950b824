"""The grid: every combination once, named variants, several grids, and nothing else differs."""

from pathlib import Path

import pytest

from snvideo.base_config import flatten
from snvideo.errors import SnvideoError
from snvideo.models.config import NormConfig
from snvideo.study.config import StudyConfig, cells
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


VARIANTS = {
    "gn8": {"name": "gn", "groups": 8},
    "sn_depth": {"name": "sn", "start": "depth"},
    "sn_group": {"name": "sn", "parts": ["instance", "group", "layer", "batch"], "groups": 8},
    "bn_ws": {"name": "bn", "weight_standardization": True},
}


def variants_study(**changes) -> StudyConfig:
    """SN and four variants at (2, 8) with one seed."""
    values = {"variants": VARIANTS, "norms": ["sn", *VARIANTS], "seeds": [0]}
    values |= {"batches": [{"gpus": 2, "clips_per_gpu": 8}]}
    return StudyConfig.model_validate(values | changes)


def test_variants_are_settings_over_those_of_the_norm(tmp_path: Path):
    model = {"name": "i3d_tiny", "norm": {"name": "sn", "start": "layer"}}
    found = {
        cell.name: cell.config.model.norm.effective()
        for cell in cells(run_config(tmp_path, model=model), variants_study())
    }
    paper = {"ratios": "softmax", "parts": ("instance", "layer", "batch")}
    plain = {"weight_standardization": False}
    assert found == {
        "sn_2x8_seed0": {"name": "sn", "start": "layer", **paper, **plain},
        "gn8_2x8_seed0": {"name": "gn", "groups": 8, **plain},
        "sn_depth_2x8_seed0": {"name": "sn", "start": "depth", **paper, **plain},
        "sn_group_2x8_seed0": {
            **{"name": "sn", "start": "layer", "groups": 8, "ratios": "softmax"},
            **{"parts": ("instance", "group", "layer", "batch"), **plain},
        },
        "bn_ws_2x8_seed0": {"name": "bn", "weight_standardization": True},
    }


@pytest.mark.parametrize(
    ("variants", "norms", "told"),
    [
        ({"bn": {"name": "bn", "weight_standardization": True}}, ["bn"], "bn is called as bn"),
        ({"BN": {"name": "gn", "groups": 8}}, ["BN"], "BN is called as bn: give it another name"),
        ({"a": {"name": "bn"}, "A": {"name": "in"}}, ["a"], "A is called as a"),
        ({"a/b": {"name": "bn"}}, ["a/b"], "'a/b' names folders, too"),
        ({"x": {"weight_standardization": True}}, ["x"], "variants.x: name the norm"),
        ({}, ["gn8"], "unknown norm 'gn8': expected one of sn, bn"),
    ],
)
def test_wrong_names_are_refused(variants: dict, norms: list[str], told: str):
    with pytest.raises(ValueError, match=r"variants|unknown") as caught:
        variants_study(variants=variants, norms=norms)
    assert told in str(caught.value)


def test_unknown_norms_of_further_grids_and_sources_are_refused():
    for changes in ({"grids": [{"norms": ["sn_dept"]}]}, {"sources": {"sn_dept": "a.pt"}}):
        with pytest.raises(ValueError, match="unknown norm 'sn_dept'"):
            variants_study(**changes)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("gn", {"name": "gn", "groups": 32}),
        ("bn", {"name": "bn", "start": "depth"}),  # which has no logits
        ("sn", {"name": "sn", "parts": ["batch", "layer", "instance"], "ratios": "softmax"}),
        ("brn", {"name": "brn", "r_max": 3, "schedule": [5000, 25000, 40000]}),
    ],
)
def test_one_norm_under_two_names_is_refused(tmp_path: Path, name: str, settings: dict):
    study = variants_study(variants={"mine": settings}, norms=[name], grids=[{"norms": ["mine"]}])
    with pytest.raises(SnvideoError, match=f"{name} and mine are the same norm"):
        cells(run_config(tmp_path), study)


def test_settings_that_do_not_go_with_the_common_ones_are_one_line(tmp_path: Path):
    model = {"name": "i3d_tiny", "norm": {"name": "sn", "start": "batch"}}
    variants = {"sn_single": {"name": "sn", "parts": ["instance", "layer"]}}
    with pytest.raises(SnvideoError, match=r"study\.variants\.sn_single over ") as caught:
        study = variants_study(variants=variants, norms=["sn_single"])
        cells(run_config(tmp_path, model=model), study)
    assert "needs a batch part" in str(caught.value) and "\n" not in str(caught.value)


def test_further_grids_are_joined_seed_by_seed(tmp_path: Path):
    grids = [
        {"norms": ["sn_depth", "sn"], "batches": [{"gpus": 16, "clips_per_gpu": 1}]},
        {"norms": ["gn8", "sn"], "seeds": [1, 2]},  # of which sn at (2, 8) with 1 is there
    ]
    study = variants_study(norms=["sn"], seeds=[0, 1], grids=grids)
    assert [cell.name for cell in cells(run_config(tmp_path), study)] == [
        *("sn_2x8_seed0", "sn_depth_16x1_seed0", "sn_16x1_seed0"),
        *("sn_2x8_seed1", "sn_depth_16x1_seed1", "sn_16x1_seed1", "gn8_2x8_seed1"),
        *("gn8_2x8_seed2", "sn_2x8_seed2"),
    ]


def test_sources_of_variants_are_their_own_or_those_of_the_norm(tmp_path: Path):
    sources = {"gn": "gn.pt", "sn_depth": "sn.pt"}
    study = variants_study(norms=["sn", "gn8", "sn_depth"], sources=sources)
    found = [cell.config.model.weights for cell in cells(run_config(tmp_path), study)]
    assert [one and one.source for one in found] == [None, "gn.pt", "sn.pt"]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"name": "gn"}, {"name": "gn", "groups": 32, "start": "batch"}, True),
        ({"name": "gn"}, {"name": "gn", "channels_per_group": 32}, False),
        ({"name": "in"}, {"name": "ln"}, False),
        ({"name": "sn"}, {"name": "syncsn"}, False),
        ({"name": "sn"}, {"name": "sn", "ratios": "l1"}, False),
        ({"name": "brn"}, {"name": "brn", "d_max": 4}, False),
        ({"name": "ln"}, {"name": "ln", "weight_standardization": True}, False),
    ],
)
def test_effective_settings(one: dict, other: dict, same: bool):
    found = [NormConfig.model_validate(values).effective() for values in (one, other)]
    assert (found[0] == found[1]) == same
