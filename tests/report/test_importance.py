"""Importance ratios in a study's report: lines of each norm, ranges over seeds, and the CSV."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from snvideo.report.figures.importance import importance_by_depth, importance_by_geometry
from snvideo.report.style import Drawing
from snvideo.study.config import cells
from snvideo.study.importance import importance_csv
from snvideo.study.runs import StudyRun, read_runs
from tests.study.fakes import run_config, study_config, write_finished

PAPER, GROUP = ("instance", "layer", "batch"), ("instance", "group", "layer", "batch")
VARIANTS = {"sn_group": {"name": "sn", "parts": GROUP, "groups": 8}}


def layers(*first: float, parts: tuple[str, ...] = PAPER, count: int = 2) -> list[dict[str, Any]]:
    """Layers whose first ratio is given, of the mean; that of the variance is half; the other parts
    have equal shares of what is left."""
    others = len(parts) - 1
    return [
        {
            "layer": f"blocks.{number}.norm",
            "depth": float(number),
            "mean": [ratio, *[(1 - ratio) / others] * others],
            "variance": [ratio / 2, *[(1 - ratio / 2) / others] * others],
            "parts": parts,
        }
        for number, ratio in enumerate(first * (count if len(first) == 1 else 1))
    ]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[StudyRun]:
    """SN with 2 seeds and SN with groups with one, at (16, 1) and (2, 8)."""
    folder = tmp_path_factory.mktemp("importance")
    study = study_config(((16, 1), (2, 8)), ("sn", "sn_group", "bn"), (0, 1), variants=VARIANTS)
    for cell in cells(run_config(folder), study):
        parts = GROUP if cell.norm == "sn_group" else PAPER
        parts = parts[:-1] if cell.config.batch.clips_per_gpu == 1 else parts
        first = 0.6 if cell.norm == "sn_group" else 0.2 + 0.1 * cell.seed
        if (cell.norm, cell.seed) != ("sn_group", 1):
            ratios = None if cell.norm == "bn" else layers(first, first + 0.2, parts=parts)
            write_finished(cell, importance=ratios)
    return read_runs(folder)


def drawn(drawing: Drawing | None) -> Drawing:
    assert drawing is not None
    return drawing


def points(drawing: Drawing, row: int, column: int) -> list[np.ndarray]:
    """The lines of means over seeds of a panel of the figure by geometry."""
    axes = drawing.figure.axes[2 * row + column]
    return [np.asarray(container.lines[0].get_ydata()) for container in axes.containers]


def test_every_norm_has_lines_of_its_own_with_gaps(runs: list[StudyRun]):
    # SN, first part, mean over layers: 0.3 with seed 0, 0.4 with seed 1
    figure = drawn(importance_by_geometry(runs))
    instance, layer, batch = points(figure, 0, 0)
    assert instance == pytest.approx([0.35, 0.35])
    assert layer == pytest.approx([0.65, 0.325])
    assert batch == pytest.approx([np.nan, 0.325], nan_ok=True)  # one clip: no batch part
    assert points(figure, 0, 1)[0] == pytest.approx([0.175, 0.175])
    instance, group, _, batch = points(figure, 1, 0)
    assert instance == pytest.approx([0.7, 0.7]) and group == pytest.approx([0.15, 0.1])
    assert batch == pytest.approx([np.nan, 0.1], nan_ok=True)


def test_texts_have_numbers_ranges_and_seeds(runs: list[StudyRun]):
    figure = drawn(importance_by_geometry(runs))
    assert "SN at (2, 8), n = 2: mean instance 35.0 % (30.0 to 40.0), layer 32.5 %" in figure.alt
    assert "SN at (16, 1), n = 2: mean instance 35.0 % (30.0 to 40.0), layer 65.0" in figure.alt
    assert "sn_group at (2, 8), n = 1: mean instance 70.0 %, group 10.0 %," in figure.alt
    assert "none" not in figure.alt
    note = "SN: n = 2, seeds at most 10.0 points apart; "
    note += "sn_group: n = 1, one seed, so no spread can be shown."
    by_depth = drawn(importance_by_depth(runs))
    assert figure.note == by_depth.note == note
    first, last = by_depth.alt.split("SN at (2, 8), n = 2, first and last of 2 layers: ")[1].split(
        " / "
    )[:2]
    assert first.startswith("mean instance 25.0 % (20.0 to 30.0)")
    assert last.startswith("mean instance 45.0 % (40.0 to 50.0)")


def test_depth_has_two_rows_a_norm_and_bands_over_seeds(runs: list[StudyRun]):
    axes = np.reshape(drawn(importance_by_depth(runs)).figure.axes, (4, 2))
    assert [one.get_ylabel() for one in axes[:, 0]] == [
        f"{norm}\n{statistic}" for norm in ("SN", "sn_group") for statistic in ("mean", "variance")
    ]
    assert [[len(one.lines) for one in row] for row in axes] == [[2, 3]] * 2 + [[3, 4]] * 2
    np.testing.assert_allclose(axes[0, 1].lines[0].get_ydata(), [0.25, 0.45])
    low, high = (f(axes[0, 1].collections[0].get_paths()[0].vertices[:, 1]) for f in (min, max))
    assert (low, high) == pytest.approx((0.2, 0.5))
    assert axes[2, 0].get_title() == "n = 1, no batch"


def test_geometries_of_other_total_batches_are_not_joined(tmp_path: Path):
    study = study_config(((4, 2), (2, 4), (8, 2)), ("sn",))
    for cell in cells(run_config(tmp_path), study):
        write_finished(cell, importance=layers(0.2))
    figure = drawn(importance_by_geometry(read_runs(tmp_path)))
    assert sorted(map(len, points(figure, 0, 0))) == [1] * 3 + [2] * 3


def test_bars_are_ranges_and_one_seed_has_none(runs: list[StudyRun]):
    sn, _, one_seed, _ = drawn(importance_by_geometry(runs)).figure.axes
    (bars,) = sn.containers[0].lines[2]
    np.testing.assert_allclose(np.stack(bars.get_segments())[:, :, 1], [[0.3, 0.4]] * 2)
    (bars,) = one_seed.containers[0].lines[2]
    assert not any(segment.size for segment in bars.get_segments())


def test_a_missing_run_is_a_gap(tmp_path: Path):
    study = study_config(((8, 2), (4, 4), (2, 8)), ("sn", "sn_group"), variants=VARIANTS)
    for cell in cells(run_config(tmp_path), study):
        parts = GROUP if cell.norm == "sn_group" else PAPER
        if (cell.norm, cell.config.batch.gpus) != ("sn_group", 4):
            write_finished(cell, importance=layers(0.4, parts=parts))
    runs = read_runs(tmp_path)
    instance = points(drawn(importance_by_geometry(runs)), 1, 0)[0]
    assert instance == pytest.approx([0.4, np.nan, 0.4], nan_ok=True)
    titles = [one.get_title() for one in drawn(importance_by_depth(runs)).figure.axes]
    assert titles[6:9] == titles[9:] == ["n = 1", "no ratios", "n = 1"]


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (layers(0.9, count=3), "its layers are not those of other seeds"),
        (layers(0.9, parts=GROUP), "its layers are not those of other seeds"),
        (layers(float("nan")), "it has ratios that are no numbers"),
    ],
    ids=["depth", "parts", "nan"],
)
def test_a_run_that_is_left_out_is_named(tmp_path: Path, caplog, other, reason: str):
    for cell in cells(run_config(tmp_path), study_config(norms=("sn",), seeds=(0, 1))):
        write_finished(cell, importance=other if cell.seed else layers(0.2))
    figure = drawn(importance_by_geometry(read_runs(tmp_path)))
    assert f"sn_2x8_seed1 is left out: {reason}." in figure.note and reason in caplog.text
    assert "n = 1: mean instance 20.0 %" in figure.alt


def test_nothing_left_to_draw_is_logged(tmp_path: Path, caplog):
    (cell,) = cells(run_config(tmp_path), study_config(norms=("sn",)))
    write_finished(cell, importance=layers(float("nan")))
    assert importance_by_geometry(read_runs(tmp_path)) is None
    assert "sn_2x8_seed0 is left out" in caplog.text


def test_seeds_that_agree_have_a_range_of_zero(tmp_path: Path):
    # The mean of three times 0.1 is below 0.1 or above it, by rounding
    for cell in cells(run_config(tmp_path), study_config(norms=("sn",), seeds=(0, 1, 2))):
        write_finished(cell, importance=layers(0.1))
    alt = drawn(importance_by_geometry(read_runs(tmp_path))).alt
    assert "SN at (2, 8), n = 3: mean instance 10.0 % (10.0 to 10.0)" in alt


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_any_number_of_parts_is_drawn(tmp_path: Path, count: int):
    (cell,) = cells(run_config(tmp_path), study_config(norms=("sn",)))
    layer: dict[str, Any] = {"layer": "a"} | dict.fromkeys(
        ("mean", "variance"), [1 / count] * count
    )
    names = PAPER[:count]  # as in files of older versions, which do not name them
    if count == 4:
        names = layer["parts"] = GROUP
    write_finished(cell, importance=[layer])
    text = ", ".join(f"{name} {100 / count:.1f} %" for name in names)
    for draw in (importance_by_geometry, importance_by_depth):
        assert f"mean {text}; variance {text}" in drawn(draw(read_runs(tmp_path))).alt


def test_csv_has_every_ratio_of_the_results(runs: list[StudyRun]):
    text = importance_csv(runs)
    assert text is not None
    header = "norm,gpus,clips_per_gpu,seed,layer,depth,statistic,part,ratio,run"
    assert text.splitlines()[0] == header
    rows = list(csv.DictReader(text.splitlines()))
    found = {
        (row["run"], row["layer"], row["statistic"], row["part"]): float(row["ratio"])
        for row in rows
    }
    expected = {
        (run.name, layer["layer"], statistic, part): ratio
        for run in runs
        for layer in json.loads((run.folder / "results.json").read_text())["importance"] or []
        for statistic in ("mean", "variance")
        for part, ratio in zip(layer["parts"], layer[statistic], strict=True)
    }
    assert found == expected and len(rows) == len(expected) == 2 * 2 * (2 * (2 + 3) + 3 + 4)
    row = next(row for row in rows if row["run"] == "sn_group_2x8_seed0")
    place = [row[key] for key in ("norm", "gpus", "clips_per_gpu", "seed", "layer", "depth")]
    assert place == ["sn_group", "2", "8", "0", "blocks.0.norm", "0.0"]


def test_no_sn_no_csv(tmp_path: Path):
    for cell in cells(run_config(tmp_path), study_config(norms=("bn", "gn"))):
        write_finished(cell)
    assert importance_csv(read_runs(tmp_path)) is None
