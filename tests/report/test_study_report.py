"""The report: its answer first, self-contained, readable on a phone, from whatever there is."""

import html
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import yaml
from matplotlib.image import imread

from snvideo.errors import SnvideoError
from snvideo.norm import NORMS
from snvideo.report.answer import answer, limits
from snvideo.report.figures import FIGURES, save_figures
from snvideo.report.figures.accuracy import accuracy
from snvideo.report.study_report import comparison_md, conditions, write_report
from snvideo.report.style import looks_of, norm_colour, norm_marker
from snvideo.study.config import cells
from snvideo.study.runs import STUDY_FILE, norms_of, read_runs, single_frame_accuracy
from tests.study.fakes import run_config, study_config, write_begun, write_finished
from tests.study.test_summary import three_seeds

ALL = set(FIGURES)
IMPORTANCE = {"importance_by_depth.png", "importance_by_geometry.png"}


def _figures(folder: Path) -> set[str]:
    return {path.name for path in (folder / "figures").glob("*")}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of 3 norms x 2 geometries x 2 seeds."""
    folder = tmp_path_factory.mktemp("study")
    for cell in cells(run_config(folder), study_config(((2, 8), (16, 1)), seeds=(0, 1))):
        write_finished(cell, 0.5 + 0.1 * cell.seed)
    write_report(folder)
    return folder


def test_everything_is_written(study: Path):
    files = {path.name for path in study.iterdir() if path.is_file()}
    assert files == {"comparison.csv", "importance.csv", "comparison.md", "report.html"}
    assert _figures(study) == ALL
    for name in ALL:
        height, width = imread(study / "figures" / name).shape[:2]
        assert width == 1440 and height > 400


def test_the_page_needs_no_other_file(study: Path):
    text = (study / "report.html").read_text()
    sources = re.findall(r"""(?:src|href)\s*=\s*["']?([^"'\s>]{0,30})""", text)
    assert len(sources) == len(ALL)
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert "http" not in text and "url(" not in text and "@import" not in text
    assert "<script" not in text


def test_the_page_holds_tables_runs_and_environment(study: Path):
    text = (study / "report.html").read_text()
    for part in ("SN - BN", "sn_16x1_seed1", "<th>batch.clips_per_gpu</th>", "packages.torch"):
        assert part in text
    assert "Warnings" not in text and "to be read with care" not in text


def test_values_are_escaped(tmp_path: Path):
    cell = cells(run_config(tmp_path), study_config(norms=("sn",)))[0]
    write_finished(cell, 0.5, model="<script>alert('x')</script>")
    text = write_report(tmp_path).read_text()
    assert "<script" not in text
    assert "&lt;script&gt;" in text


def test_runs_that_are_not_finished_are_in_the_report(tmp_path: Path):
    sn, bn, gn = cells(run_config(tmp_path), study_config())
    write_finished(sn)
    write_begun(bn)
    gn.folder.mkdir()
    (gn.folder / "cell.yaml").write_text((bn.folder / "config.yaml").read_text())
    (gn.folder / "failure.txt").write_text("failed (exit 1)\n")
    text = write_report(tmp_path).read_text()
    assert "bn_2x8_seed0: unfinished" in text
    assert "gn_2x8_seed0: failed (exit 1)" in text
    assert _figures(tmp_path) == ALL


def test_nothing_finished_draws_the_curves_alone(tmp_path: Path):
    write_begun(cells(run_config(tmp_path), study_config())[0])
    write_report(tmp_path)
    assert _figures(tmp_path) == {"curves.png"}


def test_without_sn_and_metrics_the_rest_is_drawn(tmp_path: Path):
    for cell in cells(run_config(tmp_path), study_config(((8, 8), (4, 8)), ("bn", "syncbn"))):
        write_finished(cell)
        (cell.folder / "metrics.jsonl").unlink()
    write_report(tmp_path)
    assert _figures(tmp_path) == ALL - IMPORTANCE - {"curves.png"}


def test_a_figure_that_no_longer_holds_is_removed(tmp_path: Path):
    cell = cells(run_config(tmp_path), study_config(norms=("sn",)))[0]
    write_finished(cell)
    write_report(tmp_path)
    assert (tmp_path / "importance.csv").exists()
    write_finished(cell, importance=None)
    write_report(tmp_path)
    assert _figures(tmp_path) == ALL - IMPORTANCE
    assert not (tmp_path / "importance.csv").exists()


def test_every_norm_has_a_look_of_its_own_and_an_unlisted_one_a_place(tmp_path: Path):
    assert (
        len({norm_colour(norm) for norm in NORMS}) == len({*map(norm_marker, NORMS)}) == len(NORMS)
    )
    assert norm_colour("new") not in map(norm_colour, NORMS)
    sn, bn = cells(run_config(tmp_path), study_config(norms=("sn", "bn")))
    for cell in (sn, bn):
        write_finished(cell)
    runs = [replace(run, norm={"bn": "new"}.get(run.norm, run.norm)) for run in read_runs(tmp_path)]
    assert norms_of(runs) == ["sn", "new"]
    assert {figure.path.name for figure in save_figures(runs, tmp_path)} == ALL


def test_variants_have_looks_of_their_own():
    names = [*NORMS, *(f"variant{number}" for number in range(12))]
    looks = looks_of(names)
    assert list(looks) == names and len(set(looks.values())) == len(names)
    assert all(looks[norm].color == norm_colour(norm) for norm in NORMS)


def test_a_diverged_run_is_drawn(tmp_path: Path):
    cell = cells(run_config(tmp_path), study_config(norms=("bn",)))[0]
    write_finished(cell)
    line = '{"kind": "train", "step": 1, "epoch": 0.1, "loss": NaN, "top1": 0.1, "lr": 0.1}\n'
    (cell.folder / "metrics.jsonl").write_text(line)
    write_report(tmp_path)
    assert "curves.png" in _figures(tmp_path)


def test_a_single_run_can_be_reported(tmp_path: Path):
    cell = cells(run_config(tmp_path), study_config(norms=("sn",)))[0]
    write_finished(replace(cell, config=cell.config.model_copy(update={"output": tmp_path})))
    assert "n = 1" in write_report(tmp_path).read_text()


@pytest.mark.parametrize("name", ["", "missing"])
def test_a_folder_without_runs_is_one_clear_line(tmp_path: Path, name: str):
    with pytest.raises(SnvideoError, match="no runs in") as caught:
        write_report(tmp_path / name)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_the_users_matplotlib_is_left_alone(study: Path):
    before = dict(matplotlib.rcParams)
    write_report(study)
    assert dict(matplotlib.rcParams) == before


def test_markdown_states_the_conditions(tmp_path: Path):
    text = comparison_md(three_seeds(tmp_path), "toy")
    for line in (
        "# toy",
        "- model: i3d_tiny",
        "- epochs: 8",
        "- classes: 4, chance 25 %",
        "- views: 2 x 1 (clips x crops)",
        "- statistics for evaluation: average of up to 200 batches",
        "- total batch: 16 clips in every geometry: only the statistics differ",
        "| (2, 8) | SN - BN | +20.0 ± 2.5 | n = 3 | 0.0017 | SN higher |",
    ):
        assert line in text.splitlines()
    assert "Warnings" not in text


def test_conditions_of_runs_of_steps(tmp_path: Path):
    for cell in cells(run_config(tmp_path), study_config(((2, 8), (8, 1)), norms=("gn",))):
        write_finished(cell, epochs=None)
    found = conditions(read_runs(tmp_path))
    assert found["steps"] == "400" and "epochs" not in found
    assert found["total batch"] == "8, 16 clips: at equal steps the number of clips differs too"


def test_the_answer_is_what_the_intervals_show(tmp_path: Path):
    # SN - BN: 20.0 ± 2.5, SN - GN: 0.0 ± 4.3, as worked out in tests/study/test_summary.py
    runs = three_seeds(tmp_path)
    assert answer(runs) == [
        "SN against BN: SN is higher by 20.0 ± 2.5 at (2, 8).",
        "SN against GN: no difference is shown: +0.0 ± 4.3 at (2, 8).",
        "All in percentage points of video top-1 at (gpus, clips per GPU); means over 3 seeds, "
        "paired by seed, ± 95 % confidence interval; higher and lower where p < 0.05 after Holm's "
        "correction for the number of comparisons.",
    ]
    assert limits(runs) == []
    write_report(tmp_path)
    page = (tmp_path / "report.html").read_text()
    order = ("SN against BN", "<img", "<h2>Accuracy", "<h2>Conditions", "<h2>Figures", "<h2>Runs")
    assert [page.index(part) for part in order] == sorted(page.index(part) for part in order)


def test_one_seed_is_no_answer_and_a_lower_accuracy_is_told(tmp_path: Path):
    for cell in cells(run_config(tmp_path), study_config(((2, 8), (16, 1)))):
        write_finished(cell, {"sn": 0.6, "bn": 0.7, "gn": 0.3}[cell.norm])
    text = " ".join(answer(read_runs(tmp_path)))
    assert "one seed shows nothing yet: -10.0 at (16, 1), -10.0 at (2, 8)" in text
    assert "higher" not in text and "lower" not in text and "n = 1" in text
    for cell in cells(run_config(tmp_path), study_config(((2, 8),), seeds=(1, 2))):
        write_finished(cell, {"sn": 0.6, "bn": 0.7, "gn": 0.3}[cell.norm] + 0.01 * cell.seed)
    (bn, _) = answer(read_runs(tmp_path))[:2]
    assert "SN is lower by 10.0 ± 2.5 at (2, 8); one seed shows nothing yet" in bn


def test_the_limits_of_the_answer_are_named(tmp_path: Path):
    confusion = [[0, 9, 1, 0], [0, 8, 1, 1], [2, 0, 8, 0], [0, 0, 0, 10]]
    sn, bn, gn = cells(run_config(tmp_path), study_config())
    write_finished(sn, 0.8, confusion=confusion)
    write_finished(gn, 0.3, confusion=confusion, replaced_samples=1)
    write_begun(bn)
    told = limits(read_runs(tmp_path))
    assert told == [
        "1 of 3 runs not finished: bn_2x8_seed0: unfinished.",
        "One seed, so no interval can be given and no difference is shown: GN at (2, 8).",
        "Video top-1 not above chance by two standard errors: GN at (2, 8).",
        "Classes recognised no better than by chance, over all runs: growing.",
    ]
    write_finished(cells(run_config(tmp_path), study_config(norms=("bn",), seeds=(5,)))[0], 0.7)
    assert "No pair of runs with the same seed: BN at (2, 8)." in limits(read_runs(tmp_path))


def test_nothing_to_compare_is_said(tmp_path: Path):
    sn = cells(run_config(tmp_path), study_config(norms=("sn",)))[0]
    write_begun(sn)
    nothing = "There are no two norms to compare: no run is finished."
    assert answer(read_runs(tmp_path)) == [nothing]
    write_finished(sn, 0.8)
    (sentence,) = answer(read_runs(tmp_path))
    assert sentence.endswith("video top-1 of SN at (2, 8) 80.0 % (n = 1).")


def test_every_figure_has_its_numbers_in_words(study: Path):
    images = re.findall(r'<img [^>]*alt="([^"]+)"', (study / "report.html").read_text())
    texts = [html.unescape(text) for text in images]
    assert len(texts) == len(ALL)
    assert "SN: 55.0 ± 63.5 % at (16, 1)" in texts[0] and "Chance: 25 %." in texts[0]
    for text, part in zip(
        texts[1:],
        (
            "SN at (16, 1), n = 2: mean instance 75.0 % (75.0 to 75.0), layer 25.0 %",
            "first and last of 5 layers",
            "BN at (2, 8), last loss 0.412, last validation top-1 64.0 %",
            "rising as growing 20 %",
        ),
        strict=True,
    ):
        assert part in text


_PROBE = """<script>
addEventListener("load", () => {
  const frame = document.querySelector("iframe").contentDocument;
  const alts = [...frame.images].map((image) => image.alt.length > 0 && image.naturalWidth > 0);
  document.title = `${frame.scrollingElement.scrollWidth} ${alts.filter(Boolean).length}`;
});
</script>"""
_NAMES = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, _NAMES)), "")


