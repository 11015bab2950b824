"""A first config for an index and a machine: YAML in which every value has its reason beside it."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml

from snvideo.data.config import DataConfig
from snvideo.data.indexing.summary import IndexSummary
from snvideo.engine.config import BatchConfig, OptimConfig, RunConfig
from snvideo.engine.distributed import World
from snvideo.engine.dry_run import estimate
from snvideo.engine.starter_choices import (
    FEW,
    BatchGeometry,
    Choice,
    choose_batch,
    choose_clip,
    choose_crops,
    choose_epochs,
    choose_flip,
    choose_network,
    choose_norm,
    choose_sampling,
    is_tiny,
)
from snvideo.errors import SnvideoError
from snvideo.models.config import ModelConfig, NormConfig
from snvideo.models.pretrained import WeightsSource
from snvideo.models.pretrained.fitting import fitting_backbones

FINE_TUNING = "finetune/recipe"
"""Shipped config that a config with starting weights builds on."""
MEMORY = 0.5
"""Part of the free memory that is planned for: gradients of activations and workspaces of
convolutions, which are not counted, and other programs take theirs."""
LONG = 30  # seconds: median length from which on a clip may well show something else


class Setting(NamedTuple):
    """A dotted key of a config, its value and the reason for it; "" where the line before says."""

    key: str
    value: Any
    why: str = ""


class StarterConfig(NamedTuple):
    """A config to begin with."""

    text: str  # YAML
    remarks: list[str]  # lines for the user
    processes: int  # that the run is made for


def starter_config(
    summary: IndexSummary, output: Path, world: World, source: WeightsSource | None = None
) -> StarterConfig:
    """A config for training on an index, on this machine.

    Args:
        summary: of the index.
        output: folder of the run.
        world: this process, by whose device and its memory network and batch are chosen.
        source: weights to start from.

    Raises:
        SnvideoError: if the index lacks the splits of a run, or the weights are of no network here.
    """
    splits = list(_splits(summary))
    videos, gpu = int(summary.videos["train"][0]), world.device.type == "cuda"
    network = choose_network(gpu, videos)
    remarks = list(_remarks(summary, videos, gpu, source))
    if source is not None:
        first, *others = fitting_backbones(source)
        network = Choice(first, f"the network of {source.origin}")
        if others:
            left = ", ".join(others)
            remarks.append(f"{source.origin} fits {first}, which is taken, and {left}")
    cores, devices = os.cpu_count() or 1, torch.cuda.device_count() if gpu else 1
    workers = max(1, min(8, cores // devices - 1) if gpu else min(4, cores // 2))
    data = [
        Setting("data.index", str(summary.path), "paths start where snvideo is run"),
        *splits,
        Setting(
            "data.workers", workers, f"processes that read videos; this machine has {cores} cores"
        ),
        *_views(summary, network.value, source),
    ]
    loss = list(_loss(summary))
    fit = _clips_that_fit(network.value, [*data, *loss], min(2, videos), world)
    batch = choose_batch(videos, fit, devices)
    if source is not None and source.metadata is not None and not source.metadata.use_batch:
        gpus, clips, _, processes = batch.value
        alone = BatchGeometry(gpus * clips, 1, 1, processes)
        batch = Choice(alone, "the SN of the weights was trained with one clip a group")
    settings = [
        Setting("output", str(output), "folder of the run"),
        *_model(summary, network, batch.value.clips_per_gpu, source),
        *data,
        *_batch(batch),
        *loss,
        *_schedule(videos, batch.value, gpu, network.value, source),
    ]
    begin = f"{videos:,} training videos of {len(summary.labels):,} classes"
    on = f"{devices} GPU{'s' * (devices > 1)}" if gpu else "a CPU"
    head = [
        f"# Written by 'snvideo init' for {begin} on {on}.",
        "# Change what you know better: each value has the reason why it was chosen above it, and",
        "# 'snvideo train FILE --dry-run' says what a change makes of memory and time.",
    ]
    base = [] if source is None else [f"base: {FINE_TUNING}"]
    text = "\n".join([*head, *base, *_lines(settings)]) + "\n"
    return StarterConfig(text, remarks, batch.value.processes)


def _splits(summary: IndexSummary) -> Iterator[Setting]:
    """Splits to validate and test on."""
    usable = {split for split, counts in summary.videos.items() if counts[0]}
    labelled = {split for split in usable if summary.counts[split][:, 0].any()}
    if "train" not in labelled:
        names = ", ".join(sorted(usable)) or "none"
        raise SnvideoError(
            f"index {summary.path}: no usable video of split train, only of {names}: "
            "'snvideo index build' says how splits are named"
        )
    if "test" in labelled:
        yield Setting("data.test_split", "test", "for the numbers at the end")
        if "val" in labelled:
            yield Setting("data.val_split", "val", "shows progress, apart from the test")
    elif "val" in labelled:
        yield Setting("data.test_split", "val", "no labelled split test: val is for both")
    else:
        raise SnvideoError(
            f"index {summary.path}: no labelled video of split val or test to see what was learnt: "
            "build it with --val-fraction 0.2, or with a list of them"
        )


def _remarks(
    summary: IndexSummary, videos: int, gpu: bool, source: WeightsSource | None
) -> Iterator[str]:
    """Lines on what a user has to know or to decide."""
    if source is None and videos < FEW:
        small = "" if gpu else ", x3d_s being the quickest on a CPU"
        yield (
            f"{videos} videos teach a network from scratch little: start it from one that was "
            "trained on Kinetics, by --weights pytorchvideo:x3d_s or pytorchvideo:i3d_r50 (a "
            f"download{small}) or a file of yours"
        )
    flip, sampling = choose_flip(summary.labels), _sampling(summary)
    if not flip.value or all(name.isdigit() for name in summary.labels):
        yield f"data.train.flip is {str(flip.value).lower()}: {flip.why}"
    if sampling.value == "balanced":
        yield sampling.why
    median = float(np.median(summary.numbers["seconds"]))
    if median > LONG:
        yield (
            f"half of the videos last {median:.0f} s or more, and a clip is a random part of one: "
            "where it may show something else than the label, cut them first"
        )


def _views(summary: IndexSummary, name: str, source: WeightsSource | None) -> Iterator[Setting]:
    """Clips and crops."""
    known = source.metadata if source is not None else None
    trained = None if known is None else known.preprocessing
    numbers = summary.numbers
    clip, why = choose_clip(name, numbers["fps"], numbers["frames"], trained)
    crops, of_crops = choose_crops(name, summary.sizes, trained)
    clips = 5 if is_tiny(name) else 10
    if not _has_several(summary):
        yield Setting("data.sampling", *_sampling(summary))
    yield Setting("data.clip", clip.model_dump(), why)
    yield Setting(
        "data.train.short_side", list(crops.short_side), "a random size, then a random crop"
    )
    yield Setting("data.train.crop", crops.train, of_crops)
    yield Setting("data.train.flip", *choose_flip(summary.labels))
    yield Setting("data.test.short_side", crops.test_short_side, of_crops)
    yield Setting("data.test.crop", crops.test)
    yield Setting(
        "data.test.clips", clips, "clips spread over the video, whose answers are averaged"
    )
    yield Setting("data.test.crops", 3, "of each clip: both ends and the centre of the long side")


def _clips_that_fit(name: str, settings: list[Setting], clips: int, world: World) -> int | None:
    """Clips whose training pass fits into memory, by an estimate for a few; None if unknown."""
    values = _nested(settings)
    probe = RunConfig(
        output=Path(),
        model=ModelConfig(name=name, norm=NormConfig(name="bn")),
        data=DataConfig.model_validate(values["data"]),
        optim=OptimConfig.model_validate(values.get("optim", {})),
        batch=BatchConfig(gpus=1, clips_per_gpu=clips),
    )
    found = estimate(probe, world)
    if found.memory_free is None:
        return None
    each = max(1, found.cost.activation_bytes // clips)
    fixed = found.memory_needed - found.cost.activation_bytes
    return max(0, int(MEMORY * found.memory_free) - fixed) // each


def _model(
    summary: IndexSummary, network: Choice, clips: int, source: WeightsSource | None
) -> Iterator[Setting]:
    """Network, norm, starting weights."""
    norm, why = choose_norm(network.value, clips, source)
    yield Setting("model.name", *network)
    for key, value in norm.items():
        yield Setting(f"model.norm.{key}", value, why if key == "name" else "")
    if source is None:
        rate = 0.2 if is_tiny(network.value) else 0.5
        yield Setting("model.dropout", rate, "rate before the classifier")
        return
    yield Setting("model.weights.source", source.origin, "trained already: far fewer videos do")
    if source.norm is None:
        yield Setting("model.weights.norms", "new", "the file does not show which norms it has")
    if source.classes is not None and set(summary.labels) <= set(source.classes):
        yield Setting("model.weights.head", "match", "the weights know all of these classes")


def _sampling(summary: IndexSummary) -> Choice:
    return choose_sampling(summary.labels, summary.counts["train"][:, 0])


def _has_several(summary: IndexSummary) -> bool:
    """True if videos have several labels."""
    counts = summary.counts.items()
    return any(videos[:, 0].sum() > summary.videos[split][0] for split, videos in counts)


def _loss(summary: IndexSummary) -> Iterator[Setting]:
    """The loss of videos with several labels; nothing where they have one."""
    if _has_several(summary):
        yield Setting("optim.loss", "bce", "videos have several labels")
        sampling, why = _sampling(summary)
        if sampling == "balanced":
            yield Setting("optim.class_weights", "balanced", why)


def _batch(batch: Choice) -> Iterator[Setting]:
    """Batch geometry."""
    gpus, clips, together, _ = batch.value
    yield Setting("batch.gpus", gpus, f"groups of a step: {batch.why}")
    yield Setting(
        "batch.clips_per_gpu", clips, "clips of a group, over which batch statistics are taken"
    )
    yield Setting("batch.gpus_per_pass", together, "groups that memory has room for in one pass")


def _schedule(
    videos: int, batch: BatchGeometry, gpu: bool, name: str, source: WeightsSource | None
) -> Iterator[Setting]:
    """Learning rate, length, log, and the views of a pass of the test."""
    steps = max(1, videos // (batch.gpus * batch.clips_per_gpu))
    epochs, why = choose_epochs(steps, gpu, source is not None)
    every = max(1, epochs // 5)
    if source is None:
        rate = 0.4 if is_tiny(name) else 0.1
        yield Setting("optim.lr", rate, "at 64 clips a step, and in proportion at fewer")
        yield Setting(
            "optim.weight_decay", 5.0e-4 if videos < FEW else 1.0e-4, "more for few videos"
        )
    yield Setting("optim.epochs", epochs, why)
    yield Setting("optim.warmup_epochs", max(1, round(epochs / 15)), "a fifteenth of them")
    yield Setting(
        "log.every_steps",
        max(1, min(50, epochs * steps // 20)),
        "steps from one log line to the next",
    )
    yield Setting("log.validate_epochs", every, "five times in the run")
    yield Setting("log.checkpoint_epochs", every)
    views = 15 if is_tiny(name) else 30
    yield Setting("test_batch", 4 * views if is_tiny(name) else views, f"a video has {views} views")


def _nested(settings: Iterable[Setting]) -> dict[str, Any]:
    """Values by section."""
    values: dict[str, Any] = {}
    for key, value, _ in settings:
        *sections, name = key.split(".")
        place = values
        for section in sections:
            place = place.setdefault(section, {})
        place[name] = value
    return values


def _lines(settings: Iterable[Setting]) -> Iterator[str]:
    """YAML with comments; settings of a section stand one behind the other."""
    within: list[str] = []
    for key, value, why in settings:
        *sections, name = key.split(".")
        shared = 0
        while shared < min(len(within), len(sections)) and within[shared] == sections[shared]:
            shared += 1
        yield from (f"{'  ' * depth}{sections[depth]}:" for depth in range(shared, len(sections)))
        within, indent = sections, "  " * len(sections)
        if why:
            yield f"{indent}# {why}"
        written = yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False)
        text = written.removesuffix("...\n").strip()  # the end of a document, behind plain values
        yield f"{indent}{name}: {text}"
