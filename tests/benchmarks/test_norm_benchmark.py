"""The benchmark of norms runs, and its figures are what they claim to be."""

import json
import subprocess
import sys
from math import prod
from pathlib import Path

import pytest

pytestmark = pytest.mark.process

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "norm.py"
OURS = "SwitchNorm3d"
HELD_AGAINST_OURS = {"textbook SN", f"{OURS} of four parts"}
RIVALS = {"BatchNorm3d", "GroupNorm", OURS, *HELD_AGAINST_OURS}
RIVALS |= {f"{rival} / {OURS}" for rival in HELD_AGAINST_OURS}
FORMATS = {"contiguous", "channels_last_3d"}
LAYERS = {f"res{stage} {place}" for stage in (2, 3, 4, 5) for place in ("inner", "output")}


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, str]:
    """Figures and tables of layers and of a training step, all small."""
    folder = tmp_path_factory.mktemp("benchmark")
    figures, tables = folder / "figures.json", folder / "tables.md"
    call = [sys.executable, str(SCRIPT), "--no-compiled", "--threads=2", "--repeats=3"]
    call += ["--clips=2", "--scale=7", "--step=i3d_tiny", "--step-clips=2", "--layers"]
    call += [f"--json={figures}", f"--markdown={tables}", "--dtype=float32"]
    done = subprocess.run(call, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(figures.read_text()), tables.read_text()


def test_every_rival_has_a_ratio_at_every_shape_in_both_formats(outputs):
    rows = outputs[0]["layers"]
    found = {(row["name"], row["format"], row["rival"]) for row in rows}
    assert found == {(a, b, c) for a in LAYERS for b in FORMATS for c in RIVALS}
    assert len(rows) == len(found)
    assert all(0 < row["low"] <= row["median"] <= row["high"] for row in rows)


def test_batch_norm_is_the_measure(outputs):
    rows = [row for row in outputs[0]["layers"] if row["rival"] == "BatchNorm3d"]
    ms = {(row["name"], row["format"]): row["ms"] for row in rows}
    for row in rows:
        faster = min(ms[row["name"], layout] for layout in FORMATS)
        if row["format"] == "contiguous":
            assert (row["low"], row["median"], row["high"]) == (1, 1, 1)
        else:
            assert row["base_ms"] == faster


def test_switch_norm_keeps_tables_and_no_tensor_of_the_size_of_x(outputs):
    if not outputs[0]["machine"]["cpu_kernels"]:
        pytest.skip("plain operations keep more")
    rows = outputs[0]["memory"]
    assert len(rows) == len(LAYERS) * len(FORMATS)
    for row in rows:
        saved, (samples, channels) = row["saved_bytes"], row["shape"][:2]
        assert row["x_bytes"] == 4 * prod(row["shape"]) <= saved["BatchNorm3d"]
        more = saved["SwitchNorm3d"] - saved["BatchNorm3d"]
        assert more <= 200 * samples * channels + 64 * channels
        assert more == pytest.approx(row["more_per_sample_channel"] * samples * channels)
        assert min(row["peak_bytes"].values()) >= 2 * row["x_bytes"]  # y and dx


def test_a_step_is_timed_with_every_norm(outputs):
    rows = outputs[0]["steps"]
    assert {(row["format"], row["rival"]) for row in rows} == {
        (layout, norm) for layout in FORMATS for norm in ("bn", "sn", "gn")
    }
    assert all(row["median"] > 0 for row in rows)
    assert all(row["median"] == 1 for row in rows if row["rival"] == "bn")


def test_says_where_figures_come_from(outputs):
    figures, tables = outputs
    assert figures["machine"]["threads"] == 2
    assert "--scale=7" in figures["command"]
    assert figures["machine"].keys() >= {"device", "torch", "cpu_kernels"}
    assert figures["command"] in tables
    assert "| res5 output | 2x2048x4x1x1 |" in tables
