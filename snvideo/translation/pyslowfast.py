"""Configs of PySlowFast: YAML over the defaults of its slowfast/config/defaults.py."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import yaml

from snvideo.config import merge_sections
from snvideo.errors import SnvideoError
from snvideo.translation.keys import ForeignKeys, flatten_foreign
from snvideo.translation.pyslowfast_networks import has_non_local, pyslowfast_network
from snvideo.translation.pyslowfast_training import (
    pyslowfast_batch,
    pyslowfast_optim,
    pyslowfast_statistics,
)
from snvideo.translation.result import INDEX, Translation, finish_translation

_LOADER = "its data loader"
_PATHS = "videos come from data.index, which 'snvideo index build list' makes of train.csv, val.csv"
_HARMLESS = {
    "DATA_LOADER": _LOADER,
    "DATA.PATH_TO_DATA_DIR": _PATHS,
    "DATA.PATH_PREFIX": _PATHS,
    "DATA.PATH_LABEL_SEPARATOR": _PATHS,
    "DATA.PATH_TO_PRELOAD_IMDB": _PATHS,
    "DATA.DECODING_BACKEND": "data.decoder; whatever decodes, a number means the same frame here",
    "DATA.TRAIN_PCA_EIGVAL": "used for images and AVA alone",
    "DATA.TRAIN_PCA_EIGVEC": "used for images and AVA alone",
    "MODEL.NUM_CLASSES": "classes are those of data.index",
    "MODEL.SINGLE_PATHWAY_ARCH": "a list of names",
    "MODEL.MULTI_PATHWAY_ARCH": "a list of names",
    "TEST.DATASET": "tests read data.index, too",
    "TEST.SAVE_RESULTS_PATH": "results are in the run's folder",
    "TRAIN.AUTO_RESUME": "the same command goes on with a run",
    "SOLVER.STEP_SIZE": "of a schedule that is not used",
    "SOLVER.GAMMA": "of a schedule that is not used",
    "SOLVER.STEPS": "of a schedule that is not used",
    "SOLVER.LRS": "of a schedule that is not used",
    "SOLVER.WARMUP_FACTOR": "not used there",
    "RESNET.INPLACE_RELU": "memory alone",
    "MULTIGRID": "its cycles are off",
    "DETECTION": "there is no detection",
    "AVA": "there is no detection",
    "MVIT": "there is no MViT",
    "BENCHMARK": "of a command of its own",
    "DEMO": "of a command of its own",
    "TENSORBOARD": "what is drawn; metrics are in metrics.jsonl, too",
    "OUTPUT_DIR": "output is named after the file",
    "DIST_BACKEND": "chosen for the hardware",
    "SHARD_ID": "told by torchrun",
    "LOG_MODEL_INFO": "'snvideo train --dry-run' says it",
}

_OTHER_TASKS = {
    "ava": "detects actions of persons (AVA)",
    "charades": "reads Charades' lists of frames",
    "ssv2": "takes one frame from each part of a video (Something-Something)",
    "imagenet": "trains on images",
}
"""Datasets that are no classification of videos by clips, by the end of their names."""


def translate_pyslowfast(path: Path) -> Translation:
    """Translate a config of PySlowFast.

    Raises:
        SnvideoError: if it cannot be read, or asks for a network or a task that is not here.
    """
    keys = ForeignKeys(path, flatten_foreign(_read_yaml(path, [])))
    _refuse_other_tasks(keys)
    frames, stride = keys.whole("DATA.NUM_FRAMES", 8), keys.whole("DATA.SAMPLING_RATE", 8)
    # The network first: others read what it leaves.
    model = {"name": pyslowfast_network(keys, frames, stride), **_model(keys)}
    repeats = keys.count("AUG.NUM_SAMPLE", 1)
    batch, norm = pyslowfast_batch(keys, repeats)
    train = _train_views(keys)
    test = _test_views(keys, train["short_side"])
    values: dict[str, Any] = {
        "output": _output(keys),
        "seed": keys.whole("RNG_SEED", 1),
        "model": {**model, "norm": {"name": norm}},
        "data": {
            "index": INDEX,
            "workers": keys.whole("DATA_LOADER.NUM_WORKERS", 8),
            "repeats": repeats,
            "clip": {
                "frames": frames,
                "stride": stride,
                "target_fps": float(keys.number("DATA.TARGET_FPS", 30)),
            },
            "train": train,
            "test": test,
            "mean": keys.take("DATA.MEAN", [0.45, 0.45, 0.45]),
            "std": keys.take("DATA.STD", [0.225, 0.225, 0.225]),
        },
        "batch": batch,
        "optim": pyslowfast_optim(keys, batch, repeats, train),
        "speed": {
            "amp": "fp16" if keys.flag("TRAIN.MIXED_PRECISION", False) else "none",
            "activation_checkpointing": keys.flag("MODEL.ACT_CHECKPOINT", False),
        },
        "statistics": pyslowfast_statistics(keys),
        "log": {
            "every_steps": keys.whole("LOG_PERIOD", 10),
            "trackers": ["tensorboard"] if keys.flag("TENSORBOARD.ENABLE", False) else [],
            "validate_epochs": keys.whole("TRAIN.EVAL_PERIOD", 10),
            "checkpoint_epochs": keys.whole("TRAIN.CHECKPOINT_PERIOD", 10),
        },
        "test_batch": max(1, keys.whole("TEST.BATCH_SIZE", 8) // keys.count("NUM_GPUS", 1)),
    }
    _same_here(keys)
    keys.finish(_HARMLESS | _switched_off(keys))
    return finish_translation("PySlowFast", keys, values)


def _read_yaml(path: Path, seen: list[Path]) -> dict[str, Any]:
    """Sections of a file over those of its `_BASE_`; strings are read as Python's values, too, as
    fvcore does: YAML takes 1e-4 for a string."""
    if path.resolve() in seen:
        raise SnvideoError(f"{path}: '_BASE_' goes round in a circle")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SnvideoError(f"cannot read config {path}: {error}") from None
    except yaml.YAMLError as error:
        raise SnvideoError(f"{path}: not YAML: {getattr(error, 'problem', error)}") from None
    if not isinstance(values, dict) or not ({"TRAIN", "MODEL", "DATA", "_BASE_"} & values.keys()):
        raise SnvideoError(f"{path}: expected a config of PySlowFast, with MODEL, DATA and TRAIN")
    values = _literals(values)
    base = values.pop("_BASE_", None)
    if base is None:
        return values
    return merge_sections(_read_yaml(path.parent / str(base), [*seen, path.resolve()]), values)


def _literals(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _literals(one) for key, one in value.items()}
    if not isinstance(value, str):
        return value
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value


def _refuse_other_tasks(keys: ForeignKeys) -> None:
    dataset = keys.text("TRAIN.DATASET", "kinetics")
    for name, task in _OTHER_TASKS.items():
        if dataset.lower().endswith(name):
            raise keys.error(f"TRAIN.DATASET {dataset} {task}: nothing here does")
    if not dataset.lower().endswith("kinetics"):
        keys.add("TRAIN.DATASET", dataset, "clips are taken as of kinetics")
    for key, ours in (
        ("DETECTION.ENABLE", False),
        ("MULTIGRID.SHORT_CYCLE", False),
        ("MULTIGRID.LONG_CYCLE", False),
        ("SOLVER.LARS_ON", False),
        ("TASK", ""),
    ):
        keys.require(key, ours)


def _output(keys: ForeignKeys) -> str:
    if keys.values.get("OUTPUT_DIR", ".") in (".", "./", "./tmp", ""):
        return f"runs/{keys.path.stem.lower()}"
    return keys.text("OUTPUT_DIR", ".")


def _model(keys: ForeignKeys) -> dict[str, Any]:
    keys.expect("MODEL.FC_INIT_STD", 0.01, "the classifier starts at 0.01")
    model: dict[str, Any] = {
        "dropout": keys.number("MODEL.DROPOUT_RATE", 0.5),
        "drop_path": _drop_path(keys),
        "zero_init_last": keys.flag("RESNET.ZERO_INIT_FINAL_BN", False),
    }
    source = _weights(keys)
    return model | ({"weights": {"source": source}} if source else {})


def _drop_path(keys: ForeignKeys) -> float:
    """Rate of the last branch: X3D alone has one there."""
    key = "MODEL.DROPCONNECT_RATE"
    rate = keys.number(key, 0.0)
    if not rate:
        return 0.0
    if keys.values.get("MODEL.ARCH", "slowfast") != "x3d":
        keys.add(key, rate, "0, as networks other than X3D do not use it there")
        return 0.0
    keys.add(key, rate, "rises by block, from 0; there by stage, from 0.4 of it")
    return rate


def _weights(keys: ForeignKeys) -> str:
    """File to start from, or to test; empty if there is none."""
    for key in ("TRAIN.CHECKPOINT_TYPE", "TRAIN.CHECKPOINT_INFLATE", "TEST.CHECKPOINT_TYPE"):
        keys.take(key)  # a file shows by itself what it is
    source = keys.text("TRAIN.CHECKPOINT_FILE_PATH", "")
    epoch_reset = keys.flag("TRAIN.CHECKPOINT_EPOCH_RESET", False)
    if source and not epoch_reset:
        keys.add("TRAIN.CHECKPOINT_FILE_PATH", source, "its weights are loaded, not its epoch")
    tested = keys.text("TEST.CHECKPOINT_FILE_PATH", "")
    if not keys.flag("TRAIN.ENABLE", True):
        keys.add("TRAIN.ENABLE", False, "'snvideo evaluate' tests the weights, 'train' would train")
        return tested or source
    if tested:
        keys.add("TEST.CHECKPOINT_FILE_PATH", tested, "the run that was trained is tested")
    return source


def _train_views(keys: ForeignKeys) -> dict[str, Any]:
    low_high = keys.take("DATA.TRAIN_JITTER_SCALES", [256, 320])
    views: dict[str, Any] = {
        "short_side": low_high,
        "crop": keys.whole("DATA.TRAIN_CROP_SIZE", 224),
        "flip": keys.flag("DATA.RANDOM_FLIP", True),
    }
    for key in ("DATA.TRAIN_JITTER_SCALES_RELATIVE", "DATA.TRAIN_JITTER_ASPECT_RELATIVE"):
        keys.expect(key, [], f"crops are square, out of a short side of {low_high} pixels")
    if keys.flag("AUG.ENABLE", False):
        views |= _augmentation(keys)
    if keys.flag("MIXUP.ENABLE", False):
        keys.expect("MIXUP.SWITCH_PROB", 0.5, "either of both with 0.5")
        views |= {
            "mixup": keys.number("MIXUP.ALPHA", 0.8),
            "cutmix": keys.number("MIXUP.CUTMIX_ALPHA", 1.0),
            "mix_probability": keys.number("MIXUP.PROB", 1.0),
        }
    return views


def _augmentation(keys: ForeignKeys) -> dict[str, Any]:
    """RandAugment, as timm spells it, and random erasing."""
    spelled = keys.text("AUG.AA_TYPE", "rand-m9-mstd0.5-inc1")
    kind, *settings = spelled.split("-")
    found = {s[0]: s[1:] for s in settings if s[1:].isdecimal()}  # of m9, n2
    if kind != "rand" or "m" not in found:
        raise keys.error(f"AUG.AA_TYPE {spelled}: expected RandAugment, as in rand-m9-n2")
    rest = [s for s in settings if s[0] not in "mn" or not s[1:].isdecimal()]
    if rest:
        keys.add("AUG.AA_TYPE", spelled, f"all but {', '.join(rest)}: one magnitude, torchvision's")
    views: dict[str, Any] = {
        "rand_augment": {"magnitude": int(found["m"]), "operations": int(found.get("n", "2"))}
    }
    keys.expect("AUG.INTERPOLATION", "bilinear", "bilinear", "bicubic")
    if probability := keys.number("AUG.RE_PROB", 0.25):
        keys.expect("AUG.RE_COUNT", 1, "one rectangle")
        views["random_erasing"] = {
            "probability": probability,
            "fill": keys.text("AUG.RE_MODE", "pixel"),
        }
    return views


def _test_views(keys: ForeignKeys, jitter: Any) -> dict[str, Any]:
    crops = keys.whole("TEST.NUM_SPATIAL_CROPS", 3)
    crop = keys.whole("DATA.TEST_CROP_SIZE", 256)
    # For the centre alone a frame is as large as the least in training.
    return {
        "short_side": crop if crops > 1 or not isinstance(jitter, list) else jitter[0],
        "crop": crop,
        "clips": keys.whole("TEST.NUM_ENSEMBLE_VIEWS", 10),
        "crops": crops,
    }


def _switched_off(keys: ForeignKeys) -> dict[str, str]:
    """Sections without effect, as what they are about is not in use."""
    arch = keys.take("MODEL.ARCH", "slowfast")
    uses = {
        "RESNET": arch != "x3d" and not keys.take("MODEL.MODEL_NAME", "").startswith("PTV"),
        "X3D": arch == "x3d",
        "SLOWFAST": arch == "slowfast",
        "NONLOCAL": has_non_local(keys),
        "AUG": keys.take("AUG.ENABLE", False),
        "MIXUP": keys.take("MIXUP.ENABLE", False),
    }
    unused = {section: "not in use there" for section, used in uses.items() if not used}
    return unused | {"AUG.COLOR_JITTER": "not in use there, as RandAugment is"}


def _same_here(keys: ForeignKeys) -> None:
    """Settings that are fixed here."""
    for key, ours, why in (
        ("DATA.REVERSE_INPUT_CHANNEL", False, "channels are RGB"),
        ("DATA.INV_UNIFORM_SAMPLE", False, "the short side is uniform"),
        ("DATA.USE_OFFSET_SAMPLING", False, "test clips are spread over the video, ends included"),
        ("DATA.TRAIN_JITTER_MOTION_SHIFT", False, "all frames of a clip have one crop"),
        ("DATA.ENSEMBLE_METHOD", "sum", "probabilities of views are averaged"),
        ("TEST.ENABLE", True, "a run ends with its test"),
    ):
        keys.expect(key, ours, why)
