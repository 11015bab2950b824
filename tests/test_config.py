"""Configs: inheritance, overrides, and errors that name file, key and the nearest valid key."""

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from snvideo.cli import app
from snvideo.config import load_config, load_study
from snvideo.engine.config import RunConfig, differences, read_stored
from snvideo.engine.optim import learning_rate, lr_factor
from snvideo.errors import SnvideoError
from snvideo.models import BACKBONES
from snvideo.shipped_configs import config_description, config_names, copy_config
from snvideo.study.config import cells

CONFIGS = Path(__file__).parent.parent / "configs"


def write(path: Path, **values) -> Path:
    path.write_text(yaml.safe_dump({"output": "runs/x", "data": {"index": "i.csv"}, **values}))
    return path


PARTS = ("kinetics", "scratch", "inflated", "recipe")
"""Files that others build on; they name no place to write to."""

NORMS = ("sn", "bn", "gn")

KINETICS = {
    "i3d_r50_8x8": ("i3d_r50_8x8", 8, 8, ("8x8", "8x4")),
    "slow_r50_8x8": ("slow_r50_8x8", 8, 8, ("8x8", "8x4")),
    "slowfast_r50_8x8": ("slowfast_r50_8x8", 32, 2, ("8x8", "8x4")),
    "i3d_r50_32x2": ("i3d_r50_32x2", 32, 2, ("8x8", "8x4")),
    "i3d_r50_32x2_64f": ("i3d_r50_32x2", 64, 1, ("8x4",)),
}
"""Folder -> network, frames, stride, geometries."""

INFLATED = ("i3d_r50_32x2", "i3d_r50_32x2_64f")


def kinetics(folder: str) -> dict[str, RunConfig]:
    """The runs of a folder by the names of their files."""
    paths = (CONFIGS / "kinetics400" / folder).glob("*_*x*.yaml")
    return {path.stem: load_config(path) for path in sorted(paths)}


@pytest.mark.parametrize(
    "path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: str(path.relative_to(CONFIGS))
)
def test_every_config_of_ours_is_valid(path):
    part = path.stem in PARTS
    overrides = ["output=runs/x"] if part else []
    config = load_config(path, overrides)
    assert config.model.name in BACKBONES
    assert part or config.output.parts[0] == "runs"
    if path.stem.startswith(("compare", "study")):
        assert load_study(path)[0] == config
    else:
        with pytest.raises(SnvideoError, match="has no 'study' section"):
            load_study(path, overrides)


@pytest.mark.parametrize("folder", KINETICS)
def test_kinetics_configs(folder):
    """Every norm and geometry as files are named; they differ in these and starting weights alone,
    and are the runs of the folder's study."""
    network, frames, stride, geometries = KINETICS[folder]
    runs = kinetics(folder)
    assert set(runs) == {f"{norm}_{geometry}" for norm in NORMS for geometry in geometries}
    for name, config in runs.items():
        norm, geometry = name.split("_")
        assert config.model.name == network and config.model.norm.name == norm
        assert f"{config.batch.gpus}x{config.batch.clips_per_gpu}" == geometry
        assert (config.data.clip.frames, config.data.clip.stride) == (frames, stride)
        assert config.output == Path("runs/kinetics400") / folder / name
    first, *others = (config.model_dump(mode="json") for config in runs.values())
    changed = {key for other in others for key in differences(first, other)}
    weights = {"model.weights.source"} if folder in INFLATED else set()
    clips = {"batch.clips_per_gpu"} if len(geometries) > 1 else set()
    assert changed == {"model.norm.name"} | weights | clips
    study = load_study(CONFIGS / "kinetics400" / folder / "compare.yaml")
    models = {cell.name: cell.config.model for cell in cells(*study)}
    assert models == {f"{name}_seed0": config.model for name, config in runs.items()}


