"""`snvideo init` as a newcomer meets it: from a folder to commands that can be run."""

import json
import shlex
from pathlib import Path

import pytest
import yaml

from snvideo import cli
from snvideo.config import load_config
from snvideo.data.index import read_rows
from tests.data.test_image_sequences import images
from tests.data.videos import write_video
from tests.engine.weights import random_weights


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two class folders of six videos of a second each."""
    folder = tmp_path_factory.mktemp("init") / "my videos"
    for number in range(12):
        name = ("turn left", "turn right")[number % 2]
        write_video(folder / name / f"{number}.mp4", frames=25)
    return folder


@pytest.fixture
def init(capsys):
    """Gives the command: exit code, and all lines that it printed."""

    def give(*arguments: object) -> tuple[int, list[str]]:
        code = cli.run(["init", *map(str, arguments), "--workers", "1"])
        found = capsys.readouterr()
        return code, [*found.out.splitlines(), *found.err.splitlines()]

    return give


def commands(lines: list[str]) -> list[list[str]]:
    """Arguments of the three commands that are printed."""
    return [shlex.split(line)[1:] for line in lines if line.startswith("  snvideo ")]


def test_the_printed_commands_lead_to_a_trained_network_and_a_look_at_it(
    videos, init, tmp_path, capsys
):
    code, lines = init(videos, "--out", tmp_path)
    assert code == 0, lines
    train, evaluate, predict = commands(lines)
    config = load_config(train[1])
    assert config.output == tmp_path / "runs" / "my_videos"
    assert not config.data.train.flip  # of a turn to the left
    assert any("flip is false: a mirror image would be of another class: turn" in x for x in lines)
    assert config.data.clip.stride == 3  # 7 x 3 frames of 25
    assert any("no split val: 2 of the training videos, 20 % of each class" in x for x in lines)
    splits = [row.split for row in read_rows(config.data.index)]
    assert splits.count("val") == 2 and splits.count("train") == 10

    run = tmp_path / "runs/my_videos"
    shorter = ["optim.epochs=1", "optim.warmup_epochs=0", "log.trackers=[]"]
    assert cli.run([*train, *shorter]) == 0
    assert json.loads((run / "results.json").read_text())["videos"] == 2
    assert cli.run(evaluate) == 0
    assert json.loads((run / "evaluation.json").read_text())["views"] == {"clips": 10, "crops": 3}
    capsys.readouterr()
    assert cli.run(predict) == 0
    printed = capsys.readouterr().out
    assert "turn left" in printed and "turn right" in printed


def test_nothing_is_overwritten_and_an_index_is_gone_on_with(videos, init, tmp_path):
    assert init(videos, "--out", tmp_path)[0] == 0
    index, config = tmp_path / "my_videos.csv", tmp_path / "my_videos.yaml"
    before = [path.read_bytes() for path in (index, config)]
    code, lines = init(videos, "--out", tmp_path)
    assert code == 2 and "my_videos.csv exists: for a config of it give its name" in lines[-1]
    code, lines = init(index, "--out", tmp_path)
    assert code == 2 and "my_videos.yaml exists: name another folder with --out" in lines[-1]
    assert [path.read_bytes() for path in (index, config)] == before
    config.rename(tmp_path / "first.yaml")
    assert init(index, "--out", tmp_path)[0] == 0
    assert load_config(config) == load_config(tmp_path / "first.yaml")
    (tmp_path / "my_videos.yaml").unlink()
    (tmp_path / "runs/my_videos").mkdir(parents=True)
    code, lines = init(index, "--out", tmp_path)
    assert code == 2 and "runs/my_videos exists" in lines[-1]


def test_a_folder_that_cannot_be_written_is_one_line(videos, init, tmp_path):
    assert init(videos, "--out", tmp_path)[0] == 0
    (tmp_path / "file").touch()
    for argument in (videos, tmp_path / "my_videos.csv"):
        code, lines = init(argument, "--out", tmp_path / "file" / "out")
        assert code == 2 and "cannot" in lines[-1] and "Traceback" not in " ".join(lines)


def test_folders_of_frames_have_the_rate_that_is_stated(init, tmp_path):
    for number in range(4):
        images(tmp_path / "v" / "ab"[number % 2] / str(number), range(1, 13))
    code, lines = init(tmp_path / "v", "--out", tmp_path, "--fps", 5)
    assert code == 0, lines
    assert load_config(tmp_path / "v.yaml").data.clip.stride == 1  # 12 frames last 2.4 s
    assert commands(lines)[-1][-2:] == ["--fps", "5"]


def test_weights_are_looked_at_before_the_videos(videos, init, tmp_path):
    code, lines = init(videos, "--out", tmp_path, "--weights", tmp_path / "none.pyth")
    assert code == 2 and "none.pyth" in lines[-1]
    assert not list(tmp_path.iterdir())
    weights = random_weights(tmp_path / "model.safetensors")
    code, lines = init(videos, "--out", tmp_path, "--weights", weights)
    assert code == 0, lines
    values = yaml.safe_load((tmp_path / "my_videos.yaml").read_text())
    assert values["model"]["weights"]["source"] == str(weights)
    assert load_config(tmp_path / "my_videos.yaml").model.name == "i3d_tiny"


def test_what_goes_wrong_behind_the_index_leaves_it(videos, init, tmp_path, monkeypatch):
    from snvideo.engine import starter_config

    monkeypatch.setattr(starter_config, "FINE_TUNING", "no/such/config")
    weights = random_weights(tmp_path / "model.safetensors")
    code, lines = init(videos, "--out", tmp_path / "out", "--weights", weights)
    assert code == 2 and "my_videos.csv goes on with it" in lines[-1]
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["my_videos.csv", "my_videos.json"]


def test_ut_interaction_keeps_its_test_split(real_videos, init, tmp_path):
    code, lines = init(real_videos / "ut_interaction", "--out", tmp_path)
    assert code == 0, lines
    config = load_config(tmp_path / "ut_interaction.yaml")
    assert (config.data.val_split, config.data.test_split) == ("val", "test")
    assert (config.data.clip.frames, config.data.clip.stride) == (8, 8)
    splits = [row.split for row in read_rows(config.data.index)]
    assert [splits.count(name) for name in ("train", "val", "test")] == [65, 18, 37]
    assert any("65 videos teach a network from scratch little" in line for line in lines)
