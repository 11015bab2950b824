"""What is installed: a wheel alone in a new environment, and packages that are optional."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from snvideo.cli import app
from snvideo.engine.trackers import TRACKERS
from snvideo.errors import SnvideoError
from snvideo.extras import PACKAGES, MissingExtraError, require
from snvideo.norm.kernels import describe_kernels
from snvideo.norm.kernels.cpu import CPUKernels
from snvideo.report.study_report import write_report
from tests.engine.runs import run_config, start

ROOT = Path(__file__).parents[1]
LEFT_OUT = shutil.ignore_patterns(
    ".git", ".venv", ".*_cache", "__pycache__", "build", "dist", "*.egg-info", "*.so", "runs"
)
SHORT = ("optim.epochs=1", "optim.warmup_epochs=0", "statistics.batches=2", "data.workers=0")


def test_a_missing_extra_is_one_line(monkeypatch):
    for extra, packages in PACKAGES.items():
        if extra not in (*TRACKERS, "ray"):  # which `dev` leaves out
            require(extra, "tests")
        for package in packages:
            monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(MissingExtraError) as error:
            require(extra, "tests")
        names = ", ".join(packages)
        assert str(error.value) == f"tests need {names}: pip install 'snvideo[{extra}]'"


def test_what_needs_an_extra_says_so(monkeypatch, toy, tmp_path):
    for name in ("matplotlib", "timm"):
        monkeypatch.setitem(sys.modules, name, None)
    run_config(toy, tmp_path / "run")
    config, index = str(tmp_path / "run.yaml"), str(toy / "index.csv")
    assert CliRunner().invoke(app, ["index", index]).exit_code == 0
    for command, what in (
        (["clips", config], "contact sheets"),
        (["index", index, "--out", str(tmp_path / "i.png")], "figures"),
        (["predict", index, "--weights", "x", "--contact-sheets", "y"], "contact sheets"),
    ):
        error = CliRunner().invoke(app, command).exception
        assert isinstance(error, SnvideoError)
        assert str(error) == f"{what} need matplotlib: pip install 'snvideo[report]'"


@pytest.mark.process
def test_training_and_tables_do_without_extras(monkeypatch, toy, tmp_path, caplog):
    run_config(toy, tmp_path / "study/run")
    missing = (*PACKAGES["tensorboard"], "matplotlib")
    command = ("command_without", missing, "train", str(tmp_path / "study/run.yaml"))
    start(*command, log=tmp_path / "log").done()
    printed = (tmp_path / "log").read_text()
    assert printed.count("TensorBoard's files need tensorboard: pip install") == 1
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    report = write_report(tmp_path / "study")
    assert "figures need matplotlib: pip install 'snvideo[report]'" in caplog.text
    assert (tmp_path / "study/comparison.csv").exists() and "<img" not in report.read_text()


def test_kernels_are_named(monkeypatch):
    for available, name in (
        (True, "C++"),
        (False, "plain PyTorch operations: no compiled library, about four times slower"),
    ):
        monkeypatch.setattr(CPUKernels, "available", lambda kernels, found=available: found)
        assert describe_kernels("cpu") == name


def build(source: Path, out: Path, *kinds: str) -> None:
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", out, *kinds, source]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the source distribution, which holds the same files as one of the tree."""
    tree, out = tmp_path_factory.mktemp("source") / "tree", tmp_path_factory.mktemp("wheels")
    shutil.copytree(ROOT, tree, ignore=LEFT_OUT)
    build(tree, out)
    build(tree, out / "direct", "--wheel")
    (wheel,), (direct,) = out.glob("*.whl"), (out / "direct").glob("*.whl")
    assert wheel.name == direct.name
    names = set(zipfile.ZipFile(wheel).namelist())
    assert names == set(zipfile.ZipFile(direct).namelist())
    for folder, pattern, place in (("snvideo", "*.py", ""), ("configs", "*.yaml", "snvideo/")):
        there = {place + str(file.relative_to(ROOT)) for file in (ROOT / folder).rglob(pattern)}
        assert there <= names
    compiled = any(name.startswith("snvideo/norm/kernels/_cpu.") for name in names)
    assert ("-py3-none-any.whl" in wheel.name) != compiled
    assert "-py3-none-" in wheel.name and not any(name.endswith(".cpp") for name in names)
    return wheel


@pytest.mark.slow
def test_the_wheel_alone_does_the_main_job(wheel, tmp_path):
    """All commands in an empty folder, with dependencies of this interpreter."""
    venv.create(tmp_path / "env", with_pip=False, symlinks=True)
    python = tmp_path / "env/bin/python"
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps"]
    subprocess.run([*install, "--no-index", "--quiet", wheel], check=True)
    (site,) = (tmp_path / "env/lib").glob("python*/site-packages")
    # A folder that a .pth file adds is no site directory: its own .pth files, such as those of an
    # editable installation, are not read.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    empty = tmp_path / "empty"
    empty.mkdir()
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    environment.pop("PYTHONPATH", None)

    def run(program: Path, *arguments: str) -> str:
        done = subprocess.run(
            [program, *arguments], cwd=empty, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{arguments}\n{done.stdout}{done.stderr}"
        return done.stdout

    where = run(python, "-c", "import snvideo; print(snvideo.__file__)")
    assert Path(where.strip()).is_relative_to(site)

    def snvideo(*arguments: str) -> str:
        return run(python.with_name("snvideo"), *arguments)

    snvideo("toy", "data/toy", "--train", "32", "--val", "16", "--test", "16")
    csvs = [word for name in ("train", "val", "test") for word in ("--csv", f"data/toy/{name}.csv")]
    snvideo("index", "build", "kinetics", "data/toy", *csvs, "--out", "data/toy/index.csv")
    assert "toy/i3d_tiny" in snvideo("configs")
    snvideo("train", "toy/i3d_tiny", *SHORT)
    study = ("study.norms=[sn,gn]", "study.batches=[{gpus: 2, clips_per_gpu: 8}]")
    snvideo("compare", "toy/compare", "data.index=data/toy/index.csv", *SHORT, *study)
    assert (empty / "runs/demo/report.html").exists()
    snvideo("evaluate", "runs/toy", "data.test.clips=2")
    assert "video_top1" in json.loads((empty / "runs/toy/evaluation.json").read_text())
    assert "\t1\t" in snvideo("predict", "data/toy", "--weights", "runs/toy", "--clips", "1")
    assert "logits agree" in snvideo("export", "runs/toy", "model.pt2")
