"""Configs of mmaction2 1.x: Python files, which are read and never run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from snvideo.translation.keys import ForeignKeys, flatten_foreign
from snvideo.translation.mmaction_networks import mmaction_network
from snvideo.translation.mmaction_training import mmaction_batch, mmaction_optim
from snvideo.translation.mmaction_views import (
    TEST,
    TRAIN,
    mmaction_clip,
    mmaction_test_views,
    mmaction_train_views,
)
from snvideo.translation.python_file import read_python_file
from snvideo.translation.result import INDEX, Translation, finish_translation

_SECTIONS = {
    *("model", "train_dataloader", "test_dataloader", "optim_wrapper", "param_scheduler"),
    *("train_cfg", "auto_scale_lr", "default_hooks", "custom_hooks", "load_from"),
}

_PATHS = "videos come from data.index, which 'snvideo index build list' makes of lists"
_STEPS = (
    *("DecordInit", "DecordDecode", "PyAVInit", "PyAVDecode", "OpenCVInit", "OpenCVDecode"),
    *("RawFrameDecode", "FormatShape", "PackActionInputs"),
)
_HARMLESS = {
    **{f"{pipeline}.{step}": "done here" for pipeline in (TRAIN, TEST) for step in _STEPS},
    **{f"{part}_dataloader.dataset.ann_file": _PATHS for part in ("train", "test")},
    **{f"{part}_dataloader.dataset.data_prefix": _PATHS for part in ("train", "test")},
    **{
        f"{part}_dataloader.dataset.{key}": "frames of a folder are found by their numbers"
        for part in ("train", "test")
        for key in ("filename_tmpl", "start_index")
    },
    "test_dataloader.batch_size": "test_batch: memory and time alone",
    "test_dataloader.sampler.shuffle": "each video counts once",
    **{
        f"{part}_dataloader.{key}": "its data loader"
        for part in ("train", "test")
        for key in ("persistent_workers", "pin_memory", "num_workers")
    },
    f"{TEST}.SampleFrames.test_mode": "clips are spread over the video",
    f"{TEST}.DenseSampleFrames.test_mode": "clips are spread over the video",
    "val_dataloader": "validation is of the centre clip and crop of each video",
    "val_evaluator": "top-1 and top-5, or mean average precision",
    "test_evaluator": "top-1 and top-5, or mean average precision",
    "val_cfg": "validated and tested in one way",
    "test_cfg": "validated and tested in one way",
    "train_cfg.val_begin": "validation begins with the first",
    "model.type": "of its classes",
    "model.cls_head.type": "of its classes",
    "model.cls_head.in_channels": "of the network",
    "model.cls_head.num_classes": "classes are those of data.index",
    "model.cls_head.consensus": "frames are averaged",
    "model.cls_head.is_shift": "of the network",
    "model.data_preprocessor.type": "of its classes",
    "model.data_preprocessor.format_shape": "of its tensors",
    "model.backbone.norm_cfg.requires_grad": "trained, unless frozen",
    "model.backbone.pretrained2d": "a file shows by itself what it is",
    "auto_scale_lr.enable": "the rate is scaled linearly with the batch, always",
    "default_hooks": "of its runner",
    "default_scope": "of its runner",
    "env_cfg": "of its runner",
    "launcher": "of its runner",
    "log_level": "of its runner",
    "log_processor": "of its runner",
    "vis_backends": "of its runner",
    "visualizer": "of its runner",
    "resume": "the same command goes on with a run",
    "work_dir": "output is named after the file",
    "find_unused_parameters": "of its runner",
}

_DATASETS = ("VideoDataset", "RawframeDataset")
"""Lists of videos, and of folders of frames."""

_IMAGE_NETWORKS = {
    "torchvision://resnet50": "torchvision:resnet50:IMAGENET1K_V1",
    "torchvision://resnet101": "torchvision:resnet101:IMAGENET1K_V1",
    "resnet50-0676ba61.pth": "torchvision:resnet50:IMAGENET1K_V1",
    "resnet50-11ad3fa6.pth": "torchvision:resnet50:IMAGENET1K_V2",
}
"""Ends of addresses -> weights of the same bytes."""

_DROPOUT = {"I3DHead": 0.5, "SlowFastHead": 0.8, "TSMHead": 0.8, "X3DHead": 0.5}
"""Of its classifiers where the file does not say."""


def translate_mmaction(path: Path) -> Translation:
    """Translate a config of mmaction2.

    Raises:
        SnvideoError: if it cannot be read, or asks for a network or a task that is not here.
    """
    file = read_python_file(path)
    if "model" not in file.values or not {"train_dataloader", "test_dataloader"} & set(file.values):
        raise ForeignKeys(path, {}).error(
            "expected a config of mmaction2 1.x, with model and train_dataloader"
        )
    # What other assignments have taken over is no setting by itself.
    values = {k: v for k, v in file.values.items() if k in _SECTIONS or k not in file.used}
    schedule = values.get("param_scheduler")
    if isinstance(schedule, dict):
        values["param_scheduler"] = [schedule]
    keys = ForeignKeys(path, flatten_foreign(values))
    for statement in file.statements:
        keys.add("not run", statement, "write what it changes into the config")
    _check_dataset(keys)
    clip = mmaction_clip(keys)
    network = mmaction_network(keys, clip["frames"], clip["stride"])
    run: dict[str, Any] = {
        "output": f"runs/{path.stem.lower()}",
        "model": {"name": network, **_model(keys)},
        "data": {
            "index": INDEX,
            "workers": keys.whole("train_dataloader.num_workers", 4),
            "clip": clip,
            "test": mmaction_test_views(keys, clip),
            **_normalization(keys),
        },
    }
    if "train_dataloader" in values:
        run["data"]["train"] = mmaction_train_views(keys)
        run["batch"] = mmaction_batch(keys)
        run["optim"] = mmaction_optim(keys, run["batch"])
        amp = keys.text("optim_wrapper.type", "OptimWrapper") == "AmpOptimWrapper"
        run["speed"] = {
            "amp": "fp16" if amp else "none",
            "activation_checkpointing": keys.flag("model.backbone.with_cp", False),
        }
        run["statistics"] = {"batches": _statistics(keys)}
        run["log"] = _log(keys)
    else:
        keys.add("train_dataloader", None, "it only tests: training is as snvideo's defaults say")
    if (seed := keys.take("randomness.seed")) is not None:
        run["seed"] = seed
    keys.finish(_HARMLESS)
    return finish_translation("mmaction2", keys, run)


def _check_dataset(keys: ForeignKeys) -> None:
    for part in ("train", "test"):
        keys.expect(f"{part}_dataloader.sampler.type", "DefaultSampler", "each video once")
        place = f"{part}_dataloader.dataset"
        kind = keys.text(f"{place}.type", "VideoDataset")
        if kind not in _DATASETS:
            expected = " and ".join(_DATASETS)
            raise keys.error(f"{place}.type {kind}: nothing here reads it, but {expected}")
        keys.require(f"{place}.test_mode", part == "test")
        keys.require(f"{place}.modality", "RGB")
        keys.require(f"{place}.with_offset", False)
    keys.expect("train_dataloader.sampler.shuffle", True, "the order is random")
    if "Recognizer" not in keys.text("model.type", "Recognizer3D"):
        raise keys.error(f"model.type {keys.values['model.type']}: only recognizers are here")


def _model(keys: ForeignKeys) -> dict[str, Any]:
    head = keys.values.get("model.cls_head.type", "")
    if head not in _DROPOUT:
        raise keys.error(f"model.cls_head.type {head}: expected one of {', '.join(_DROPOUT)}")
    for key, ours, why in (
        ("spatial_type", "avg", "features are averaged"),
        ("init_std", 0.01, "the classifier starts at 0.01"),
        ("average_clips", "prob", "probabilities of views are averaged"),
        ("fc1_bias", False, "without a bias"),
    ):
        keys.expect(f"model.cls_head.{key}", ours, why)
    is_2d = keys.take("model.backbone.type") == "ResNetTSM"  # which has no such setting
    keys.expect("model.test_cfg.average_clips", "prob", "probabilities of views are averaged")
    model: dict[str, Any] = {
        "norm": {"name": _norm(keys)},
        "dropout": keys.number("model.cls_head.dropout_ratio", _DROPOUT[head]),
        "zero_init_last": keys.flag("model.backbone.zero_init_residual", not is_2d),
    }
    source = _weights(keys)
    return model | ({"weights": {"source": source}} if source else {})


def _norm(keys: ForeignKeys) -> str:
    """Name of the norm; mmaction2 can keep statistics, and scales and shifts, as they are."""
    place = "model.backbone"
    kind = keys.text(f"{place}.norm_cfg.type", "BN3d")
    if kind not in ("BN", "BN2d", "BN3d", "SyncBN"):
        raise keys.error(f"{place}.norm_cfg.type {kind}: expected BN3d or SyncBN")
    for pathway in ("slow_pathway.", "fast_pathway."):
        keys.expect(f"{place}.{pathway}norm_eval", False, "statistics are of the batch")
    # Of its CSNs alone the default is another one.
    eps = 1e-3 if keys.take(f"{place}.type") == "ResNet3dCSN" else 1e-5
    keys.expect(f"{place}.norm_cfg.eps", 1e-5, "norms add 0.00001 to variances", default=eps)
    frozen, kept = keys.flag(f"{place}.bn_frozen", False), keys.flag(f"{place}.norm_eval", False)
    if frozen and kept:
        return "frozen_bn"
    if kept:
        keys.add(f"{place}.norm_eval", True, "statistics are of the batch")
    return "syncbn" if kind == "SyncBN" else "bn"


def _weights(keys: ForeignKeys) -> str | None:
    """The source to start from, if that can be had; downloads of mmaction2's own are named."""
    found = None
    for key in ("load_from", "model.backbone.pretrained"):
        if not isinstance(source := keys.take(key), str):
            continue
        name = next((ours for end, ours in _IMAGE_NETWORKS.items() if source.endswith(end)), None)
        if name is None and re.match(r"[a-z]+://", source):
            keys.add(key, source, "download it and set model.weights.source to the file")
        else:
            found = found or name or source
    return found


