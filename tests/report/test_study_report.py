"""The report: complete, self-contained, and drawn from whatever there is."""

import re
from dataclasses import replace
from pathlib import Path

import matplotlib
import pytest
from matplotlib.image import imread

from snvideo.errors import SnvideoError
from snvideo.report.figures import FIGURES
from snvideo.report.study_report import comparison_md, write_report
from snvideo.study.config import cells
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
    assert files == {"comparison.csv", "comparison.md", "report.html"}
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
    assert 'class="warnings"' not in text


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
    write_finished(cell, importance=None)
    write_report(tmp_path)
    assert _figures(tmp_path) == ALL - IMPORTANCE


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
        "- statistics for evaluation: average of 200 batches",
        "- total batch: 16 clips in every geometry: only the statistics differ",
        "| (2, 8) | SN - BN | +20.0 ± 2.5 | n = 3 | SN higher |",
    ):
        assert line in text.splitlines()
    assert "Warnings" not in text