@pytest.mark.parametrize("folder", KINETICS)
def test_kinetics_starts_from_random_weights_or_from_imagenet_with_the_papers_schedule(folder):
    """0.01 at 64 clips, divided by 10 after 150,000 and 300,000 of 400,000 iterations."""
    for name, config in kinetics(folder).items():
        weights = config.model.weights
        if folder not in INFLATED:
            assert weights is None and config.model.norm.start == "equal"
            continue
        gn = name.startswith("gn")
        assert weights.source == f"timm:resnet50{'_gn' if gn else ''}.a1h_in1k"
        assert weights.norms == "keep" and config.model.norm.start == "batch"
        # Those of ImageNet, which all three sources were trained with.
        assert config.data.mean == (0.485, 0.456, 0.406)
        assert config.data.std == (0.229, 0.224, 0.225)
        batch = config.batch.gpus * config.batch.clips_per_gpu
        steps = 240_000 // batch
        iteration = 64 / batch  # one of 64 clips, in steps
        assert learning_rate(config.optim, batch) == pytest.approx(0.01 / iteration)
        assert config.optim.epochs * steps == pytest.approx(400_000 * iteration, rel=0.01)
        for done, factor in ((0, 1), (149e3, 1), (151e3, 0.1), (299e3, 0.1), (302e3, 0.01)):
            step = round(done * iteration)
            assert lr_factor(config.optim, steps, step) == pytest.approx(factor)


@pytest.mark.parametrize("norm", ["sn", "frozen_bn", "bn"])
def test_fine_tuning_takes_a_trained_network_and_a_new_classifier(norm):
    config = load_config(CONFIGS / "finetune" / f"{norm}.yaml")
    assert config.model.norm.name == norm and config.output == Path("runs/finetune") / norm
    assert config.model.name == "i3d_r50_8x8" and config.model.norm.start == "batch"
    weights = config.model.weights
    assert (weights.source, weights.norms, weights.head) == ("pytorchvideo:i3d_r50", "keep", "new")
    assert config.optim.head_lr == 10 and config.batch.gpus == 1


def test_the_fine_tuning_study_changes_the_groups_and_not_the_batch():
    runs = cells(*load_study(CONFIGS / "finetune" / "compare.yaml"))
    assert {cell.norm for cell in runs} == {"sn", "frozen_bn", "bn"}
    assert {cell.clips_per_gpu for cell in runs} == {2, 4, 8}
    assert {cell.gpus * cell.clips_per_gpu for cell in runs} == {8}
    assert {cell.config.model.norm.start for cell in runs} == {"batch"}


def test_a_base_is_inherited_section_by_section(tmp_path):
    write(tmp_path / "base.yaml", optim={"lr": 0.3, "epochs": 7}, seed=4)
    (tmp_path / "sub").mkdir()
    child = tmp_path / "sub" / "child.yaml"
    child.write_text("base: ../base.yaml\noptim: {epochs: 9}\n")
    config = load_config(child, ["optim.momentum=0.5", "data.clip.frames=16", "model.norm.name=gn"])
    assert (config.optim.lr, config.optim.epochs, config.optim.momentum) == (0.3, 9, 0.5)
    assert config.seed == 4 and config.data.clip.frames == 16 and config.model.norm.name == "gn"


@pytest.mark.parametrize(
    ("values", "overrides", "message"),
    [
        ({"optim": {"learning": 1}}, [], "unknown key 'optim.learning': expected one of lr"),
        ({"optim": {"epoch": 1}}, [], "unknown key 'optim.epoch': did you mean 'epochs'?"),
        ({"modle": {}}, [], "unknown key 'modle': did you mean 'model'?"),
        ({}, ["data.clip.frame=8"], "unknown key 'data.clip.frame': did you mean 'frames'?"),
        (
            {"study": {"batches": [{"gpus": 1, "clips_per_gp": 2}]}},
            [],
            "did you mean 'clips_per_gpu'?",
        ),
        (
            {"study": {"batches": [{"gpus": 1}], "variants": {"gn8": {"name": "gn", "grups": 8}}}},
            [],
            "unknown key 'study.variants.gn8.grups': did you mean 'groups'?",
        ),
        (
            {"study": {"batches": [{"gpus": 1}], "grids": [{"norms": ["gn9"]}]}},
            [],
            "'study': unknown norm 'gn9': expected one of sn, bn",
        ),
        ({"optim": {"epochs": "many"}}, [], "'optim.epochs': input should be a valid integer"),
        ({"optim": {"lr": -1}}, [], "'optim.lr': input should be greater than 0, got -1"),
        ({"model": {"norm": {"name": "bm"}}}, [], "'model.norm.name': input should be 'sn', 'bn'"),
        ({"data": {"index": "i.csv", "train": {"crop": 300}}}, [], "need crop <= short_side[0]"),
        ({"data": {}}, [], "missing key 'data.index'"),
        ({"model": 3}, [], "'model': expected a section of keys and values, got 3"),
        ({}, ["optim.lr"], "override 'optim.lr' is not of the form key.sub=value"),
        ({}, ["optim.lr=[1"], "is not a YAML value"),
    ],
)
def test_a_wrong_config_is_one_line(tmp_path, values, overrides, message):
    path = write(tmp_path / "config.yaml", **values)
    with pytest.raises(SnvideoError) as error:
        load_config(path, overrides)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    if not message.startswith(("override", "is not")):
        assert str(error.value).startswith(str(path))


