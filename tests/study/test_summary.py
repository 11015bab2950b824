"""Numbers of a study: rows, intervals, paired differences, and warnings about comparability."""

import csv
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from snvideo.errors import SnvideoError
from snvideo.report.study_report import comparison_md
from snvideo.study.comparability import comparison_warnings
from snvideo.study.config import cells
from snvideo.study.differences import paired_differences
from snvideo.study.intervals import (
    confidence_interval,
    holm,
    rounding_of_differences,
    t_test,
)
from snvideo.study.runs import STUDY_FILE, read_metrics, read_runs
from snvideo.study.summary import (
    accuracy_table,
    class_table,
    comparison_csv,
    difference_table,
)
from tests.study.fakes import run_config, study_config, write_begun, write_finished

ACCURACY = {"sn": (0.80, 0.82, 0.81), "bn": (0.60, 0.63, 0.60), "gn": (0.79, 0.84, 0.80)}


def three_seeds(folder: Path, **study):
    """SN, BN and GN at (2, 8) with the accuracies above for seeds 0, 1, 2."""
    for cell in cells(run_config(folder), study_config(seeds=(0, 1, 2), **study)):
        write_finished(cell, ACCURACY[cell.norm][cell.seed])
    return read_runs(folder)


def test_csv_has_a_row_for_every_run(tmp_path: Path):
    study = study_config(norms=("sn", "bn"))
    sn, bn = cells(run_config(tmp_path), study)
    write_finished(sn, 0.75, replaced_samples=2)
    write_begun(bn)
    text = comparison_csv(read_runs(tmp_path))
    assert text.splitlines()[0] == (
        "norm,gpus,clips_per_gpu,total_batch,lr,seed,clip_top1,clip_top5,video_top1,video_top5,"
        "mean_average_precision,train_seconds,replaced_samples,failed_videos,statistics,index_hash,status,run"
    )
    rows = {row["norm"]: row for row in csv.DictReader(io.StringIO(text))}
    assert (rows["sn"]["video_top1"], rows["sn"]["clip_top1"]) == ("0.75", "0.72")
    assert (rows["sn"]["total_batch"], rows["sn"]["replaced_samples"]) == ("16", "2")
    assert rows["sn"]["statistics"] == "average of up to 200 batches"
    assert (rows["bn"]["video_top1"], rows["bn"]["status"]) == ("", "unfinished")


def test_means_over_seeds_with_their_interval(tmp_path: Path):
    # SN: mean 81, s = 1, half = t(0.975, 2) / sqrt(3) = 4.302653 / 1.732051 = 2.484
    # BN: mean 61, s = sqrt(3) = 1.7320508, half = 4.302653
    lines = accuracy_table(three_seeds(tmp_path)).rows
    assert [(line[0], line[2], line[3], line[-1]) for line in lines] == [
        ("(2, 8)", "SN", "81.0 ± 2.5", "n = 3"),
        ("(2, 8)", "BN", "61.0 ± 4.3", "n = 3"),
        ("(2, 8)", "GN", "81.0 ± 6.6", "n = 3"),
    ]


def test_differences_are_paired_by_seed(tmp_path: Path):
    # SN - BN: 20, 19, 21: mean 20, s = 1, half 2.484. Unpaired it would be far wider.
    # SN - GN: 1, -2, 1: mean 0, s = 1.732, half 4.303
    assert difference_table(three_seeds(tmp_path)).rows == [
        ("(2, 8)", "SN - BN", "+20.0 ± 2.5", "n = 3", "0.0017", "SN higher"),
        (
            "(2, 8)",
            "SN - GN",
            "+0.0 ± 4.3",
            "n = 3",
            "1",
            "inside its interval: no difference shown",
        ),
    ]


def test_classes_that_norms_tell_apart_differently(tmp_path: Path):
    figures = {
        ("sn", 0): ([0.5, 1.0, None, 0.2], [1.0, 0.5, None, None]),
        ("sn", 1): ([0.7, 1.0, None, 0.4], [0.8, 0.5, None, 0.6]),
        ("bn", 0): ([0.5, 0.2, None, 0.3], [0.7, 0.1, None, 0.3]),
        ("bn", 1): ([0.5, 0.2, None, 0.3], [0.7, 0.1, None, 0.3]),
    }
    for cell in cells(run_config(tmp_path), study_config(norms=("sn", "bn"), seeds=(0, 1))):
        recall, precision = figures[cell.norm, cell.seed]
        change = {"per_class_accuracy": recall, "per_class_precision": precision}
        write_finished(cell, **change, per_class_videos=[10, 8, 0, 12])
    runs = read_runs(tmp_path)
    names = runs[0].results.classes
    table = class_table(runs)
    assert table.header == ("(gpus, clips)", "class", "videos", "SN", "BN")
    assert [row[1:] for row in table.rows] == [
        (names[1], "8", "100.0 / 50.0", "20.0 / 10.0"),  # no class without videos
        (names[0], "10", "60.0 / 90.0", "50.0 / 70.0"),
        (names[3], "12", "30.0 / 60.0", "30.0 / 30.0"),
    ]


