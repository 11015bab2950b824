"""Configs of PySlowFast, written in its keys: what becomes of each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from snvideo.base_config import flatten
from snvideo.config import load_config
from snvideo.engine.optim import lr_factor
from snvideo.errors import SnvideoError
from snvideo.models.registry import get_backbone
from snvideo.translation import translate_config
from snvideo.translation.result import Translation

TWO = {
    "DATA": {"NUM_FRAMES": 32, "SAMPLING_RATE": 2, "INPUT_CHANNEL_NUM": [3, 3]},
    "SLOWFAST": {"ALPHA": 4, "BETA_INV": 8, "FUSION_KERNEL_SZ": 7},
    "RESNET": {"NUM_BLOCK_TEMP_KERNEL": [[3, 3], [4, 4], [6, 6], [3, 3]]},
    "MODEL": {"ARCH": "slowfast", "MODEL_NAME": "SlowFast"},
}
"""SlowFast 8x8 of 50 layers."""


def kinetics(**sections: dict[str, Any]) -> dict[str, Any]:
    """Settings of its I3D 8x8 on Kinetics, with others over them."""
    values: dict[str, Any] = {
        "TRAIN": {"DATASET": "kinetics", "BATCH_SIZE": 64, "CHECKPOINT_PERIOD": 1},
        "DATA": {"NUM_FRAMES": 8, "SAMPLING_RATE": 8, "INPUT_CHANNEL_NUM": [3]},
        "RESNET": {"ZERO_INIT_FINAL_BN": True, "DEPTH": 50},
        "BN": {"USE_PRECISE_STATS": True, "MOMENTUM": 0.1},
        "SOLVER": {
            "BASE_LR": 0.1,
            "MAX_EPOCH": 196,
            "WARMUP_EPOCHS": 34.0,
            "WARMUP_START_LR": 0.01,
            "WEIGHT_DECAY": "1e-4",  # a string to YAML, a number to fvcore
        },
        "MODEL": {"NUM_CLASSES": 400, "ARCH": "i3d", "MODEL_NAME": "ResNet"},
        "TEST": {"BATCH_SIZE": 64},
        "NUM_GPUS": 8,
        "RNG_SEED": 0,
    }
    for section, own in sections.items():
        values[section] = values.get(section, {}) | own if isinstance(own, dict) else own
    return values


@pytest.fixture
def translated(tmp_path: Path):
    """Translation of a config in a file of its own."""

    def write(**sections: Any) -> Translation:
        path = tmp_path / "THEIRS.yaml"
        path.write_text(yaml.safe_dump(kinetics(**sections)))
        return translate_config(path)

    return write


@pytest.mark.parametrize(
    "sections, ours",
    [({}, "i3d_r50_8x8"), (TWO, "slowfast_r50_8x8"), ({"MODEL": {"ARCH": "slow"}}, "slow_r50_8x8")],
)
def test_the_recipes_of_kinetics_are_theirs_but_for_what_is_named(
    translated, tmp_path, sections, ours
):
    """They were written after its configs: whatever else differs would be an error in either."""
    out = translated(**sections).write(tmp_path / "out.yaml")
    theirs = flatten(load_config(out).model_dump())
    own = flatten(load_config(f"kinetics400/{ours}/bn_8x8").model_dump())
    differ = {key for key in theirs if own.get(key) != theirs[key]}
    assert differ == {
        "data.clip.target_fps",  # there 30; the recipes take the video's own
        *("data.mean", "data.std"),  # stated, and the same as the default
        *("output", "data.index", "test_batch", "speed.amp", "log.trackers"),
        "log.every_steps",
    }
    assert theirs["data.clip.target_fps"] == 30
    assert theirs["model.name"] == ours and theirs["optim.weight_decay"] == 1e-4


@pytest.mark.parametrize(
    "sections, name",
    [
        (
            {"RESNET": {"DEPTH": 101, "NUM_BLOCK_TEMP_KERNEL": [[3], [4], [23], [3]]}},
            "i3d_r101_8x8",
        ),
        (
            {
                "NONLOCAL": {
                    "LOCATION": [[[]], [[1, 3]], [[1, 3, 5]], [[]]],
                    "INSTANTIATION": "softmax",
                }
            },
            "i3d_nln_r50_8x8",
        ),
        (
            {"MODEL": {"ARCH": "slow"}, "DATA": {"NUM_FRAMES": 4, "SAMPLING_RATE": 16}},
            "slow_r50_4x16",
        ),
        ({"MODEL": {"ARCH": "c2d"}}, "c2d_r50_8x8"),
        (TWO | {"SLOWFAST": {"ALPHA": 8}}, "slowfast_r50_4x16"),
        (
            {
                "MODEL": {"ARCH": "x3d", "MODEL_NAME": "X3D"},
                "RESNET": {"TRANS_FUNC": "x3d_transform"},
                "X3D": {"WIDTH_FACTOR": 2.0, "DEPTH_FACTOR": 2.2, "BOTTLENECK_FACTOR": 2.25},
                "DATA": {"NUM_FRAMES": 13, "SAMPLING_RATE": 6, "TEST_CROP_SIZE": 182},
            },
            "x3d_s",
        ),
        (
            {"MODEL": {"ARCH": "csn", "MODEL_NAME": "PTVCSN"}, "RESNET": {"DEPTH": 101}},
            "ir_csn_r101_32x2",
        ),
    ],
)
def test_networks(translated, tmp_path, sections, name):
    found = translated(**sections)
    assert load_config(found.write(tmp_path / "out.yaml")).model.name == name
    assert get_backbone(name)
    assert not found.different


def test_every_key_is_translated_or_named(translated):
    """With its value, in the file; one that nobody knows is not passed over either."""
    sections = {
        "DATA": {"INV_UNIFORM_SAMPLE": True, "DECODING_BACKEND": "decord"},
        "BN": {"WEIGHT_DECAY": 1e-5},
        "SOLVER": {"COSINE_END_LR": 1e-6, "MADE_UP": "x"},
        "TENSORBOARD": {"ENABLE": True, "MODEL_VIS": {"TOPK_PREDS": 3}},
        "AUG": {"COLOR_JITTER": 0.4},
    }
    found = translated(**sections)
    assert {remark.key for remark in found.different} == {
        *("DATA.INV_UNIFORM_SAMPLE", "BN.WEIGHT_DECAY", "SOLVER.COSINE_END_LR", "SOLVER.MADE_UP")
    }
    assert {remark.key for remark in found.without_effect} == {
        *("DATA.DECODING_BACKEND", "TENSORBOARD.MODEL_VIS.TOPK_PREDS", "AUG.COLOR_JITTER"),
        *("MODEL.NUM_CLASSES",),
    }
    stated = flatten(kinetics(**sections))
    assert found.translated + len(found.different) + len(found.without_effect) == len(stated)
    text = found.text()
    for remark in (*found.different, *found.without_effect):
        assert f"#   {remark.key}: {remark.value!r}  (" in text
    assert found.config.log.trackers == ("tensorboard",)


@pytest.mark.parametrize(
    "sections, batch, norm",
    [
        ({}, (8, 8), "bn"),
        ({"NUM_GPUS": 4, "TRAIN": {"BATCH_SIZE": 8}}, (4, 2), "bn"),
        ({"NUM_SHARDS": 2}, (16, 8), "bn"),
        ({"BN": {"NORM_TYPE": "sub_batchnorm", "NUM_SPLITS": 4}}, (32, 2), "bn"),
        ({"BN": {"NORM_TYPE": "sync_batchnorm", "NUM_SYNC_DEVICES": 8}}, (8, 8), "syncbn"),
        ({"BN": {"NORM_TYPE": "sync_batchnorm", "NUM_SYNC_DEVICES": 2}}, (4, 16), "bn"),
    ],
)
def test_batch_statistics_are_over_as_many_clips(translated, sections, batch, norm):
    config = translated(**sections).config
    assert (config.batch.gpus, config.batch.clips_per_gpu) == batch
    assert config.model.norm.name == norm
    # Their rate is for the whole batch, so it is the same for this one.
    total = batch[0] * batch[1]
    assert config.optim.lr * total / config.optim.lr_batch == 0.1


def test_the_rate_grows_with_machines_where_they_say_so(translated):
    solver = {"BASE_LR_SCALE_NUM_SHARDS": True}
    optim = translated(NUM_SHARDS=4, SOLVER=solver).config.optim
    assert (optim.lr, optim.lr_batch, optim.warmup_start) == (0.4, 256, 0.1)


def test_steps(translated):
    """As in their stepwise schedule: more factors are listed than are reached."""
    solver = {
        "LR_POLICY": "steps_with_relative_lrs",
        "LRS": [1, 0.1, 0.01, 0.001, 0.0001],
        "STEPS": [0, 94, 154, 196],
        "MAX_EPOCH": 239,
    }
    optim = translated(SOLVER=solver).config.optim
    at = {epoch: lr_factor(optim, 10, epoch * 10) for epoch in (40, 93, 94, 153, 154, 200)}
    expected = {40: 1, 93: 1, 94: 0.1, 153: 0.1, 154: 0.01, 200: 0.001}
    assert at == pytest.approx(expected)
    with pytest.raises(SnvideoError, match="the rate here falls by one factor at each step"):
        translated(SOLVER=solver | {"LRS": [1, 0.1, 0.05, 0.001]})


def test_augmentation(translated):
    found = translated(
        AUG={"ENABLE": True, "NUM_SAMPLE": 2, "AA_TYPE": "rand-m7-n4-mstd0.5-inc1"},
        MIXUP={"ENABLE": True, "ALPHA": 0.8, "CUTMIX_ALPHA": 1.0},
        MODEL={"LOSS_FUNC": "soft_cross_entropy", "DROPCONNECT_RATE": 0.2},
        DATA={"TRAIN_JITTER_SCALES_RELATIVE": [0.08, 1.0], "RANDOM_FLIP": False},
        SOLVER={
            "OPTIMIZING_METHOD": "adamw",
            "CLIP_GRAD_L2NORM": 1.0,
            "BASE_LR": 0.001,
            "WARMUP_START_LR": 1e-4,
        },
    )
    config = found.config
    train, optim = config.data.train, config.optim
    assert (train.rand_augment.magnitude, train.rand_augment.operations) == (7, 4)
    assert (train.random_erasing.probability, train.random_erasing.fill) == (0.25, "pixel")
    assert (train.mixup, train.cutmix, train.flip) == (0.8, 1.0, False)
    assert (optim.name, optim.clip_norm, optim.label_smoothing) == ("adamw", 1.0, 0.1)
    assert config.model.drop_path == 0  # no network but X3D uses it there
    # Two clips of each of 64 videos in a step, in as many steps of the run.
    assert (config.data.repeats, config.batch.clips_per_gpu, optim.epochs) == (2, 16, 392)
    assert (optim.lr, optim.lr_batch) == (0.001, 128)
    assert {remark.key for remark in found.different} == {
        *("DATA.TRAIN_JITTER_SCALES_RELATIVE", "AUG.AA_TYPE", "AUG.INTERPOLATION"),
        "MODEL.DROPCONNECT_RATE",
    }


def test_one_crop_is_of_a_frame_as_in_training(translated):
    test = translated(TEST={"NUM_SPATIAL_CROPS": 1}, DATA={"TEST_CROP_SIZE": 224}).config.data.test
    assert (test.short_side, test.crop, test.crops) == (256, 224, 1)


def test_a_base_and_its_defaults(tmp_path):
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(kinetics()))
    path = tmp_path / "own.yaml"
    path.write_text("_BASE_: base.yaml\nSOLVER: {BASE_LR: 0.05}\n")
    optim = translate_config(path).config.optim
    assert (optim.lr, optim.epochs) == (0.05, 196)
    path.write_text("MODEL: {ARCH: slow}\nDATA: {INPUT_CHANNEL_NUM: [3]}\nNUM_GPUS: 8\n")
    config = translate_config(path).config  # all else as its defaults.py has it
    assert (config.optim.epochs, config.seed, config.statistics.batches) == (300, 1, 0)
    assert not config.model.zero_init_last


@pytest.mark.parametrize(
    "sections, problem",
    [
        ({"MODEL": {"ARCH": "mvit"}}, "no network here is MODEL.ARCH mvit"),
        ({"DETECTION": {"ENABLE": True}}, "DETECTION.ENABLE is True"),
        ({"TRAIN": {"DATASET": "ssv2"}}, "TRAIN.DATASET ssv2 takes one frame from each part"),
        ({"TRAIN": {"DATASET": "ava"}}, "detects actions of persons"),
        ({"MULTIGRID": {"LONG_CYCLE": True}}, "MULTIGRID.LONG_CYCLE is True"),
        ({"RESNET": {"DEPTH": 101}}, r"NUM_BLOCK_TEMP_KERNEL is \[\[3\], \[4\], \[6\], \[3\]\]"),
        ({"RESNET": {"WIDTH_PER_GROUP": 32}}, "WIDTH_PER_GROUP is 32"),
        (TWO | {"SLOWFAST": {"ALPHA": 2}}, "no network here is SlowFast of depth 50, ALPHA 2"),
        ({"NONLOCAL": {"LOCATION": [[[]], [[1]], [[]], [[]]]}}, "NONLOCAL.LOCATION is"),
        ({"SOLVER": {"OPTIMIZING_METHOD": "adam"}}, "optimizers here are sgd and adamw"),
        ({"NONLOCAL": {"LOCATION": 3}}, "NONLOCAL.LOCATION is 3"),
        (
            {"SOLVER": {"LR_POLICY": "steps_with_relative_lrs", "STEPS": 3}},
            "SOLVER.STEPS: expected a list of numbers, found 3",
        ),
        ({"SOLVER": {"LARS_ON": True}}, "SOLVER.LARS_ON is True"),
        ({"SOLVER": {"MAX_EPOCH": 0}}, "SOLVER.MAX_EPOCH: expected 1 or more, found 0"),
        ({"NUM_GPUS": 7}, "TRAIN.BATCH_SIZE 64 cannot be divided by NUM_GPUS 7"),
        ({"SOLVER": {"BASE_LR": 0.001}}, "WARMUP_START_LR is 0.01, BASE_LR 0.001"),
        ({"SOLVER": {"BASE_LR": "high"}}, "SOLVER.BASE_LR: expected a number, found 'high'"),
        ({"DATA": {"TRAIN_CROP_SIZE": 512}}, "translated: 'data.train': need crop <= short_side"),
    ],
)
def test_what_would_be_something_else_is_one_line(translated, sections, problem):
    with pytest.raises(SnvideoError, match=problem) as error:
        translated(**sections)
    assert "\n" not in str(error.value) and "THEIRS.yaml" in str(error.value)


@pytest.mark.parametrize("text", ["", "- 1", "a: b", "TRAIN: [", "lr: 0.1\noptim: {}\n"])
def test_other_files_are_refused(tmp_path, text):
    path = tmp_path / "other.yaml"
    path.write_text(text)
    with pytest.raises(SnvideoError, match=r"other\.yaml"):
        translate_config(path)
