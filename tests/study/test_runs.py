"""Runs are read under the names of their norms and variants, whatever folder they lie in."""

from dataclasses import replace
from pathlib import Path

import pytest

from snvideo.report.study_report import comparison_md, write_report
from snvideo.study.comparability import comparison_warnings
from snvideo.study.config import Cell, cells
from snvideo.study.runs import display_name, norms_of, read_runs
from snvideo.study.summary import accuracy_table, comparison_csv, difference_table
from tests.study.fakes import run_config, write_finished
from tests.study.test_grid import variants_study


def in_folder(cell: Cell, folder: Path) -> Cell:
    """The same run in another folder."""
    return replace(cell, config=cell.config.model_copy(update={"output": folder}))


def test_variants_are_rows_of_their_own_and_no_reason_to_doubt(tmp_path: Path):
    for cell in cells(run_config(tmp_path), variants_study()):
        write_finished(cell, 0.5)
    runs = read_runs(tmp_path)
    names = ["sn", "sn_depth", "sn_group", "bn_ws", "gn8"]
    assert norms_of(runs) == names  # of a kind together, each norm before its variants
    labels = ["SN", "sn_depth", "sn_group", "bn_ws", "gn8"]
    assert [row[2] for row in accuracy_table(runs).rows] == labels == [*map(display_name, names)]
    assert [row[1] for row in difference_table(runs).rows] == [f"SN - {one}" for one in labels[1:]]
    assert comparison_warnings(runs) == []
    assert {line.split(",")[0] for line in comparison_csv(runs).splitlines()[1:]} == set(names)
    assert "| model.norm.groups" in comparison_md(runs, "study")


def test_figures_know_variants(tmp_path: Path):
    for cell in cells(run_config(tmp_path), variants_study(norms=["sn", "sn_depth", "gn8"])):
        write_finished(cell, 0.5)
    text = write_report(tmp_path).read_text()
    for part in (
        "sn_depth: 50.0 % at (2, 8)",
        "gn8 at (2, 8), last loss",
        "sn_depth (2, 8), first",
    ):
        assert part in text


def test_folders_that_no_study_has_named_go_by_what_differs(tmp_path: Path):
    """Two configs of a norm are never one cell, whatever their folders are called."""
    sn, gn8, depth, group, ws = cells(run_config(tmp_path), variants_study())
    for cell, name in ((sn, "a"), (gn8, "b"), (depth, "c"), (group, "d"), (ws, "bn_2x8_seed0")):
        write_finished(in_folder(cell, tmp_path / name))
    assert {run.name: run.norm for run in read_runs(tmp_path)} == {
        "a": "sn parts=instance+layer+batch, start=equal",
        "b": "gn",
        "c": "sn parts=instance+layer+batch, start=depth",
        "d": "sn parts=instance+group+layer+batch, start=equal, groups=8",
        "bn_2x8_seed0": "bn",
    }
    assert not any("model.norm" in line for line in comparison_warnings(read_runs(tmp_path)))


def test_a_folder_of_another_study_with_the_same_name_is_told_apart(tmp_path: Path):
    for number, groups in enumerate((8, 4)):
        variants = {"mine": {"name": "gn", "groups": groups}}
        study = variants_study(variants=variants, norms=["mine"], seeds=[number])
        write_finished(cells(run_config(tmp_path), study)[0])
    assert [run.norm for run in read_runs(tmp_path)] == ["mine groups=4", "mine groups=8"]


@pytest.mark.parametrize("name", ["bn_2x8_seed0", "mine_4x4_seed0", "mine_2x8_seed1", "mine"])
def test_a_folder_that_does_not_fit_its_run_gives_no_name(tmp_path: Path, name: str):
    write_finished(in_folder(cells(run_config(tmp_path), variants_study())[1], tmp_path / name))
    assert [run.norm for run in read_runs(tmp_path)] == ["gn"]


def test_one_norm_under_two_names_is_told(tmp_path: Path):
    sn = cells(run_config(tmp_path), variants_study())[0]
    write_finished(sn)
    write_finished(in_folder(sn, tmp_path / "mine_2x8_seed0"))
    told = comparison_warnings(read_runs(tmp_path))
    assert told == ["the same norm under two names: sn and mine"]