def browse(page: Path, *arguments: str) -> str:
    """Open a page in a headless browser with an empty profile; returns the output."""
    options = [
        *("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"),
        *("--allow-file-access-from-files", f"--user-data-dir={page.parent / 'profile'}"),
    ]
    command = [BROWSER, *options, *arguments, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.mark.skipif(not BROWSER, reason="no Chromium installed")
def test_a_browser_shows_it_380_pixels_wide(study: Path, tmp_path: Path):
    (cell,) = cells(run_config(tmp_path / "long"), study_config(norms=("sn",)))
    write_finished(cell, model="m" * 300)
    write_report(tmp_path / "long")
    for report in (study / "report.html", tmp_path / "long" / "report.html"):
        page = tmp_path / "narrow.html"  # an own window cannot be as narrow
        frame = f'<iframe src="{report.as_uri()}" width="380" height="800" style="border:0">'
        page.write_text(f"{frame}</iframe>{_PROBE}")
        dom = browse(page, "--virtual-time-budget=10000", "--dump-dom")
        width, images = map(int, re.search(r"<title>(\d+) (\d+)</title>", dom).groups())
        assert width <= 380
        assert images == len(ALL)
    browse(page, f"--screenshot={tmp_path / 'narrow.png'}", "--window-size=500,820")
    assert np.unique(imread(tmp_path / "narrow.png")).size > 20


def test_single_frames_are_a_line_if_they_can_be_had(tmp_path: Path, caplog):
    frames = {"index": "toy/index.csv", "clip": {"frames": 1}}
    single = cells(run_config(tmp_path / "single", data=frames), study_config(norms=("bn",)))[0]
    folder = tmp_path / "study"
    config, study = run_config(folder), study_config(norms=("sn",), single_frame=single.folder)
    (cell,) = cells(config, study)
    write_finished(cell, 0.9)
    (folder / STUDY_FILE).write_text(yaml.safe_dump(study.model_dump(mode="json")))
    runs = read_runs(folder)
    with pytest.raises(SnvideoError, match="is not a finished run"):
        single_frame_accuracy(single.folder, runs)
    write_finished(single, 0.7, index_hash="b" * 64)
    write_report(folder)
    assert "tested on another index; the figure is drawn without it" in caplog.text
    write_finished(single, 0.7)
    assert single_frame_accuracy(single.folder, runs) == 0.7
    with pytest.raises(SnvideoError, match="have 8 frames, not one"):
        single_frame_accuracy(cell.folder, runs)
    text = accuracy(runs, 0.7)[1]
    assert "Chance: 25 %. Ceiling: 100 %. Single frames: 70 %." in text