def test_files_that_are_no_configs_are_one_line(tmp_path):
    for name, content, message in (
        ("broken.yaml", b"a: [1\nb: 2", "line 2: not YAML"),
        ("list.yaml", b"- 1\n- 2", "expected keys and values, found list"),
        ("binary.yaml", b"\xff\xfe\x00", "cannot read config"),
        ("circle.yaml", b"base: circle.yaml", "goes round in a circle"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(SnvideoError) as error:
            load_config(tmp_path / name)
        assert message in str(error.value) and name in str(error.value)
    with pytest.raises(SnvideoError, match=r"no config .*none.yaml: neither a file nor a name"):
        load_config(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("text", "line", "key", "first"),
    [
        ("optim: {lr: 0.3}\nseed: 1\noptim:\n  epochs: 4\n", 3, "optim", 1),
        ("seed: 1\nseed: 2\n", 2, "seed", 1),
        ("optim:\n  lr: 0.3\n  epochs: 4\n  lr: 0.1\n", 4, "lr", 2),
        ("data:\n  train: {crop: 1}\n  test: {crop: 1}\n  train: {flip: true}\n", 4, "train", 2),
        ("study:\n  batches: [{gpus: 1, gpus: 2}]\n", 2, "gpus", 2),
        ("model: {norm: {name: sn}, dropout: 0, norm: {start: batch}}\n", 1, "norm", 1),
        ('optim: {lr: 0.3}\n"optim": {epochs: 3}\n', 2, "optim", 1),
    ],
)
def test_a_key_that_stands_twice_is_an_error_with_its_line(tmp_path, text, line, key, first):
    path = tmp_path / "twice.yaml"
    path.write_text(text)
    (tmp_path / "child.yaml").write_text("base: twice.yaml\n")
    for name in ("twice.yaml", "child.yaml"):
        with pytest.raises(SnvideoError) as error:
            load_config(tmp_path / name)
        assert str(error.value).startswith(f"{path}, line {line}: '{key}' stands twice")
        assert f"first in line {first}" in str(error.value)
        assert "\n" not in str(error.value)


def test_a_section_on_the_command_line_leaves_its_other_keys(tmp_path):
    path = write(
        tmp_path / "config.yaml",
        optim={"epochs": 4, "warmup_epochs": 1, "momentum": 0.5},
        model={"norm": {"name": "gn", "groups": 4}, "dropout": 0.1},
    )
    config = load_config(path, ["optim={lr: 0.1, epochs: 6}", "model={norm: {groups: 8}}"])
    optim, model = config.optim, config.model
    assert (optim.lr, optim.epochs, optim.warmup_epochs, optim.momentum) == (0.1, 6, 1, 0.5)
    assert (model.norm.name, model.norm.groups, model.dropout) == ("gn", 8, 0.1)
    # What was null or a value becomes a section; a list is replaced.
    config = load_config(path, ["data.train.rand_augment={magnitude: 3}", "optim.freeze=[a, b]"])
    assert config.data.train.rand_augment.magnitude == 3 and config.optim.freeze == ("a", "b")
    with pytest.raises(SnvideoError, match="'lr' stands twice"):
        load_config(path, ["optim={lr: 0.1, lr: 0.2}"])
    with pytest.raises(SnvideoError, match="'optim'"):
        load_config(path, ["optim=null"])


def test_home_folders_in_paths(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "base.yaml")
    (tmp_path / "own.yaml").write_text("base: ~/base.yaml\noutput: ~/run\n")
    data = ("data.index=~/i.csv", "data.root=~/", "data.quarantine=~/q.csv")
    weights = ("model.weights={source: ~/w.pt, classes: ~/names.txt}",)
    config = load_config("~/own.yaml", [*data, *weights])
    assert config.output == tmp_path / "run"
    assert (config.data.index, config.data.root) == (tmp_path / "i.csv", str(tmp_path))
    assert config.data.quarantine == tmp_path / "q.csv"
    assert config.model.weights.source == str(tmp_path / "w.pt")
    assert config.model.weights.classes == tmp_path / "names.txt"
    unknown = load_config("~/own.yaml", ["output=~nobody-of-this-name/x"])
    assert unknown.output == Path("~nobody-of-this-name/x")
    download = load_config("~/own.yaml", ["model.weights.source=timm:resnet50.a1h_in1k"])
    assert download.model.weights.source == "timm:resnet50.a1h_in1k"
    result = CliRunner().invoke(app, ["configs", "copy", "toy/i3d_tiny", "~/copy.yaml"])
    assert result.exit_code == 0 and (tmp_path / "copy.yaml").exists()
    call = ["predict", "--out=~/answers.txt", "--weights=~/w", str(tmp_path / "own.yaml")]
    result = CliRunner().invoke(app, call)
    assert str(tmp_path / "answers.txt") in str(result.exception)


def test_configs_are_found_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shipped = load_study(CONFIGS / "toy/compare.yaml")
    assert load_study("toy/compare") == load_study("toy/compare.yaml") == shipped
    for name, message in (
        ("toy/i3d_tyny", "neither a file nor a name; nearest names: toy/i3d_tiny, "),
        ("?", "neither a file nor a name; 'snvideo configs' lists all"),
    ):
        with pytest.raises(SnvideoError) as error:
            load_config(name)
        assert message in str(error.value) and "\n" not in str(error.value)
    (tmp_path / "toy").mkdir()
    write(tmp_path / "toy/compare.yaml", base="toy/absent")
    with pytest.raises(SnvideoError, match=r"^toy/compare.yaml: 'base'"):
        load_config("toy/compare.yaml")


@pytest.mark.parametrize("name", config_names())
def test_copied_configs_mean_the_same(name, tmp_path):
    copy = copy_config(name, tmp_path)
    assert copy == tmp_path / f"{Path(name).name}.yaml"
    part = ["output=runs/x"] if copy.stem in PARTS else []
    assert load_config(copy, part) == load_config(name, part)
    if copy.stem == "compare":
        assert load_study(copy) == load_study(name)
    assert config_description(name)
    with pytest.raises(SnvideoError, match="exists: name another file"):
        copy_config(name, copy)


OLD_KEYS = {"data": {"index": "i.csv", "limit": 7}, "speed": {"recompute": True}}


def test_old_keys_are_answered_with_their_new_names_and_read_in_old_runs(tmp_path):
    path = write(tmp_path / "old.yaml", output="o", **OLD_KEYS)
    with pytest.raises(SnvideoError) as error:
        load_config(path)
    assert "'data.limit' is called 'data.timeout' now" in str(error.value)
    assert "'speed.recompute' is called 'speed.activation_checkpointing' now" in str(error.value)
    write(tmp_path / "config.yaml", output="o", **OLD_KEYS)
    config = load_config(tmp_path, ["seed=3"])
    assert config.data.timeout == 7 and config.speed.activation_checkpointing and config.seed == 3
    assert read_stored(tmp_path / "config.yaml")["data"] == {"index": "i.csv", "timeout": 7}
    with pytest.raises(SnvideoError, match=r"'data\.limit' is called"):
        load_config(tmp_path, ["data.limit=7"])


def test_a_new_schedule_of_a_run_s_config_is_checked_as_any(tmp_path):
    """That of a run is read as it is, and another one is no run's."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "environment.json").write_text("{}")
    (run / "config.yaml").write_text(
        f"output: {run}\nmodel: {{name: i3d_tiny}}\ndata: {{index: index.csv}}\n"
        "optim: {epochs: 30, warmup_epochs: 20, lr: 0.1}\n"  # of an older version
    )
    assert load_config(run).optim.warmup_epochs == 20
    assert load_config(run, ["output=elsewhere"]).optim.warmup_epochs == 20
    with pytest.raises(SnvideoError, match="warmup_epochs=20 is longer than half of the run"):
        load_config(run, ["output=elsewhere", "optim.epochs=31"])


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("model.norm={name: gn}", "model.norm.name"),
        ("model={norm: {name: gn}}", "model.norm.name"),
        ("seed=3", "seed"),
    ],
)
def test_a_section_without_effect_is_refused_as_its_keys_are(override, key):
    with pytest.raises(SnvideoError, match=f"'{key}' has no effect here"):
        load_study("toy/compare", [override])
