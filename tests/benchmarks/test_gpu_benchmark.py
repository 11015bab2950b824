"""The program for GPUs goes on where it stopped and names what is left."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import gpu
import typer


@pytest.fixture
def parts(monkeypatch, tmp_path):
    """Three parts: one that writes, one that fails, one that is too slow."""
    script = tmp_path / "write.py"
    script.write_text(
        "import sys; open(sys.argv[sys.argv.index('--json') + 1], 'w').write('{}'); print('ran')"
    )
    found = (
        gpu.Part("writes", (str(script),)),
        gpu.Part("fails", ("-c", "raise SystemExit(3)"), written=False),
        gpu.Part("slow", ("-c", "import time; time.sleep(60)"), written=False),
    )
    monkeypatch.setattr(gpu, "PARTS", found)


def test_parts_are_written_left_out_and_named(parts, tmp_path, capsys):
    out = tmp_path / "out"
    for outcome in ("done in", "done before"):
        with pytest.raises(typer.Exit):
            gpu.main(minutes=0.05, small=True, folder=out)
        lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()[-3:])
        assert lines["writes"].startswith(outcome)
        assert lines["fails"] == "failed with exit code 3"
        assert lines["slow"].startswith("stopped after")
    assert [file.name for file in out.iterdir()] == ["gpu_writes.json"]