def _normalization(keys: ForeignKeys) -> dict[str, Any]:
    place = "model.data_preprocessor"
    found: dict[str, Any] = {}
    for key in ("mean", "std"):
        values = keys.numbers(f"{place}.{key}")
        if not values:
            keys.add(f"{place}.{key}", None, "not stated: that of the weights, or PySlowFast's")
        else:
            found[key] = [float(f"{value / 255:.6g}") for value in values]
    keys.expect(f"{place}.to_rgb", False, "channels are RGB")
    return found


def _statistics(keys: ForeignKeys) -> int:
    """Batches of precise BN; 0 for moving averages."""
    hook = "custom_hooks.PreciseBNHook"
    if keys.take(f"{hook}.type") is None:
        return 0
    return keys.whole(f"{hook}.num_iters", 200)


def _log(keys: ForeignKeys) -> dict[str, Any]:
    hooks = "default_hooks"
    log: dict[str, Any] = {
        "every_steps": keys.whole(f"{hooks}.logger.interval", 10),
        "validate_epochs": keys.whole("train_cfg.val_interval", 1),
        "checkpoint_epochs": keys.whole(f"{hooks}.checkpoint.interval", 1),
        "trackers": [],
    }
    kept = keys.take(f"{hooks}.checkpoint.max_keep_ckpts")
    return log | ({"keep_checkpoints": kept} if kept and kept > 0 else {})
