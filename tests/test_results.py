"""Published results: numbers and tables of pages are those of the committed raw files."""

import csv
import importlib.util
import json
import re
from collections import defaultdict
from functools import cache
from pathlib import Path
from statistics import mean, median

import pytest
from scipy.stats import spearmanr

from snvideo.engine.config import differences
from snvideo.study.comparability import comparison_warnings
from snvideo.study.intervals import confidence_interval
from snvideo.study.rates import rate_tables
from snvideo.study.runs import StudyRun, read_runs, read_study, single_frame_accuracy
from snvideo.study.summary import SummaryTable, comparison_csv, difference_table, summary_tables

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs/results"
STUDY = RESULTS / "study"
OTHERS = RESULTS / "study_variants"
"""Other norms, and weight standardization."""
PLAIN = RESULTS / "study_plain_logits"
"""The study with the network's own learning rate for SN's logits."""
RATES = RESULTS / "study_rates"
"""That at several learning rates."""
TWICE = RESULTS / "study_sn_fast_logits"
"""SN of the study, at twice its learning rate."""
PARTS = RESULTS / "study_sn"
"""Variants of SN at twice the learning rate, with the network's own for their logits."""
REAL = RESULTS / "ut_interaction_study"
"""The same network on real clips."""
FINETUNED = RESULTS / "ut_interaction_finetune"
CHANGES: dict[str, tuple[str, dict[str, object]]] = {
    "4 epochs": ("study_sn_4_epochs", {"optim.epochs": 4}),
    "8 epochs": ("study_sn_8_epochs", {"optim.epochs": 8}),
    "12 epochs": ("study_sn", {}),
    "24 epochs": ("study_sn_24_epochs", {"optim.epochs": 24}),
    "ratios kept equal": ("study_sn_fixed_ratios", {"optim.logit_lr": 1e-9}),
    "logits at ten times the rate": ("study_sn_fast_logits", {"optim.logit_lr": 10}),
    "last scales begin at zero": ("study_sn_zero_last_scales", {"model.zero_init_last": True}),
}
"""Changes in the study of variants, as the page names them: its folder, and what is changed."""
DECIMAL = re.compile(r"(?<![\d.])[+-]?\d+\.\d(?![\d.])")

PAGE = RESULTS / "README.md"


@cache
def runs(folder: Path = STUDY) -> list[StudyRun]:
    return read_runs(folder)


@cache
def tables_across_studies() -> dict[str, SummaryTable]:
    """The tables of the script beside the page."""
    path = PAGE.with_name("across_studies.py")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script.tables()


@cache
def lines() -> set[str]:
    """Lines of all studies' tables in Markdown."""
    tables = [
        *summary_tables(runs()),
        *tables_across_studies().values(),
        *(
            table
            for folder in (OTHERS, PLAIN, PARTS, REAL)
            for table in summary_tables(runs(folder))
        ),
        *rate_tables(runs(RATES), read_study(RATES)),
    ]
    rows = {f"| {' | '.join(row)} |" for table in tables for row in table.rows}
    return rows | {change_row(label) for label in CHANGES}


def changed_runs(label: str, norm: str) -> list[StudyRun]:
    """Finished runs of a change with two clips a group."""
    found = runs(RESULTS / CHANGES[label][0])
    two = [run for run in found if run.norm == norm and run.geometry == (8, 2)]
    return [run for run in two if run.results is not None]


def change_row(label: str) -> str:
    """Line of the table of changes: SN and GN, and SN against the unchanged one, by seeds."""
    sn, gn = (changed_runs(label, norm) for norm in ("sn", "gn8"))
    plain = {run.seed: run.results.video_top1 for run in changed_runs("12 epochs", "sn")}
    gained = [run.results.video_top1 - plain[run.seed] for run in sn]
    cells = [
        *(interval_text([run.results.video_top1 for run in found]) for found in (sn, gn)),
        interval_text(gained, signed=True) if any(gained) else "",
    ]
    return f"| {label} | {' | '.join(cells)} |"


def interval_text(values: list[float], signed: bool = False) -> str:
    if not values:
        return ""
    return f"{confidence_interval(values).percent(signed)} (n = {len(values)})"


