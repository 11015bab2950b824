"""First configs: what is chosen for which videos and machines, and that it can be run."""

import csv
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import yaml

from snvideo.config import load_config
from snvideo.data.config import ClipConfig
from snvideo.data.indexing.summary import summarize_index
from snvideo.engine.dry_run import estimate
from snvideo.engine.starter_choices import (
    BatchGeometry,
    choose_batch,
    choose_clip,
    choose_crops,
    choose_epochs,
    choose_flip,
    choose_network,
    choose_norm,
    choose_sampling,
)
from snvideo.engine.starter_config import StarterConfig, starter_config
from snvideo.errors import SnvideoError
from snvideo.models.pretrained import open_weights
from tests.engine.runs import CPU
from tests.engine.test_dry_run import write_index
from tests.engine.weights import random_weights


@pytest.mark.parametrize(
    ("names", "flip"),
    [
        (["hug", "kick", "copyright law", "bright light"], True),
        (["hug", "Swiping Left"], False),
        (["TurnRight", "hug"], False),
        (["rotating_anticlockwise", "hug"], False),
        (["lifting right-handed", "hug"], False),
        (["look leftwards"], False),
        (["0", "1"], True),
    ],
)
def test_sides_in_class_names_forbid_mirror_images(names: list[str], flip: bool) -> None:
    found = choose_flip(names)
    assert found.value is flip
    if not flip:
        assert next(name for name in names if name != "hug") in found.why
    assert ("numbers" in found.why) == (names == ["0", "1"])


def test_clips_are_as_long_as_most_videos_allow() -> None:
    fps, frames = np.full(100, 30.0), np.full(100, 300.0)
    assert choose_clip("i3d_r50_8x8", fps, frames).value == ClipConfig(frames=8, stride=8)
    frames[:11] = 30  # more than a tenth of the videos last one second: 7 x 4 frames fit, 7 x 5 not
    short = choose_clip("i3d_r50_8x8", fps, frames)
    assert short.value.stride == 4 and "cut from a stride of 8" in short.why
    frames[10] = 300  # exactly a tenth
    assert choose_clip("i3d_r50_8x8", fps, frames).value.stride == 8
    tiny = choose_clip("i3d_tiny", fps, np.full(100, 3.0))
    assert tiny.value.stride == 1 and "0 % of the videos" in tiny.why


def test_files_of_different_rates_get_one_rate() -> None:
    fps = np.array([15.0, 30.0] * 20 + [30.0] * 30)
    clip = choose_clip("i3d_r50_8x8", fps, 10 * fps).value
    assert clip == ClipConfig(frames=8, stride=8, target_fps=30)
    assert choose_clip("i3d_r50_8x8", np.full(9, 15.0), np.full(9, 150.0)).value.stride == 4


def test_views_are_those_of_the_network_or_fit_the_videos() -> None:
    large = {(340, 256): 9}
    assert choose_crops("i3d_r50_8x8", large).value == (224, (256, 320), 256, 256)
    assert choose_crops("x3d_s", large).value == (160, (183, 229), 182, 182)
    assert choose_crops("x3d_l", large).value[0] == 312
    assert choose_crops("i3d_tiny", large).value == (64, (64, 80), 64, 64)
    assert choose_crops("i3d_tiny", {(60, 54): 99, (20, 20): 1}).value[0] == 48
    assert choose_crops("i3d_tiny", {(20, 20): 9}).value[0] == 32


@pytest.mark.parametrize(
    ("videos", "fit", "devices", "batch"),
    [
        (65, 1700, 1, BatchGeometry(2, 8, 2, 1)),
        (65, 5, 1, BatchGeometry(4, 4, 1, 1)),  # two groups of four do not fit in a pass
        (65, 0, 1, BatchGeometry(16, 1, 1, 1)),
        (65, None, 1, BatchGeometry(2, 8, 2, 1)),
        (5, 1700, 1, BatchGeometry(1, 2, 1, 1)),
        (1, 1700, 1, BatchGeometry(1, 1, 1, 1)),
        (240_000, 40, 8, BatchGeometry(8, 8, 1, 8)),
        (240_000, 40, 3, BatchGeometry(9, 8, 3, 3)),  # as many groups as the processes can share
        (20, 40, 8, BatchGeometry(1, 8, 1, 1)),  # too few videos for eight processes
    ],
)
def test_batches_fit_memory_videos_and_processes(videos, fit, devices, batch) -> None:
    found = choose_batch(videos, fit, devices).value
    assert found == batch
    assert found.gpus % found.processes == 0
    assert found.gpus * found.clips_per_gpu <= videos


def test_the_reason_of_a_batch_says_what_memory_has_room_for() -> None:
    rooms = {fit: choose_batch(100, fit).why.rpartition("; ")[2] for fit in (None, 0, 3, 65)}
    assert rooms == {
        None: "memory is not known",
        0: "memory may not have room for one",
        3: "memory has room for 3 at a time",
        65: "memory has room for more than 64 at a time",
    }


def test_norms_by_the_clips_of_a_group() -> None:
    assert choose_norm("i3d_tiny", 8, None).value == {"name": "bn"}
    assert choose_norm("i3d_tiny", 4, None).value == {"name": "gn", "groups": 8}
    assert choose_norm("x3d_s", 1, None).value == {"name": "gn"}


