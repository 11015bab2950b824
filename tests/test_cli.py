"""The command line as a user meets it: one line for what can be mended, exit codes, help."""

import json

import pytest
import yaml
from typer.testing import CliRunner

from snvideo.cli import app
from snvideo.errors import SnvideoError
from snvideo.shipped_configs import config_names
from tests.engine.runs import run_config, start


@pytest.fixture
def snvideo(tmp_path):
    """Gives a command to a process of its own: exit code, and all that it printed."""

    def give(*arguments: str) -> tuple[int, str]:
        log = tmp_path / "printed"
        log.unlink(missing_ok=True)
        (code,) = start("command", *arguments, log=log).wait()
        return code, log.read_text()

    return give


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
        (["data.index=none.csv"], "no index at none.csv: build it with 'snvideo index build'"),
        (["data.test_split=test"], "no split 'test'"),
        (["data.index=OUTSIDE"], "expected 0 to 2, as in the .json file"),
        (["batch.gpus=40"], "48 videos, less than one batch of 40 x 2 = 80"),
        (["model.name=i3d"], "unknown model 'i3d'"),
    ],
)
def test_what_a_user_can_mend_is_one_line(snvideo, toy, tmp_path, overrides, message):
    run_config(toy, tmp_path / "run")
    overrides = [o.replace("OUTSIDE", spoil(toy, tmp_path, outside)) for o in overrides]
    code, printed = snvideo("train", str(tmp_path / "run.yaml"), *overrides)
    assert code == 2
    *_, last = printed.strip().splitlines()
    assert last.startswith("snvideo: ") and message in last
    assert "Traceback" not in printed
    assert not (tmp_path / "run").exists()


def test_a_geometry_that_does_not_divide_is_one_line(toy, tmp_path):
    run_config(toy, tmp_path / "run")
    command = ("command", "train", str(tmp_path / "run.yaml"), "batch.gpus=3")
    assert start(*command, log=tmp_path / "log", processes=2).wait() == [2, 2]
    printed = (tmp_path / "log").read_text()
    assert "snvideo: batch.gpus 3 does not divide among 2 processes: start 1, 3" in printed


@pytest.mark.process
def test_train_evaluate_compare_and_report(snvideo, toy, tmp_path):
    """The four commands after one another, with two norms at one geometry."""
    run_config(toy, tmp_path / "study")
    values = yaml.safe_load((tmp_path / "study.yaml").read_text())
    values["study"] = {"norms": ["sn", "gn"], "batches": [{"gpus": 2, "clips_per_gpu": 4}]}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(values))
    code, printed = snvideo("compare", str(tmp_path / "study.yaml"), "--parallel", "2")
    assert code == 0, printed
    assert "2 of 2 runs finished" in (tmp_path / "study/compare_2.log").read_text()
    table = (tmp_path / "study/comparison.csv").read_text().splitlines()
    assert len(table) == 3 and table[0].startswith("norm,gpus,clips_per_gpu")
    assert (tmp_path / "study/report.html").stat().st_size > 10_000

    code, printed = snvideo("compare", str(tmp_path / "study.yaml"))
    assert code == 0 and printed.count("already finished") == 2

    run = tmp_path / "study" / "gn_2x4_seed0"
    code, printed = snvideo("evaluate", str(run), "data.test.clips=3")
    assert code == 0, printed
    assert json.loads((run / "evaluation.json").read_text())["views"] == {"clips": 3, "crops": 1}

    code, printed = snvideo("report", str(tmp_path / "study"))
    assert code == 0 and "report.html" in printed

    code, printed = snvideo("evaluate", str(tmp_path / "study"))
    assert code == 2 and "is neither the folder of a run nor a config" in printed
    code, printed = snvideo("evaluate", str(run), "model.weights.source=x")
    assert code == 2 and "name others by --checkpoint" in printed


def test_help_names_the_commands():
    done = CliRunner().invoke(app, ["--help"])
    commands = ("train", "evaluate", "compare", "report", "predict", "export", "models", "index")
    assert done.exit_code == 0 and all(name in done.stdout for name in commands)


def test_a_config_of_pyslowfast_is_translated(tmp_path):
    theirs, out = tmp_path / "I3D.yaml", tmp_path / "i3d.yaml"
    theirs.write_text(
        "MODEL: {ARCH: i3d, NUM_CLASSES: 400}\nDATA: {INPUT_CHANNEL_NUM: [3]}\n"
        "NUM_GPUS: 8\nSOLVER: {COSINE_END_LR: 1e-5}\n"
    )
    command = ["configs", "translate", str(theirs)]
    shown = CliRunner().invoke(app, command)
    written = CliRunner().invoke(app, [*command, "--out", str(out)])
    assert shown.output == out.read_text()
    assert "different here: SOLVER.COSINE_END_LR: 1e-05" in written.output
    assert "i3d_r50_8x8, 8 x 8 clips; 3 keys translated, 1 different here, 1 left" in written.output
    again = CliRunner().invoke(app, [*command, "--out", str(out)])
    assert isinstance(again.exception, SnvideoError) and "exists" in str(again.exception)


def test_configs_are_listed_and_copied(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    listed = CliRunner().invoke(app, ["configs"])
    assert listed.exit_code == 0
    names = [line.split()[0] for line in listed.output.splitlines()]
    assert names == config_names()
    assert "toy/i3d_tiny           " in listed.output and "A narrow I3D on toy" in listed.output
    copied = CliRunner().invoke(app, ["configs", "copy", "toy/compare", "mine.yaml"])
    assert copied.exit_code == 0 and "base: toy/study" in (tmp_path / "mine.yaml").read_text()


def test_index_file_is_short_for_index_report(toy):
    reports = [
        CliRunner().invoke(app, ["index", *words, str(toy / "index.csv"), "--frames", "4"]).output
        for words in ((), ("report",))
    ]
    assert reports[0] == reports[1] and "train" in reports[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["init", "{index}", "--val-fraction", "0.3"], "--val-fraction is about indexing"),
        (["init", "{index}", "--group-by", "x"], "--group-by is about indexing"),
        (["train", "toy/i3d_tiny", "--timed-steps", "5"], "--timed-steps is about a dry run"),
        (["predict", "a.mp4", "--weights", "x", "--window", "2", "--workers", "2"], "--workers is"),
        (["export", "x", "a.onnx", "--timeout", "9"], "--timeout is about int8"),
    ],
)
def test_options_that_would_do_nothing_are_refused(toy, tmp_path, arguments, message):
    given = [argument.format(index=toy / "index.csv") for argument in arguments]
    given += ["--out", str(tmp_path)] if "init" in given else []
    found = CliRunner().invoke(app, given)
    assert found.exit_code and isinstance(found.exception, SnvideoError)
    assert message in str(found.exception)
