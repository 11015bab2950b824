"""Studies at several learning rates, and the best one of each norm by its validations."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from snvideo.engine.config import RunConfig
from snvideo.errors import SnvideoError
from snvideo.report.study_report import write_report
from snvideo.study.compare import run_study, same_computations
from snvideo.study.config import cells
from snvideo.study.rates import at_own_rate, best_rates, rate_tables
from snvideo.study.runs import FAILURE_FILE, STUDY_FILE, read_runs, read_study
from snvideo.study.summary import accuracy_table
from tests.study.fakes import run_config, study_config, write_begun, write_finished
from tests.study.test_compare import Child, _table, write_table

RATES = (0.05, 0.1, 0.2)
DATA = {"index": "toy/index.csv", "val_split": "val", "test_split": "test"}


def config_of(folder: Path, **changes: Any) -> RunConfig:
    return run_config(folder, **{"data": DATA, **changes})


def validated(folder: Path, *top1: float) -> None:
    """Replace the validations of a run by these, one an epoch."""
    lines = [
        {"kind": "validate", "step": 5 * n, "epoch": n, "top1": value}
        for n, value in enumerate(top1, 1)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def study(tmp_path):
    """Two norms, three rates, two seeds: SN is best at 0.2, BN at 0.1; the tests say otherwise."""
    config, asked = config_of(tmp_path), study_config(seeds=(0, 1), norms=("sn", "bn"), rates=RATES)
    last = {"sn": (0.5, 0.6, 0.7), "bn": (0.3, 0.6, 0.4)}
    tested = {"sn": (0.9, 0.6, 0.7), "bn": (0.8, 0.5, 0.6)}
    for cell in cells(config, asked):
        place = RATES.index(cell.lr)
        write_finished(cell, tested[cell.norm][place] + 0.02 * cell.seed)
        validated(cell.folder, 0.99, last[cell.norm][place] + 0.1 * cell.seed)
    run_study(config, asked, write_table, Child())
    return tmp_path, config, asked


def test_rates_are_an_axis_of_the_grid(tmp_path):
    asked = study_config(seeds=(0, 1), norms=("sn", "bn"), rates=(0.1, 0.2))
    grid = cells(config_of(tmp_path), asked)
    assert [cell.name for cell in grid[:3]] == [
        *("sn_2x8_lr0.1_seed0", "sn_2x8_lr0.2_seed0", "bn_2x8_lr0.1_seed0")
    ]
    assert len(grid) == 8 and [cell.config.optim.lr for cell in grid] == [0.1, 0.2] * 4
    assert str(grid[1]) == "sn (2, 8) lr 0.2 seed 0"
    (alone,) = cells(config_of(tmp_path), study_config(norms=("sn",)))
    assert (alone.name, str(alone)) == ("sn_2x8_seed0", "sn (2, 8) seed 0")


@pytest.mark.parametrize(
    ("rates", "changes", "words"),
    [
        (RATES, {"data": {"index": "i.csv"}}, r"set data\.val_split \(now null"),
        (RATES, {"data": {**DATA, "test_split": "val"}}, r"set data\.val_split \(now val"),
        (RATES, {"data": {**DATA, "val_split": "train"}}, r"set data\.val_split \(now train"),
        (RATES, {"log": {"validate_epochs": 0}}, r"set log\.validate_epochs \(now 0\)"),
        (RATES, {"log": {"validate_epochs": 9}}, r"set log\.validate_epochs \(now 9\)"),
        ((0.05, 0.2), {}, r"optim\.lr=0\.1 is none of 0\.05, 0\.2"),
        ((0.1, 0.1), {}, "name every rate once"),
        ((0.1, 0.10000001), {}, "name every rate once"),
    ],
)
def test_rates_that_cannot_be_chosen_among_are_refused(tmp_path, rates, changes, words):
    with pytest.raises(SnvideoError, match=words) as refused:
        run_study(config_of(tmp_path / "out", **changes), study_config(rates=rates), write_table)
    assert "\n" not in str(refused.value) and not (tmp_path / "out").exists()


@pytest.mark.parametrize("first", [(), (0.1, 0.2)])
def test_runs_with_and_without_rates_do_not_share_a_folder(tmp_path, first):
    one, other = (study_config(norms=("sn",), rates=rates) for rates in (first, (0.1,)))
    other = study_config(norms=("sn",)) if first else other
    run_study(config_of(tmp_path), one, write_table, Child())
    with pytest.raises(SnvideoError, match="choose another output"):
        run_study(config_of(tmp_path), other, write_table, Child())


def test_the_best_rate_is_that_of_the_last_validation(study):
    folder, _, asked = study
    found, left_out = best_rates(read_runs(folder), asked)
    assert {one.norm: one.lr for one in found} == {"sn": 0.2, "bn": 0.1} and not left_out
    sn = found[0]
    assert sn.validated == pytest.approx({0.05: 0.55, 0.1: 0.65, 0.2: 0.75})
    assert [run.name for run in sn.runs] == ["sn_2x8_lr0.2_seed0", "sn_2x8_lr0.2_seed1"]
    best, differences = rate_tables(read_runs(folder), asked)
    assert best.rows[0][:3] == ("(2, 8)", "SN", "0.2")
    assert best.rows[0][3].startswith("71.0 ± ")
    assert best.rows[0][4:] == ("55.0", "65.0", "75.0", "n = 2") and "'val'" in best.note
    assert differences.rows[0][1:4] == ("SN - BN", "+20.0 ± 9.2", "n = 2")


def test_the_main_table_is_of_the_rate_of_the_config(study):
    folder, *_ = study
    runs, stored = read_runs(folder), read_study(folder)
    assert len(runs) == 12 and stored is not None and stored.rates[0] == 0.1
    own = at_own_rate(runs, stored)
    assert {run.lr for run in own} == {0.1} and len(own) == 4
    write_report(folder)
    text = (folder / "comparison.md").read_text()
    accuracies, rest = text.split("## Accuracy")[1].split("## Each norm at its best rate")
    assert "61.0 ±" in accuracies and "71.0 ±" not in accuracies and "71.0 ±" in rest
    assert "SN against the others, each at its best rate" in rest
    assert "## Warnings" not in text
    assert {row["lr"] for row in _table(folder).values()} == {"0.05", "0.1", "0.2"}


def test_a_rate_that_lacks_a_validation_is_not_chosen_and_said(study):
    folder, _, asked = study
    diverged = folder / "sn_2x8_lr0.2_seed1"
    (diverged / "results.json").unlink()
    (diverged / FAILURE_FILE).write_text("failed (exit 1)\n")
    validated(folder / "bn_2x8_lr0.1_seed0", 0.9)  # of an earlier step
    found, left_out = best_rates(read_runs(folder), asked)
    assert {one.norm: one.lr for one in found} == {"sn": 0.1, "bn": 0.2}
    assert left_out == [
        f"{norm} at (2, 8): learning rate {rate} is not chosen, as it has no last validation of "
        f"seed {seed}"
        for norm, rate, seed in (("SN", 0.2, 1), ("BN", 0.1, 0))
    ]
    write_report(folder)
    assert left_out[0] in (folder / "comparison.md").read_text()


def test_a_study_that_has_just_begun_chooses_none(tmp_path):
    asked = study_config(norms=("sn",), rates=(0.1, 0.2))
    one, other = cells(config_of(tmp_path), asked)
    (tmp_path / STUDY_FILE).write_text(yaml.safe_dump(asked.model_dump(mode="json")))
    write_begun(one)
    found, left_out = best_rates(read_runs(tmp_path), asked)
    assert not found and rate_tables(read_runs(tmp_path), asked) == []
    assert left_out[1].endswith("rate 0.1 is not chosen, as it has no last validation of any run")
    write_finished(other)
    found, left_out = best_rates(read_runs(tmp_path), asked)
    assert not found and left_out[0].startswith("SN at (2, 8): seed 0 is not yet run at every")


def test_a_seed_that_is_not_run_at_every_rate_decides_nothing(study):
    """Runs go seed by seed and rate by rate: of the second seed there is one rate so far."""
    folder, _, asked = study
    for rate in RATES[1:]:
        shutil.rmtree(folder / f"sn_2x8_lr{rate}_seed1")
    (folder / "bn_2x8_lr0.2_seed1" / "results.json").unlink()
    found, left_out = best_rates(read_runs(folder), asked)
    assert {one.norm: (one.lr, len(one.runs)) for one in found} == {"sn": (0.2, 1), "bn": (0.1, 1)}
    assert [line.partition(":")[0] for line in left_out] == ["SN at (2, 8)", "BN at (2, 8)"]
    assert all("seed 1 is not yet run at every learning rate" in line for line in left_out)


def test_runs_of_several_rates_are_no_seeds_without_their_study(study):
    folder, _, _ = study
    (folder / STUDY_FILE).unlink()
    assert {row[-1] for row in accuracy_table(read_runs(folder)).rows} == {"n = 1"}


def test_a_report_of_another_rate_alone(tmp_path):
    """As after the first run, or where the others fail."""
    asked = study_config(norms=("sn", "bn"), rates=(0.05, 0.1))
    names = [cell.name for cell in cells(config_of(tmp_path), asked)]
    run_study(config_of(tmp_path), asked, write_table, Child(failing=tuple(names[1:])))
    text = write_report(tmp_path).with_name("comparison.md").read_text()
    assert "no run is finished" in text and "sn_2x8_lr0.1_seed0: failed (exit 3)" in text
    for name in names[1:]:
        shutil.rmtree(tmp_path / name)
    text = write_report(tmp_path).with_name("comparison.md").read_text()
    assert "no run is finished" in text and "sn_2x8_lr0.05_seed0" in text


def test_the_same_computations_are_run_once_at_every_rate(tmp_path):
    asked = study_config(((2, 8), (4, 4)), norms=("gn", "sn"), rates=(0.1, 0.2))
    child, config = Child(), config_of(tmp_path)
    same = same_computations(cells(config, asked))
    assert {name: cell.name for name, cell in same.items()} == {
        f"gn_4x4_lr{rate}_seed0": f"gn_2x8_lr{rate}_seed0" for rate in (0.1, 0.2)
    }
    rows = run_study(config, asked, write_table, child)
    assert len(child.names) == 6 and len(rows) == 8
    assert [row["lr"] for row in rows] == [0.1, 0.2] * 4
    found, left_out = best_rates(read_runs(tmp_path), asked)
    assert len(found) == 4 and not left_out