@cache
def stated() -> str:
    """The part of the page that speaks of the study's runs."""
    return PAGE.read_text(encoding="utf-8").partition("## The miniature")[0]


def test_the_study_is_whole_enough_to_be_quoted():
    finished = [run for run in runs() if run.results is not None]
    assert {"sn", "bn", "gn8"} <= {run.norm for run in finished}
    assert not [line for line in comparison_warnings(finished) if "not comparable" in line]


def test_the_table_of_runs_is_that_of_the_raw_files():
    assert (STUDY / "comparison.csv").read_text(encoding="utf-8") == comparison_csv(runs())


def test_runs_at_the_study_s_own_rate_are_the_study_s():
    """But for the norms that see no split, which may be named after another one."""
    own = {(run.norm, run.geometry, run.seed): run for run in runs(PLAIN)}
    repeated = [run for run in runs(RATES) if run.lr == 0.1 and run.results is not None]
    assert len(repeated) >= 15
    for run in repeated:
        results = own[run.norm, run.geometry, run.seed].results
        assert results is not None and results.video_top1 == run.results.video_top1


def test_numbers_of_the_page_are_those_of_the_study():
    known = {number.lstrip("+-") for line in lines() for number in DECIMAL.findall(line)}
    found = [number.lstrip("+-") for number in DECIMAL.findall(stated())]
    assert found and [number for number in found if number not in known] == []


def test_tables_of_the_page_are_those_of_the_study():
    labels = "|".join(CHANGES)
    rows = [line for line in stated().splitlines() if re.match(rf"\| (\(\d|{labels})", line)]
    assert rows and [row for row in rows if row not in lines()] == []


@pytest.mark.parametrize("label", CHANGES)
def test_changes_are_those_that_the_page_names(label):
    _, settings = CHANGES[label]
    found = changed_runs(label, "sn")
    assert len(found) >= 3
    for run in found:
        (plain,) = (one for one in changed_runs("12 epochs", "sn") if one.seed == run.seed)
        assert set(differences(plain.config, run.config)) - {"output"} == set(settings)
        assert all(run.config[key] == value for key, value in settings.items())


def test_p_of_the_page_is_that_of_its_table():
    rows = difference_table(runs()).rows
    (p,) = (row[4] for row in rows if row[:2] == ("(16, 1)", "SN - BN"))
    assert f"p = {p} after correction" in words()


def words() -> str:
    """The page on one line."""
    return " ".join(PAGE.read_text(encoding="utf-8").split())


def accuracies(norm: str) -> dict[int, float]:
    """Mean video top-1 by clips a group."""
    found = defaultdict(list)
    for run in runs():
        if run.norm == norm and run.results is not None:
            found[run.geometry[1]].append(run.results.video_top1)
    return {clips: mean(values) for clips, values in found.items()}


def last_training(norm: str, geometry: str, study: Path = STUDY) -> str:
    """Lowest and highest top-1 of the last epoch, as the page says it."""
    found = []
    for path in study.glob(f"{norm}_{geometry}_seed*/metrics.jsonl"):
        records = [json.loads(line) for line in path.read_text().splitlines()]
        found.append([one["top1"] for one in records if one["kind"] == "train"][-1])
    return f"{100 * min(found):.0f} to {100 * max(found):.0f} %"


def test_training_accuracies_of_the_page():
    bn, two = (last_training("bn", geometry) for geometry in ("16x1", "8x2"))
    alone = last_training("in", "16x1", PLAIN)
    said = words()
    assert f"names {bn} of the clips, about as IN does ({alone})" in said
    assert f"training itself comes less far ({two})" in said
    bn, gn = (last_training(norm, "16x1", REAL) for norm in ("bn", "gn8"))
    assert f"({bn} of them in the last epoch, where GN has {gn})" in said


def shares(folder: Path, statistic: str, part: str, depth: str = "") -> dict[str, str]:
    """Mean importance ratio of SN by clips a group, of the layers at a depth or all, in percent."""
    found = defaultdict(list)
    with (folder / "importance.csv").open() as file:
        for row in csv.DictReader(file):
            where = row["norm"], row["statistic"], row["part"]
            if where == ("sn", statistic, part) and depth in ("", row["depth"]):
                found[row["clips_per_gpu"]].append(100 * float(row["ratio"]))
    return {clips: f"{mean(values):.0f} %" for clips, values in found.items()}


