"""What is said of a run before it begins: right, quick, and nothing is left behind."""

import json
import re
from pathlib import Path

import pytest
import torch
from rich.console import Console

from snvideo.config import load_config
from snvideo.data.index import COLUMNS
from snvideo.engine.config import RunConfig
from snvideo.engine.distributed import World
from snvideo.engine.dry_run import DryRun, dry_run, estimate
from snvideo.errors import SnvideoError
from snvideo.report.dry_run_table import dry_run_table, dry_run_warnings, print_dry_run
from tests.engine.runs import run_config

CHECKPOINTED = "speed.activation_checkpointing=true"
ACTIVATIONS = "activations of a pass"
CONFIGS = Path(__file__).parents[2] / "configs"
ROW = dict.fromkeys(COLUMNS, "") | {
    **{"path": "video.mp4", "first_frame": 0, "frames": 300, "fps": 30.0, "width": 340},
    **{"height": 256, "orientation": 1, "seconds": 10.0, "bytes": 1, "seekable": 0},
    **{"decoders": "pyav", "status": "ok"},
}
MILLIONS = {
    "i3d_r50_8x8": 28.04,
    "i3d_r50_32x2": 28.04,
    "slow_r50_8x8": 32.45,
    "slowfast_r50_8x8": 34.57,
    "i3d_r26_tiny": 1.25,
    "i3d_tiny": 0.6,
}