def test_runs_of_older_versions_have_no_table_of_classes(tmp_path: Path):
    assert class_table(three_seeds(tmp_path)).rows == []


def test_one_norm_alone_has_no_table_of_classes(tmp_path: Path):
    for cell in cells(run_config(tmp_path), study_config(norms=("sn",))):
        write_finished(cell, per_class_precision=[0.5] * 4, per_class_videos=[10] * 4)
    assert class_table(read_runs(tmp_path)).rows == []


def test_runs_of_one_label_and_of_several_beside_each_other(tmp_path: Path):
    """As in a report of a folder of many runs: what one kind has not is left open."""
    several = {"mean_average_precision": 0.4, "confusion": [], "per_class_videos": [12] * 4}
    for cell in cells(run_config(tmp_path), study_config(norms=("sn", "bn"))):
        changes = several if cell.norm == "sn" else {"per_class_precision": [0.5] * 4}
        write_finished(cell, 0.5, **changes)
    runs = read_runs(tmp_path)
    assert [row[3] for row in accuracy_table(runs).rows] == ["40.0", "-"]
    text = comparison_md(runs, "both")
    assert "SN at (2, 8)" in text or "SN against BN" in text


def test_only_seeds_that_both_have_are_paired(tmp_path: Path):
    runs = [run for run in three_seeds(tmp_path) if run.name != "bn_2x8_seed1"]
    line = difference_table(runs).rows[0]
    # 20, 21: s = 0.71 points, but sqrt(1 / 6) / 40 = 1.02 by rounding; half 12.7062 s / sqrt(2)
    assert line[1:4] == ("SN - BN", "+20.5 ± 9.2", "n = 2")
    assert any(
        "unequal seeds at (2, 8): sn 0, 1, 2; bn 0, 2" in text for text in comparison_warnings(runs)
    )


def test_one_seed_gives_no_interval_and_no_winner(tmp_path: Path):
    for cell in cells(run_config(tmp_path), study_config()):
        write_finished(cell, ACCURACY[cell.norm][0])
    runs = read_runs(tmp_path)
    assert accuracy_table(runs).rows[0][3::4] == ("80.0", "n = 1")
    for line in difference_table(runs).rows:
        assert line[3:] == ("n = 1", "-", "one seed: no interval can be given")
    assert "higher" not in comparison_md(runs, "study")


def test_geometries_are_kept_apart(tmp_path: Path):
    runs = three_seeds(tmp_path, batches=((2, 8), (16, 1)))
    assert [line[0] for line in difference_table(runs).rows] == ["(16, 1)"] * 2 + ["(2, 8)"] * 2


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"index_hash": "b" * 64}, "index hash (aaaaaaaaaaaa in 8 runs; bbbbbbbbbbbb in bn_2x8_"),
        ({"replaced_samples": 3}, "replaced samples (0 in 8 runs; 3 in bn_2x8_seed0)"),
        ({"failed_videos": 1}, "failed videos (0 in 8 runs; 1 in bn_2x8_seed0)"),
        ({"views": {"clips": 10, "crops": 3}}, "views (2 x 1 in 8 runs; 10 x 3 in bn_2x8_seed0)"),
        ({"statistics": {"kind": "population", "batches": 200}}, "statistics (average in 5 runs"),
        ({"statistics": {"kind": "average", "batches": 0}}, "moving averages in bn_2x8_seed0"),
        ({"statistics": {"kind": "average", "batches": 50}}, "statistics at (2, 8)"),
    ],
)
def test_runs_that_cannot_be_compared_are_named(tmp_path: Path, change: dict, told: str):
    assert comparison_warnings(three_seeds(tmp_path)) == []
    cell = next(c for c in cells(run_config(tmp_path), study_config()) if c.norm == "bn")
    write_finished(cell, 0.6, **change)
    runs = read_runs(tmp_path)
    assert len(comparison_warnings(runs)) == 1
    assert comparison_warnings(runs)[0].startswith("not comparable: runs differ in ")
    assert told in comparison_warnings(runs)[0]
    assert told in comparison_md(runs, "study")


