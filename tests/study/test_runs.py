"""Runs are read under the names of their norms and variants, whatever folder they lie in."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from snvideo.errors import SnvideoError
from snvideo.report.answer import limits
from snvideo.report.study_report import comparison_md, write_report
from snvideo.study.comparability import comparison_warnings
from snvideo.study.compare import same_computations
from snvideo.study.config import Cell, StudyConfig, cells
from snvideo.study.runs import STUDY_FILE, computed, display_name, norms_of, read_runs
from snvideo.study.summary import accuracy_table, comparison_csv, difference_table
from tests.study.fakes import run_config, study_config, write_begun, write_finished
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
        "sn_depth at (2, 8), n = 1, first",
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


def write_once(folder: Path, study: StudyConfig, **top1: tuple[float, ...]) -> None:
    """The runs of a study as `run_study` leaves them, each norm's accuracy by seed."""
    (folder / STUDY_FILE).write_text(yaml.safe_dump(study.model_dump(mode="json")))
    grid = cells(run_config(folder), study)
    same = same_computations(grid)
    for cell in grid:
        if cell.name not in same:
            write_finished(cell, top1[cell.norm][cell.seed] + 0.001 * cell.gpus)


def test_a_run_that_does_not_see_the_split_is_shown_at_each(tmp_path: Path):
    study = study_config(((8, 2), (4, 4), (4, 2)), ("bn", "gn"), (0, 1))
    write_once(tmp_path, study, bn=(0.6, 0.61), gn=(0.5, 0.53))
    runs = read_runs(tmp_path)
    assert len(computed(runs)) == 10 and len(runs) == 12
    table = accuracy_table(runs)
    # GN at (4, 4) is the runs at (8, 2): 50.8 and 53.8; BN has 60.4 and 61.4 there.
    assert [row[:4] for row in table.rows] == [
        ("(4, 2)", "8", "BN", "60.9 ± 6.4"),
        ("(4, 2)", "8", "GN", "51.9 ± 19.1"),
        ("(8, 2)", "16", "BN", "61.3 ± 6.4"),
        ("(8, 2)", "16", "GN", "52.3 ± 19.1"),
        ("(4, 4)", "16", "BN", "60.9 ± 6.4"),
        ("(4, 4)", "16", "GN", "52.3 ± 19.1"),
    ]
    note = "GN: the same computation at every split of a total batch, run once and shown at each."
    assert table.note.endswith(note)
    assert [row[2] for row in difference_table(runs).rows] == [
        *("+9.0 ± 12.7", "+9.0 ± 12.7", "+8.6 ± 12.7"),
    ]
    assert comparison_warnings(runs) == [] and limits(runs) == []
    rows = [line.split(",") for line in comparison_csv(runs).splitlines()]
    shared = [row[-1] for row in rows if row[:3] == ["gn", "4", "4"]]
    assert shared == ["gn_8x2_seed0", "gn_8x2_seed1"]
    page = write_report(tmp_path).read_text()
    assert "GN: 52.3 ± 19.1 % at (4, 2)" not in page and "52.3 ± 19.1 % at (4, 4)" in page
    assert page.count(note) == 2  # table and text of the figure
    assert "runs: 10 finished of 10" in page and page.count("<td>gn_8x2_seed0</td>") == 1


def test_folders_without_their_study_are_read_as_they_are(tmp_path: Path):
    study = study_config(((8, 2), (4, 4)), ("bn", "gn"))
    write_once(tmp_path, study, bn=(0.6,), gn=(0.5,))
    (tmp_path / STUDY_FILE).unlink()
    runs = read_runs(tmp_path)
    assert len(runs) == 3 and "same computation" not in accuracy_table(runs).note