def test_networks_and_lengths_by_machine_and_videos() -> None:
    assert [
        choose_network(*case).value for case in ((False, 10**6), (True, 500), (True, 10**6))
    ] == [
        "i3d_tiny",
        "x3d_s",
        "slow_r50_8x8",
    ]
    assert choose_epochs(4, gpu=False, weights=False).value == 200
    assert choose_epochs(30, gpu=False, weights=False).value == 34
    assert choose_epochs(1000, gpu=False, weights=False).value == 10
    assert choose_epochs(4, gpu=True, weights=True).value == 60
    assert choose_epochs(4000, gpu=True, weights=False).value == 30


def test_classes_of_very_different_size_are_balanced() -> None:
    names = ["a", "b", "none"]
    assert choose_sampling(names, np.array([10, 49, 0])).value == "shuffled"
    found = choose_sampling(names, np.array([10, 50, 0]))
    assert found.value == "balanced" and "10 to 50" in found.why and "fewest of a" in found.why


def checked(starter: StarterConfig, folder: Path) -> None:
    """The config is read and passes the checks of a dry run, and nothing in it is idle; each of its
    keys has a reason, but for those that share one."""
    path = folder / "mine.yaml"
    path.write_text(starter.text)
    found = estimate(load_config(path), CPU)
    assert not found.without_effect
    lines = starter.text.splitlines()
    bare = {
        line.split(":")[0].strip()
        for before, line in pairwise(lines)
        if not line.strip().startswith("#")
        and not line.endswith(":")
        and not before.strip().startswith("#")
    }
    assert bare <= {"start", "groups", "crop", "checkpoint_epochs", "parts"}


@pytest.mark.parametrize("splits", [("val",), ("test",), ("val", "test")])
def test_a_first_config_can_be_run(tmp_path: Path, splits: tuple[str, ...]) -> None:
    index = write_index(tmp_path / "data", {"train": 40, **dict.fromkeys(splits, 8)}, classes=4)
    starter = starter_config(summarize_index(index), tmp_path / "run", CPU)
    checked(starter, tmp_path)
    values = yaml.safe_load(starter.text)
    assert values["data"]["test_split"] == splits[-1]
    assert values["data"].get("val_split") == ("val" if len(splits) == 2 else None)
    assert values["model"] == {"name": "i3d_tiny", "norm": {"name": "bn"}, "dropout": 0.2}
    assert values["batch"] == {"gpus": 2, "clips_per_gpu": 8, "gpus_per_pass": 2}
    assert values["data"]["clip"] == {"frames": 8, "stride": 8, "target_fps": None}
    assert any("40 videos teach" in remark for remark in starter.remarks)


def test_with_little_memory_groups_are_small_and_the_norm_is_another(tmp_path, monkeypatch) -> None:
    from snvideo.engine import dry_run

    index = write_index(tmp_path / "data", {"train": 40, "val": 8}, classes=4)
    monkeypatch.setattr(dry_run, "free_memory", lambda device: 50_000_000)
    starter = starter_config(summarize_index(index), tmp_path / "run", CPU)
    checked(starter, tmp_path)
    values = yaml.safe_load(starter.text)
    assert values["batch"] == {"gpus": 8, "clips_per_gpu": 2, "gpus_per_pass": 1}
    assert values["model"]["norm"] == {"name": "gn", "groups": 8}


def test_weights_of_ours_bring_their_network_norm_and_view(tmp_path: Path) -> None:
    index = write_index(tmp_path / "data", {"train": 40, "val": 8}, classes=8)
    source = open_weights(str(random_weights(tmp_path / "model.safetensors")))
    starter = starter_config(summarize_index(index), tmp_path / "run", CPU, source)
    checked(starter, tmp_path)
    values = yaml.safe_load(starter.text)
    assert values["base"] == "finetune/recipe"
    assert values["model"]["name"] == "i3d_tiny" and values["model"]["norm"]["name"] == "sn"
    assert values["model"]["weights"] == {"source": source.origin, "head": "match"}
    assert values["data"]["clip"] == {"frames": 4, "stride": 3, "target_fps": 10.0}
    assert values["data"]["test"] == {"short_side": 36, "crop": 32, "clips": 5, "crops": 3}
    assert not any("teach" in remark for remark in starter.remarks)


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"val": 8}, "no usable video of split train, only of val"),
        ({"train": 8}, "no labelled video of split val or test"),
    ],
)
def test_an_index_without_the_splits_is_one_line(tmp_path, splits, message) -> None:
    index = write_index(tmp_path / "data", splits, classes=4)
    with pytest.raises(SnvideoError, match=message):
        starter_config(summarize_index(index), tmp_path / "run", CPU)


def test_videos_of_several_labels_have_their_loss(tmp_path: Path) -> None:
    index = write_index(tmp_path / "data", {"train": 40, "val": 8}, classes=4)
    with index.open() as file:
        rows = list(csv.DictReader(file))
    with index.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0]])
        writer.writeheader()
        writer.writerows({**r, "labels": f"{r['label']} {(int(r['label']) + 1) % 4}"} for r in rows)
    starter = starter_config(summarize_index(index), tmp_path / "run", CPU)
    checked(starter, tmp_path)
    values = yaml.safe_load(starter.text)
    assert values["optim"]["loss"] == "bce" and "sampling" not in values["data"]


def test_long_videos_are_said(tmp_path: Path) -> None:
    index = write_index(tmp_path / "data", {"train": 40, "val": 8}, classes=4, seconds=600)
    (line,) = (
        one
        for one in starter_config(summarize_index(index), tmp_path / "run", CPU).remarks
        if "cut them" in one
    )
    assert re.search("last 600 s or more", line)