def test_norms_without_batch_statistics_may_state_any(tmp_path: Path):
    """GN, and SN with one clip per GPU, have nothing to average."""
    for cell in cells(run_config(tmp_path), study_config(((16, 1),))):
        kind = "average" if cell.norm == "bn" else "population"
        write_finished(cell, 0.5, statistics={"kind": kind, "batches": 200})
    assert comparison_warnings(read_runs(tmp_path)) == []


def test_a_config_that_differs_in_more_than_the_grid_is_noticed(tmp_path: Path):
    sn, bn, _ = cells(run_config(tmp_path), study_config())
    write_finished(sn)
    optim = bn.config.optim.model_copy(update={"lr": 0.2})
    write_finished(replace(bn, config=bn.config.model_copy(update={"optim": optim})))
    told = comparison_warnings(read_runs(tmp_path))
    expected = "optim.lr (0.2 in bn_2x8_seed0; 0.1 in sn_2x8_seed0)"
    assert told == [f"not comparable: runs differ in {expected}"]


def test_metrics_of_a_resumed_and_killed_run(tmp_path: Path):
    lines = [
        '{"kind": "train", "step": 10, "epoch": 1.0, "loss": 2.0}',
        '{"kind": "train", "step": 20, "epoch": 2.0, "loss": 1.0}',
        '{"kind": "train", "step": 20, "epoch": 2.0, "loss": 0.5}',
        '{"kind": "train", "st',
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    metrics = read_metrics(tmp_path)
    assert [line["loss"] for line in metrics["train"]] == [2.0, 0.5]
    assert metrics["validate"] == []


@pytest.mark.parametrize("text", ["{", '{"norm": "sn"}'])
def test_broken_results_are_one_clear_line(tmp_path: Path, text: str):
    cell = cells(run_config(tmp_path), study_config())[0]
    write_begun(cell)
    (cell.folder / "results.json").write_text(text)
    with pytest.raises(SnvideoError, match=r"results\.json: .*delete it and resume"):
        read_runs(tmp_path)


@pytest.mark.parametrize(
    ("values", "mean", "half", "excludes_zero"),
    [
        # deviations squared sum to 0.001, s = sqrt(0.001 / 4) = 0.0158114,
        # t(0.975, 4) = 2.776445, half = 2.776445 * 0.0158114 / sqrt(5) = 0.0196324
        ([0.70, 0.71, 0.72, 0.73, 0.74], 0.72, 0.0196324, True),
        # s = 0.1 / sqrt(2), t(0.975, 1) = 12.7062, half = 12.7062 * 0.1 / 2
        ([0.5, 0.6], 0.55, 0.635310, False),
        ([0.4], 0.4, None, False),
    ],
)
def test_intervals_by_hand(values, mean, half, excludes_zero):
    interval = confidence_interval(values)
    assert interval.mean == pytest.approx(mean)
    assert interval.half == (None if half is None else pytest.approx(half, abs=1e-5))
    assert interval.excludes_zero == excludes_zero


@pytest.mark.parametrize(
    ("values", "p"),
    [
        # t = mean / (s / sqrt(n)) = 0.01 / (0.01 / sqrt(3)) = sqrt(3); with 2 degrees of freedom
        # p = 1 - t / sqrt(2 + t^2) = 1 - sqrt(3 / 5)
        ([0.0, 0.01, 0.02], 1 - (3 / 5) ** 0.5),
        # one degree of freedom: p = 1 - 2 / pi * atan(t), t = 0.55 / 0.05 = 11
        ([-0.5, -0.6], 0.0577158),
        ([0.0, 0.0], 1.0),
        ([0.25, 0.25], 0.0),
        ([0.4], None),
    ],
)
def test_p_of_the_paired_test_by_hand(values, p):
    assert t_test(values) == (None if p is None else pytest.approx(p, abs=1e-6))


def test_equal_differences_are_as_uncertain_as_their_rounding(tmp_path: Path):
    """Of 40 videos: one more in each of two seeds is next to nothing, 35 more is a difference.

    The rounding of one accuracy has the variance 1 / (12 40^2), so s is at least sqrt(1 / 6) / 40 =
    0.0102062; with one degree of freedom p = 1 - 2 / pi atan(mean sqrt(2) / s) and the interval is
    12.7062 s / sqrt(2).
    """
    least = rounding_of_differences(40)
    assert least == pytest.approx(0.0102062, abs=1e-7)
    assert t_test([0.025, 0.025], least) == pytest.approx(0.178912, abs=1e-6)
    assert t_test([0.875, 0.875], least) == pytest.approx(0.00525, abs=1e-5)
    assert t_test([0.1, 0.2], least) == t_test([0.1, 0.2])
    accuracies = {"sn": (21, 24), "gn": (20, 23), "bn": (0, 3)}
    for cell in cells(run_config(tmp_path), study_config(seeds=(0, 1))):
        # As a float32 that torchmetrics gives.
        top1 = float(np.float32(accuracies[cell.norm][cell.seed] / 40))
        write_finished(cell, top1)
    found = {one.norm: one for one in paired_differences(read_runs(tmp_path))}
    assert found["gn"].interval.half == pytest.approx(0.0917, abs=1e-4)
    assert (found["gn"].is_shown, found["bn"].is_shown) == (False, True)


def test_holms_correction_by_hand():
    # Sorted 0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1: 0.04, 0.06, 0.06, 0.04, which may not fall.
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.6, 0.5]) == [1.0, 1.0] and holm([0.03]) == [0.03] and holm([]) == []