def test_importance_ratios_of_the_page():
    last = shares(PLAIN, "mean", "batch", "1.0")
    assert f"grow, from {last['2']} with two clips to {last['16']} with sixteen" in words()
    stem, layers, slow, variance = (
        shares(*where)["2"]
        for where in (
            (STUDY, "mean", "instance", "0.0"),
            (STUDY, "mean", "layer"),
            (PLAIN, "mean", "layer"),
            (STUDY, "variance", "layer", "1.0"),
        )
    )
    assert f"instance part of the mean comes to {stem} in the stem" in words()
    assert f"layer part to {layers} averaged over layers ({slow} at" in words()
    assert f"and to {variance} of the variance in the last norm" in words()
    last, all_layers = (shares(STUDY, "mean", "batch", depth) for depth in ("1.0", ""))
    two, four, eight = (last[clips] for clips in "248")
    assert f"{two} of the mean in the last norm with two clips, {four} with four" in words()
    assert f"added: {two}, {four} and {eight} with two, four and eight" in words()
    two, eight = (all_layers[clips].removesuffix(" %") for clips in "28")
    assert f"part of the mean grows from {two} to {eight} %" in words()
    layer = shares(STUDY, "mean", "layer")
    assert f"{layer['1']} of the mean over all layers with one, {layer['8']} with eight" in words()
    one, eight = (layer[clips].removesuffix(" %") for clips in "18")
    assert f"layer part falls from {one} to {eight} %" in words()


def test_noise_of_the_page():
    layers = json.loads((STUDY / "noise.json").read_text())["batch_norm"]
    sizes = (1, 2, 4, 8, 16)
    noise = [median(layer["noise_by_size"][str(size)] for layer in layers) for size in sizes]
    one, two, four, eight, sixteen = (f"{value:.2f}" for value in noise)
    assert f"{one} with one clip, {two} with two, {four} with four" in words()
    assert f"{eight} with eight and {sixteen} with sixteen" in words()
    (gn,) = set(accuracies("gn8").values())  # one computation, at every split
    lost = [gn - accuracies("bn")[size] for size in sizes]
    assert f"loses against GN is {spearmanr(noise, lost).statistic:.2f}" in words()


def test_accuracy_of_single_frames_is_that_of_the_page_and_the_figure():
    found = 100 * single_frame_accuracy(ROOT / "docs/results/single_frame", runs())
    assert f"tells {found:.1f} % of the videos" in words()
    assert f"ingle frames: {found:.1f} %" in (STUDY / "comparison.md").read_text(encoding="utf-8")


def test_tables_of_fine_tuning_are_those_of_its_runs():
    page = (ROOT / "docs/finetune.md").read_text(encoding="utf-8")
    known = {
        f"| {' | '.join(row)} |"
        for table in summary_tables(runs(FINETUNED), "sn_l1")
        for row in table.rows
    }
    rows = [line for line in page.splitlines() if line.startswith("| (8, 2)")]
    assert len(rows) == 7 and [row for row in rows if row not in known] == []
    numbers = {number.lstrip("+-") for row in known for number in DECIMAL.findall(row)}
    said = " ".join(RESULTS.joinpath("README.md").read_text(encoding="utf-8").split())
    (said,) = re.findall(r"\[Fine-tuning\].*?(?= ## )", said)
    assert not {number for number in DECIMAL.findall(said)} - numbers


def test_numbers_of_the_norm_doctor_are_those_of_the_study():
    page = " ".join((ROOT / "docs/norm_doctor.md").read_text(encoding="utf-8").split())
    two, four, eight = (f"{100 * accuracies('bn')[clips]:.1f} %" for clips in (2, 4, 8))
    gn = f"{100 * accuracies('gn8')[8]:.1f} %"
    assert f"BN has {two} with two clips a group" in page
    assert f"{four} with four (0.23) and {eight} with eight (0.17), beside {gn} of GN" in page


def test_numbers_of_the_readme_are_those_of_the_study():
    readme = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Install")[0]
    known = {number.lstrip("+-") for line in lines() for number in DECIMAL.findall(line)}
    found = DECIMAL.findall(readme)
    assert found and [number for number in found if number.lstrip("+-") not in known] == []
