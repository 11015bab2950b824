"""The benchmark of training steps runs, and its figures are what they claim to be."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.process

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "train_step.py"
NORMS = {"bn", "sn", "gn"}
SWITCHES = {
    *("all off", "channels_last", "deterministic", "optimizer foreach", "optimizer fused"),
    *("activation_checkpointing", "ema", "clip_norm", "default", "best"),
}
PIECES = {"input from bytes", "statistics", "gradient norm", "guard", "tally", "clock"}
STEPS = {"Trainer.step", "bare step", "bare step, from bytes"}
SHAPE = [2, 3, 8, 28, 28]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, str]:
    """Figures and tables of all parts, all small."""
    folder = tmp_path_factory.mktemp("benchmark")
    figures, tables = folder / "figures.json", folder / "tables.md"
    call = [sys.executable, str(SCRIPT), "--network=i3d_tiny", "--threads=2", "--repeats=3"]
    call += ["--clips=2", "--scale=2", f"--json={figures}", f"--markdown={tables}"]
    done = subprocess.run(call, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return json.loads(figures.read_text()), tables.read_text()


def test_trainers_are_held_against_a_plain_loop(outputs):
    rows = {(row["norm"], row["rival"]): row for row in outputs[0]["plain"]}
    plain = {("bn", "plain loop"), ("bn", "plain loop, from bytes")}
    trainers = {(norm, setting) for norm in NORMS for setting in ("all off", "default")}
    assert rows.keys() == plain | trainers
    assert all(row["base"] == "bn, plain loop" for row in rows.values())
    assert all(row["shape"] == SHAPE for row in rows.values())
    of_base = rows["bn", "plain loop"]
    assert (of_base["low"], of_base["median"], of_base["high"]) == (1, 1, 1)
    judged = [row for row in rows.values() if "target" in row]
    assert [(row["norm"], row["rival"]) for row in judged] == [("bn", "all off")]
    assert judged[0]["met"] == (judged[0]["median"] >= judged[0]["target"])


def test_every_switch_is_tried_with_every_norm(outputs):
    rows = outputs[0]["switches"]
    found = [(row["norm"], row["rival"]) for row in rows]
    assert sorted(found) == sorted((norm, switch) for norm in NORMS for switch in SWITCHES)
    speeds = {row["rival"]: row["speed"] for row in rows}
    assert "channels_last" in speeds["channels_last"]
    assert "channels_last" not in speeds["all off"]
    assert "activation_checkpointing" in speeds["activation_checkpointing"]
    assert "fused optimizer" in speeds["optimizer fused"]


def test_rates_are_those_of_the_times(outputs):
    for part in ("plain", "switches", "ghost"):
        for row in outputs[0][part]:
            assert 0 < row["low"] <= row["median"] <= row["high"]
            rate = row["shape"][0] / (row["ms"] / 1e3)
            assert row["clips_per_second"] == pytest.approx(rate)
            assert "of_peak" not in row or row["of_peak"] > 0


def test_ghost_groups_are_held_against_passes_of_the_same_clips(outputs):
    rows = outputs[0]["ghost"]
    assert [(row["norm"], row["rival"]) for row in rows] == [
        (norm, rival) for norm in ("bn", "sn", "gn") for rival in ("8 passes", "8 groups in a pass")
    ]
    assert all(row["shape"] == [32, *SHAPE[1:]] for row in rows)


def test_what_a_step_costs_beyond_the_bare_one_is_shown_in_pieces(outputs):
    rows = {(row["norm"], row["rival"]): row for row in outputs[0]["overhead"]}
    for norm in NORMS:
        ms = {rival: row["ms"] for (each, rival), row in rows.items() if each == norm}
        assert ms.keys() >= STEPS | PIECES | {"the rest", "log line / 10"}
        assert all(spent > 0 for piece, spent in ms.items() if piece != "the rest")
        assert all(ms[piece] < ms["bare step"] for piece in PIECES)
        whole = rows[norm, "Trainer.step"]
        assert whole["met"] == (whole["median"] <= whole["target"])
        assert whole["over_bytes"]["low"] <= whole["over_bytes"]["high"]


def test_says_where_figures_come_from(outputs):
    figures, tables = outputs
    assert figures["machine"]["threads"] == 2
    assert figures["machine"].keys() >= {"device", "torch", "cpu_kernels"}
    assert "python benchmarks/train_step.py --network=i3d_tiny" in figures["command"]
    assert figures["command"] in tables
    assert "i3d_tiny: clips a second, plain loop = 1 (quartiles)" in tables
    assert all(f"- {line}" in tables for line in figures["remarks"])