def test_what_the_correction_takes_away_is_not_called_higher(tmp_path: Path):
    """6, 7 and 8 points: t = 7 sqrt(3), p = 0.0067 with 2 degrees of freedom, 0.074 of eleven."""
    norms = ("sn", *(f"gn{groups}" for groups in range(1, 12)))
    variants = {norm: {"name": "gn", "groups": int(norm[2:])} for norm in norms[1:]}
    study = study_config(norms=norms, seeds=(0, 1, 2), variants=variants)
    for cell in cells(run_config(tmp_path), study):
        write_finished(cell, 0.8 if cell.norm == "sn" else 0.74 - 0.01 * cell.seed)
    runs = read_runs(tmp_path)
    alone = [run for run in runs if run.norm in ("sn", "gn1")]
    assert [one.reading for one in paired_differences(alone)] == ["SN higher"]
    found = paired_differences(runs)
    assert found[0].p == pytest.approx(11 * paired_differences(alone)[0].p)
    expected = "not after correction: no difference shown"
    assert {one.reading for one in found} == {expected} and len(found) == 11


def test_the_same_runs_at_another_split_are_one_comparison(tmp_path: Path):
    study = study_config(((8, 2), (4, 4)), ("gn", "ln"), (0, 1))
    for cell in cells(run_config(tmp_path), study):
        if cell.gpus == 8:
            write_finished(cell, 0.5 + 0.01 * cell.seed + 0.1 * (cell.norm == "gn") * cell.seed)
    (tmp_path / STUDY_FILE).write_text(yaml.safe_dump(study.model_dump(mode="json")))
    found = paired_differences(read_runs(tmp_path))
    assert len(found) == 2 and found[0].p == found[1].p == pytest.approx(0.5)  # and not 1


def test_another_reference_and_one_without_runs(tmp_path: Path):
    runs = three_seeds(tmp_path)
    rows = difference_table(runs, "bn").rows
    assert [row[1:3] for row in rows] == [("BN - SN", "-20.0 ± 2.5"), ("BN - GN", "-20.0 ± 2.5")]
    assert rows[0][-1] == "BN lower"
    assert difference_table(runs, "ln").rows == []
    study = study_config(norms=("ln", "sn"), reference="ln")
    text = comparison_md(runs, "study", study=study)
    assert "no two norms to compare with LN: video top-1 of SN at (2, 8) 81.0" in text


def test_videos_of_several_labels_are_compared_by_their_mean_average_precision(tmp_path: Path):
    means = {"sn": (0.5, 0.52), "bn": (0.4, 0.42)}
    for cell in cells(run_config(tmp_path), study_config(norms=("sn", "bn"), seeds=(0, 1))):
        write_finished(cell, 0.9, mean_average_precision=means[cell.norm][cell.seed])
    runs = read_runs(tmp_path)
    table = difference_table(runs)
    assert table.header[2] == "mAP" and table.rows[0][2] == "+10.0 ± 0.0"
    assert "percentage points of mAP" in comparison_md(runs, "study")
