"""The command line as a user meets it: one line for what can be mended, exit codes, help."""

import json
import subprocess
import sys

import pytest
import yaml

from tests.engine.runs import run_config


def snvideo(*arguments: str, **more) -> subprocess.CompletedProcess[str]:
    call = [sys.executable, "-m", "snvideo", *arguments]
    return subprocess.run(call, capture_output=True, text=True, timeout=300, **more)


def spoil(toy, folder, change) -> str:
    """A copy of the toy index after `change(lines, meta)`; its path."""
    lines = (toy / "index.csv").read_text().splitlines()
    meta = {**json.loads((toy / "index.json").read_text()), "root": str(toy)}
    change(lines, meta)
    (folder / "index.csv").write_text("\n".join(lines) + "\n")
    (folder / "index.json").write_text(json.dumps(meta))
    return str(folder / "index.csv")


def outside(lines: list[str], meta: dict) -> None:
    meta["labels"] = meta["labels"][:3]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["optim.epoch=3"], "unknown key 'optim.epoch': did you mean 'epochs'?"),
        (["optim.epochs=many"], "'optim.epochs': input should be a valid integer"),
        (["data.index=none.csv"], "no index at none.csv: build it with data_tools/build_index.py"),
        (["data.test_split=test"], "no split 'test'"),
        (["data.index=OUTSIDE"], "below 3, the number of classes"),
        (["batch.gpus=40"], "48 videos, less than one batch of 40 x 2 = 80"),
        (["model.name=i3d"], "unknown model 'i3d'"),
    ],
)
def test_what_a_user_can_mend_is_one_line(toy, tmp_path, overrides, message):
    run_config(toy, tmp_path / "run")
    overrides = [o.replace("OUTSIDE", spoil(toy, tmp_path, outside)) for o in overrides]
    done = snvideo("train", str(tmp_path / "run.yaml"), *overrides)
    assert done.returncode == 2
    *_, last = done.stderr.strip().splitlines()
    assert last.startswith("snvideo: ") and message in last
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_geometry_that_does_not_divide_is_one_line(toy, tmp_path):
    run_config(toy, tmp_path / "run")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    call = [sys.executable, *launcher, "-m", "snvideo", "train", str(tmp_path / "run.yaml")]
    done = subprocess.run([*call, "batch.gpus=3"], capture_output=True, text=True, timeout=300)
    assert done.returncode != 0
    assert "snvideo: batch.gpus 3 does not divide among 2 processes: start 1, 3" in done.stderr


def test_train_evaluate_compare_and_report(toy, tmp_path):
    """The four commands after one another, with two norms at one geometry."""
    run_config(toy, tmp_path / "study")
    values = yaml.safe_load((tmp_path / "study.yaml").read_text())
    values["study"] = {"norms": ["sn", "gn"], "batches": [{"gpus": 2, "clips_per_gpu": 4}]}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(values))
    done = snvideo("compare", str(tmp_path / "study.yaml"))
    assert done.returncode == 0, done.stderr
    table = (tmp_path / "study/comparison.csv").read_text().splitlines()
    assert len(table) == 3 and table[0].startswith("norm,gpus,clips_per_gpu")
    assert (tmp_path / "study/report.html").stat().st_size > 10_000

    again = snvideo("compare", str(tmp_path / "study.yaml"))
    assert again.returncode == 0 and again.stderr.count("already finished") == 2

    run = tmp_path / "study" / "gn_2x4_seed0"
    tested = snvideo("evaluate", str(run), "data.test.clips=3")
    assert tested.returncode == 0, tested.stderr
    assert json.loads((run / "evaluation.json").read_text())["views"] == {"clips": 3, "crops": 1}

    drawn = snvideo("report", str(tmp_path / "study"))
    assert drawn.returncode == 0 and "report.html" in drawn.stdout


def test_a_failed_run_is_an_exit_code(toy, tmp_path):
    run_config(toy, tmp_path / "study")
    overrides = ["data.index=none.csv", "study.batches=[{gpus: 2, clips_per_gpu: 4}]"]
    done = snvideo("compare", str(tmp_path / "study.yaml"), *overrides, "study.norms=[gn]")
    assert done.returncode == 1
    assert "failed (exit 2)" in done.stderr


def test_help_names_the_commands():
    done = snvideo("--help")
    assert done.returncode == 0
    assert all(name in done.stdout for name in ("train", "evaluate", "compare", "report"))
