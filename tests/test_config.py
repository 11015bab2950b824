"""Configs: inheritance, overrides, and errors that name file, key and the nearest valid key."""

from pathlib import Path

import pytest
import yaml

from snvideo.config import load_config
from snvideo.errors import SnvideoError

CONFIGS = Path(__file__).parent.parent / "configs"


def write(path: Path, **values) -> Path:
    path.write_text(yaml.safe_dump({"output": "runs/x", "data": {"index": "i.csv"}, **values}))
    return path


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda p: p.stem)
def test_every_config_of_ours_is_valid(path):
    if path.stem in ("scratch", "recipe"):  # parts that others build on
        load_config(path, ["output=runs/x"])
        return
    config = load_config(path)
    if path.parent.parent.name == "kinetics400" and config.study is None:
        norm, geometry = path.stem.split("_")
        assert config.model.norm.name == norm and config.model.name == path.parent.name
        assert f"{config.batch.gpus}x{config.batch.clips_per_gpu}" == geometry
        assert config.output == Path("runs/kinetics400") / path.parent.name / path.stem


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
        ({"optim": {"epochs": "many"}}, [], "'optim.epochs': input should be a valid integer"),
        ({"optim": {"lr": -1}}, [], "'optim.lr': input should be greater than 0, got -1"),
        ({"model": {"norm": {"name": "bm"}}}, [], "'model.norm.name': input should be 'sn', 'bn'"),
        ({"data": {"index": "i.csv", "train": {"crop": 300}}}, [], "need crop <= short_side[0]"),
        ({"data": {}}, [], "missing key 'data.index'"),
        ({"model": 3}, [], "'model': input should be a valid"),
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
        ("binary.yaml", b"\xff\xfe\x00", "is not a text file"),
        ("circle.yaml", b"base: circle.yaml", "goes round in a circle"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(SnvideoError) as error:
            load_config(tmp_path / name)
        assert message in str(error.value) and name in str(error.value)
    with pytest.raises(SnvideoError, match=r"cannot read config .*none.yaml: No such file"):
        load_config(tmp_path / "none.yaml")


def test_config_survives_its_own_yaml(tmp_path):
    config = load_config(CONFIGS / "toy" / "compare.yaml")
    again = tmp_path / "again.yaml"
    again.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    assert load_config(again) == config