def write_index(folder: Path, splits: dict[str, int], classes: int = 400, **row: object) -> Path:
    """An index whose rows are all of one empty file."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "video.mp4").touch()
    lines = [",".join(COLUMNS)]
    for split, videos in splits.items():
        for number in range(videos):
            values = {**ROW, **row, "split": split, "label": number % classes}
            lines.append(",".join(str(values[name]) for name in COLUMNS))
    (folder / "index.csv").write_text("\n".join(lines) + "\n")
    meta = {"root": ".", "labels": [f"class {number}" for number in range(classes)]}
    (folder / "index.json").write_text(json.dumps(meta))
    return folder / "index.csv"


def printed(found: DryRun) -> str:
    console = Console(width=100)
    with console.capture() as captured:
        console.print(dry_run_table(found))
    return captured.get()


@pytest.fixture(scope="module")
def kinetics(tmp_path_factory) -> Path:
    return write_index(tmp_path_factory.mktemp("kinetics"), {"train": 650, "val": 20, "test": 20})


def runnable() -> list[str]:
    """Configs that are whole; of the norms and geometries of a network, which cost alike, one."""
    paths = CONFIGS.rglob("*.yaml")
    whole = [path for path in paths if "output:" in path.read_text() or "compare" in path.stem]
    names = sorted(path.relative_to(CONFIGS).as_posix() for path in whole)
    return [name for name in names if not re.search(r"/([bg]n_|sn_8x8)", name)]


@pytest.mark.parametrize("name", runnable())
def test_config_files_can_be_run(name, kinetics, tmp_path):
    overrides = [f"data.index={kinetics}", f"output={tmp_path / 'run'}", "model.weights=null"]
    if "frozen" in name:  # without weights, it would train nothing
        overrides.append("model.norm.name=bn")
    config = load_config(CONFIGS / name, overrides)
    found = dry_run(config, timed_steps=0)
    batch = config.batch.gpus * config.batch.clips_per_gpu
    assert found.steps_per_epoch == 650 // batch
    assert found.total_steps == config.optim.total_steps(found.steps_per_epoch)
    assert found.cost.parameters / 1e6 == pytest.approx(MILLIONS[config.model.name], abs=0.4)
    if config.model.name == "i3d_r50_8x8":
        assert found.cost.parameters / 1e6 == pytest.approx(28.04, abs=0.01)
        assert found.test_multiply_adds / 1e9 == pytest.approx(37.10, rel=0.005)
        peak = 0.01 if name.startswith("finetune/") else 0.1
        assert found.peaks["weights"] == pytest.approx(peak * batch / 64)
    assert found.epoch_multiply_adds == 3 * found.cost.multiply_adds * batch * found.steps_per_epoch
    assert found.memory["weights"] >= 4 * found.cost.parameters
    assert found.timing is None and found.is_main
    assert list(tmp_path.iterdir()) == []


def kinetics_run(index: Path, *overrides: str) -> RunConfig:
    path = CONFIGS / "kinetics400/i3d_r50_8x8/sn_8x4.yaml"
    return load_config(path, (f"data.index={index}", *overrides))


def test_the_printed_table(kinetics):
    text = printed(dry_run(kinetics_run(kinetics, "optim.head_lr=10"), timed_steps=0))
    for words in (
        "i3d_r50_8x8 with sn, start equal",
        "28.04 M",
        "8 x 224 x 224, 28.41 GFLOPs (multiply-adds)",
        "30 views, 1.113 TFLOPs",
        "650 of split 'train'",
        "8 gpus x 4 clips = 32 on 1 process",
        "8 passes in each process, of 1 group of 4 clips",
        "20 an epoch, 3,920 in 196 epochs",
        "0.005 at epoch 0, 0.0464 at epoch 34, 0.0183 at epoch 115",
        "head x 10",
        "54.54 TFLOPs (multiply-adds) an epoch of training (3 x forward)",
        "112.2 MB gradients",
    ):
        assert words in " ".join(text.split()), words
    assert "clips/s" not in text
    step = ("optim.schedule=step", "optim.epochs=10", "optim.warmup_epochs=0")
    found = dry_run(kinetics_run(kinetics, *step, "optim.milestones=[0.5,0.9]"), timed_steps=0)
    assert found.factors == pytest.approx({0: 1.0, 100: 0.1, 180: 0.01, 199: 0.01})
    with pytest.raises(SnvideoError, match="cannot take clips of 6 frames, 224 x 224 pixels: exp"):
        dry_run(kinetics_run(kinetics, "model.name=slowfast_r50_8x8", "data.clip.frames=6"), 0)


def test_memory_that_does_not_fit_is_a_warning_and_not_tried(kinetics, monkeypatch):
    monkeypatch.setattr("snvideo.engine.dry_run.free_memory", lambda device: 10**9)
    overrides = ("batch.gpus_per_pass=4", "speed.amp=none", "optim.ema=0.999")
    found = dry_run(kinetics_run(kinetics, *overrides), timed_steps=3)
    assert found.timing is None and not found.fits
    # Weights and their average, gradients and momenta, and four times what four clips keep.
    assert found.memory_needed == pytest.approx(4 * 112.4e6 + 4 * 2.198e9, rel=0.01)
    (line,) = dry_run_warnings(found)
    assert (
        "try a batch.gpus_per_pass below 4, speed.activation_checkpointing=true, speed.amp=bf16"
        in line
    )
    less = dry_run(kinetics_run(kinetics, *overrides, CHECKPOINTED), timed_steps=0)
    assert less.memory[ACTIVATIONS] < found.memory[ACTIVATIONS] / 2
    assert less.forwards == 4 and CHECKPOINTED not in dry_run_warnings(less)[0]


def test_videos_that_are_not_there(kinetics, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(SnvideoError, match=r"none of its first 5 videos is there.*set data\.root"):
        dry_run(kinetics_run(kinetics, f"data.root={tmp_path / 'elsewhere'}"), timed_steps=0)
    with pytest.raises(SnvideoError, match=r"no video folder at .*set data\.root"):
        dry_run(kinetics_run(kinetics, f"data.root={tmp_path / 'missing'}"), timed_steps=0)
    index = write_index(tmp_path / "some", {"train": 40, "val": 3}, frames=50)
    lines = index.read_text().splitlines()
    lines[2] = lines[2].replace("video.mp4", "lost.mp4")
    index.write_text("\n".join(lines))
    found = dry_run(kinetics_run(index), timed_steps=0)
    assert dry_run_warnings(found) == [
        "1 of the first 5 videos of split 'train' are missing: lost.mp4"
    ]
    assert [split.short for split in found.splits] == [1.0, 1.0]
    assert "100.0 % shorter than a clip" in printed(found)


def test_frozen_parts_cost_less(kinetics):
    whole = dry_run(kinetics_run(kinetics), timed_steps=0)
    part = dry_run(kinetics_run(kinetics, "optim.freeze=[blocks.0,blocks.1]"), timed_steps=0)
    assert part.cost.trainable < part.cost.parameters == whole.cost.parameters
    assert part.memory[ACTIVATIONS] < whole.memory[ACTIVATIONS]
    assert part.memory["gradients"] == 4 * part.cost.trainable
    assert " M trained" in printed(part)


def test_real_steps_are_timed_and_leave_nothing_behind(toy, tmp_path, capsys):
    config = run_config(toy, tmp_path / "run")
    before = sorted(tmp_path.rglob("*")), sorted(toy.rglob("*"))
    found = dry_run(config, timed_steps=100)
    assert (sorted(tmp_path.rglob("*")), sorted(toy.rglob("*"))) == before
    assert found.timing.steps == 4  # of six, two of which are to warm up
    assert 0 < found.timing.seconds < 10 and 0 < found.timing.waiting < 1
    print_dry_run(found)
    text = capsys.readouterr().out
    assert "4 steps timed" in text and "clips/s on 1 process" in text
    assert "without validation and test" in text


def test_one_of_several_processes(kinetics, capsys):
    second = World(1, 2, torch.device("cpu"))
    found = estimate(kinetics_run(kinetics), second)
    print_dry_run(found)
    assert capsys.readouterr().out == ""
    assert "on 2 processes" in printed(found)
    assert "4 passes in each process, of 1 group of 4 clips" in printed(found)
    assert found.memory["gradients"] == 8 * found.cost.trainable