def test_own_runs_are_not_replaced_and_finished_ones_come_first(tmp_path: Path):
    study = study_config(((8, 2), (4, 4), (2, 8)), ("gn",))
    (tmp_path / STUDY_FILE).write_text(yaml.safe_dump(study.model_dump(mode="json")))
    first, second, _ = cells(run_config(tmp_path), study)
    write_begun(first)
    write_finished(second, 0.5)
    found = {run.geometry: (run.name, run.status) for run in read_runs(tmp_path)}
    assert found == {
        (8, 2): ("gn_8x2_seed0", "unfinished"),
        (4, 4): ("gn_4x4_seed0", "finished"),
        (2, 8): ("gn_4x4_seed0", "finished"),
    }
    assert limits(read_runs(tmp_path))[0].startswith("1 of 2 runs not finished")


def test_a_study_file_that_cannot_be_read_is_one_line(tmp_path: Path):
    write_finished(cells(run_config(tmp_path), study_config())[0])
    for text in ("- 1", "{", "batches: [{gpus: 0}]"):
        (tmp_path / STUDY_FILE).write_text(text)
        with pytest.raises(SnvideoError, match=r"study\.yaml: .*delete it") as caught:
            read_runs(tmp_path)
        assert "\n" not in str(caught.value)


def test_runs_of_a_version_with_fewer_settings_are_comparable(tmp_path: Path):
    """What was no setting yet did what its default does now."""
    one, other, *_ = cells(run_config(tmp_path), variants_study())
    write_finished(one, 0.5)
    write_finished(other, 0.5)
    file = one.folder / "config.yaml"
    stored = yaml.safe_load(file.read_text())
    for section, key in (
        ("model", "zero_init_last"),
        ("data", "repeats"),
        ("optim", "layer_decay"),
    ):
        del stored[section][key]
    file.write_text(yaml.safe_dump(stored))
    assert comparison_warnings(read_runs(tmp_path)) == []
    stored["data"]["repeats"] = 2
    file.write_text(yaml.safe_dump(stored))
    assert any("data.repeats (" in line for line in comparison_warnings(read_runs(tmp_path)))


def test_a_second_run_of_one_seed_is_no_further_seed(tmp_path: Path):
    """A run that was moved aside, and done again: the study's own counts."""
    study = study_config(norms=("sn", "bn"), seeds=(0, 1))
    (tmp_path / STUDY_FILE).write_text(yaml.safe_dump(study.model_dump(mode="json")))
    for cell in cells(run_config(tmp_path), study):
        write_finished(cell, 0.8 if cell.norm == "sn" else 0.6)
    first = next(iter(cells(run_config(tmp_path), study)))
    for name in ("sn_2x8_seed0.bad", "a_copy"):
        write_finished(in_folder(first, tmp_path / name), 0.2)
    runs = read_runs(tmp_path)
    kept = {run.name: run.norm for run in runs}
    assert kept["sn_2x8_seed0"] == "sn"
    assert kept["sn_2x8_seed0.bad"] == "sn in sn_2x8_seed0.bad"
    assert kept["a_copy"] == "sn in a_copy"
    (row,) = (row for row in accuracy_table(runs).rows if row[2] == "SN")
    assert (row[3], row[-1]) == ("80.0 ± 0.0", "n = 2")
    assert "the same norm under two names: sn and sn in a_copy" in comparison_warnings(runs)


def test_two_runs_of_one_config_are_not_two_seeds(tmp_path: Path):
    (cell,) = cells(run_config(tmp_path), study_config(norms=("sn",)))
    for name in ("toy", "toy2"):
        write_finished(in_folder(cell, tmp_path / name), 0.5)
    rows = accuracy_table(read_runs(tmp_path)).rows
    assert [(row[2], row[-1]) for row in rows] == [("sn in toy", "n = 1"), ("sn in toy2", "n = 1")]


def test_skipped_steps_are_told(tmp_path: Path):
    for cell in cells(run_config(tmp_path), study_config(norms=("sn", "bn", "gn"))):
        write_finished(cell, 0.5, skipped_steps={"sn": 300, "bn": 20, "gn": 0}[cell.norm])
    (line,) = (one for one in comparison_warnings(read_runs(tmp_path)) if "skipped" in one)
    assert line.startswith("sn_2x8_seed0: 300 of 400 steps were skipped")
