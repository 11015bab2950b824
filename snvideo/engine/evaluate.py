"""Evaluation: clip and video accuracy over test views, every video counted once."""

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric

from snvideo.base_config import expand_user
from snvideo.data import sampling
from snvideo.data.augmentation import to_input, train_input
from snvideo.data.config import MEAN, STD, DataConfig
from snvideo.data.index import ClipIndex
from snvideo.data.loader import test_loader, train_loader
from snvideo.data.quarantine import Quarantine
from snvideo.engine.accuracy import Evaluation, MultiLabelFigures, SingleLabelFigures, no_figures
from snvideo.engine.batch_plan import BatchPlan, plan_batch
from snvideo.engine.checkpoint import checkpoints, load_checkpoint, load_weights
from snvideo.engine.config import RunConfig, SpeedConfig
from snvideo.engine.distributed import World, init_world
from snvideo.engine.losses import activation_of, check_labels, clip_losses, probabilities
from snvideo.engine.optim import freeze
from snvideo.engine.performance import algorithms, autocast, choose, memory_format
from snvideo.engine.results import Results, StatisticsOrigin
from snvideo.engine.run_dir import RunDir
from snvideo.engine.setup import (
    build_network,
    open_start,
    read_quarantine,
    resolve_config,
    start_from,
)
from snvideo.errors import SnvideoError
from snvideo.models.pretrained import evaluated_weights
from snvideo.norm import average_statistics, tracking_layers

log = logging.getLogger(__name__)


def refresh_statistics(
    model: nn.Module,
    index: ClipIndex,
    config: RunConfig,
    plan: BatchPlan,
    epoch: int,
    world: World,
    quarantine: Quarantine,
) -> dict[str, Tensor] | None:
    """Average batch statistics over training clips, in the groups of the run's batch plan.

    Returns a copy of the statistics by their names in the state of the model; None of a model
    without, or if moving averages are kept.
    """
    layers = tracking_layers(model, frozen=False)  # frozen parts keep their statistics, too
    if not layers or not config.statistics.batches:
        return None
    passes = ((epoch, group) for group in plan.statistics(len(index), config.statistics.batches))
    stream = sampling.STATISTICS
    batches = train_loader(index, config.data, config.seed, passes, stream, quarantine)
    layout = memory_format(config.speed)
    inputs = (train_input(batch, config.data, world.device, layout) for batch in batches)
    with autocast(config.speed, world.device):
        average_statistics(model, inputs, config.statistics.kind, layers)
    names = ("running_mean", "running_var")
    state = model.state_dict()
    return {name: state[name].clone() for name in state if name.rpartition(".")[2] in names}


@torch.inference_mode()
def evaluate_views(
    model: nn.Module,
    index: ClipIndex,
    config: RunConfig,
    world: World,
    clips: int,
    crops: int,
    quarantine: Quarantine,
    rows: Sequence[int] | None = None,
) -> Evaluation:
    """Evaluate a model over views of videos of an index; those without a label count in no figure.

    A clip counts by its own probabilities, a video by those averaged over its views. Each process
    takes every W-th video, and all return the same figures.

    Raises NotFiniteError if the network gives anything but numbers for a video, SnvideoError if no
    video can be read, or none of those with a label.

    Args:
        model: in whatever mode; it is left in evaluation mode.
        index, rows: the test split, and the videos of it; None: all of them.
        config: precision and batch size.
        world: the processes that share the work.
        clips, crops: views of each video.
        quarantine: videos that are not opened; what proves unreadable is added to it.
    """
    model.eval()
    device, classes, batch_size = world.device, len(index.labels), config.test_batch
    activation = activation_of(config.optim)
    check_labels(config, index)
    figures = (MultiLabelFigures if index.multi_label else SingleLabelFigures)(classes)
    loss = MeanMetric(nan_strategy="ignore").to(device)
    figures.to(device)
    failed: list[tuple[str, str]] = []
    parts: list[tuple[np.ndarray, ...]] = []
    not_finite: list[str] = []
    rows = range(len(index)) if rows is None else rows
    labelled = set(index.labelled.tolist()).intersection(rows)
    mine = rows[world.rank :: world.size]
    for batch in test_loader(index, config.data, mine, batch_size, clips, crops, quarantine):
        failed += batch.unreadable
        if not len(batch.videos):
            continue
        truth = batch.labels.to(device)
        views = torch.cat([views.expand(device) for views in batch.views])
        logits = view_logits(model, views, config.data, config.speed, batch_size, device)
        finite = logits.isfinite().all(1).view(len(truth), -1).all(1).tolist()
        rows_of_batch = batch.videos.tolist()
        not_finite += [index[r].name for r, ok in zip(rows_of_batch, finite, strict=True) if not ok]
        clip = probabilities(logits, activation)
        video = clip.unflatten(0, (len(truth), -1)).mean(1)
        known = truth.view(len(truth), -1)[:, 0] >= 0
        if known.any():
            of_known, clip_truth = (x.repeat_interleave(clips * crops, 0) for x in (known, truth))
            clip, clip_truth = clip[of_known], clip_truth[of_known]
            loss.update(clip_losses(logits[of_known], clip_truth, config.optim.loss))
            figures.update(clip, clip_truth, video[known], truth[known])
        parts.append((batch.videos.numpy(), batch.labels.numpy(), video.cpu().numpy()))
    gathered = world.gather((parts, failed, not_finite))
    failed = [video for _, some, _ in gathered for video in some]
    read = {row for some, _, _ in gathered for part in some for row in part[0].tolist()}
    _check_measured(
        index.split, len(read), failed, [name for *_, some in gathered for name in some]
    )
    if labelled and not labelled & read:
        name, reason = failed[0]
        raise SnvideoError(f"no video with a label could be read, as {name}: {reason}")
    columns = zip(*(part for some, _, _ in gathered for part in some), strict=True)
    all_rows, labels, scores = (np.concatenate(column) for column in columns)
    order = np.argsort(all_rows)
    found: dict[str, Any] = {
        "rows": all_rows[order],
        "labels": labels[order],
        "probabilities": scores[order],
    }
    if not labelled:
        return Evaluation(**no_figures(classes), failed=failed, **found)
    with_label = found["labels"].reshape(len(order), -1)[:, 0] >= 0
    videos = (torch.from_numpy(found[name][with_label]) for name in ("probabilities", "labels"))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".* was called before the ``update``")
        measured = {"loss": float(loss.compute()), **figures.compute(*videos)}  # of other processes
    return Evaluation(**measured, failed=failed, **found)


class NotFiniteError(SnvideoError):
    """An output of the network that is no number, so that no accuracy can be stated."""


def _check_measured(
    split: str, videos: int, failed: list[tuple[str, str]], not_finite: list[str]
) -> None:
    """Raise SnvideoError if no video was read, or some outputs are no numbers."""
    if not videos:
        name, reason = failed[0] if failed else ("the split", "it is empty")
        raise SnvideoError(f"no video of split {split!r} could be read, as {name}: {reason}")
    if not_finite:
        raise NotFiniteError(
            f"the network's output is not finite for {len(not_finite)} of {videos} videos, as "
            f"{not_finite[0]}: its weights or statistics are broken, and no accuracy is stated"
        )


def view_input(views: Tensor, data: DataConfig, speed: SpeedConfig) -> Tensor:
    """Test views, uint8 (N, T, 3, H, W), as a network's input, float32 (N, 3, T, H, W)."""
    return to_input(views, data.mean or MEAN, data.std or STD, memory_format(speed))


def view_logits(
    model: nn.Module,
    views: Tensor,
    data: DataConfig,
    speed: SpeedConfig,
    batch: int,
    device: torch.device,
) -> Tensor:
    """Logits of test views, float32 (N, classes).

    Args:
        model: in evaluation mode.
        views: uint8 (N, T, 3, H, W), on the device of the model.
        data, speed: mean and standard deviation of the input; precision and memory format.
        batch: views in one forward pass.
        device: of both.
    """
    inputs = (view_input(part, data, speed) for part in views.split(batch))
    with autocast(speed, device):
        return torch.cat([model(clips) for clips in inputs]).float()


def evaluate(
    config: RunConfig, run: Path | str | None = None, checkpoint: Path | str | None = None
) -> Results:
    """Evaluate a checkpoint of a run, or the weights that a config starts from, untrained.

    Statistics are those of the weights, whatever index is tested on, see `StatisticsConfig`.
    Writes `evaluation.json` and `evaluation.npz` to the config's output, which is the run's folder
    unless another one is named.

    Args:
        config: the run's, with other views, another index or whatever is to be different.
        run: directory of the run; None: `model.weights` are evaluated.
        checkpoint: weights of the run; None: the newest.

    Raises:
        SnvideoError: if there are no weights, they do not fit, or lack some of the classes.
    """
    data = config.data
    with init_world() as world:
        index = ClipIndex.load(data.index, data.test_split, data.root)
        folder, device = RunDir(expand_user(run or config.output)), world.device
        written = RunDir(config.output)
        world.on_main(lambda: written.check_output(None if run is None else folder))
        stored = None if run is None else folder.stored_config()
        asked = stored is not None and config.data.quarantine != stored.data.quarantine
        quarantine = read_quarantine(config, None if asked else folder.path)
        if config.statistics.source == "index" and not config.statistics.batches:
            raise SnvideoError(
                "statistics.from=index averages over an index, and statistics.batches is 0, which "
                "keeps the averages of training: leave one of them out"
            )
        step, training = 0, config
        statistics: StatisticsOrigin = "weights"
        if run is None:
            config, model, origin = _load_start(config, index.labels, world)
        else:
            config = resolve_config(config, None, world)
            path = _newest(folder) if checkpoint is None else expand_user(checkpoint)
            state, origin = load_checkpoint(path), str(path)
            statistics, training = _choose_statistics(config, stored or config, state, index.hash)
            step = state["progress"]["step"]
            model = _load_checkpoint(config, path, state, statistics, index.labels)
        tracked = tracking_layers(model, frozen=False)
        if config.statistics.source == "index" and tracked:
            statistics, training = "index", config
        model.to(device).to(memory_format=memory_format(config.speed))
        with algorithms(choose(config.speed, device, 1), device):
            if statistics in ("run", "index") and tracked:
                known = state["index_hash"] if statistics == "run" else None
                _average(model, training, step, known, world, quarantine)
            clips, crops = data.test.clips, data.test.crops
            found = evaluate_views(model, index, config, world, clips, crops, quarantine)
        results = Results.of(
            *(_as_trained(config, stored), index, found),
            checkpoint=origin,
            statistics_from=statistics if tracked else None,
        )
        if world.is_main:
            with written.written("evaluation.npz") as path:
                found.save_predictions(path, index)
            written.write_results(results.stored(), "evaluation")
            log.info("%s: %s x %d views", origin, results, clips * crops)
    return results


def _as_trained(config: RunConfig, stored: RunConfig | None) -> RunConfig:
    """The config with the batch and seed of the run that is tested, which a test cannot change."""
    if stored is None:
        return config
    return config.model_copy(update={"batch": stored.batch, "seed": stored.seed})


def _newest(folder: RunDir) -> Path:
    """The newest checkpoint of a run."""
    found = checkpoints(folder.checkpoints)
    if not found:
        raise SnvideoError(f"{folder.path} has no checkpoint: train it first")
    return found[-1]


def _choose_statistics(
    config: RunConfig, stored: RunConfig, state: dict[str, Any], tested_on: str
) -> tuple[StatisticsOrigin, RunConfig]:
    """Origin of the statistics of a checkpoint, and the config of the clips to average over, of the
    run's stored one; the hash of the index tested on tells whether it is the one trained on,
    wherever it lies."""
    wanted, own = (
        one.statistics.model_dump(include={"kind", "batches"}) for one in (config, stored)
    )
    held = state.get("statistics")
    if held is not None and wanted == {key: held[key] for key in wanted}:
        return "weights", config
    # Of older versions no checkpoint held any.
    between_validations = held is None and "statistics" in state
    if not config.statistics.batches or (between_validations and wanted == own):
        return "moving", config
    if tested_on != state["index_hash"]:
        seen = {key: getattr(config.data, key) for key in ("workers", "timeout", "start_method")}
        config = config.model_copy(update={"data": stored.data.model_copy(update=seen)})
    return "run", config


def _average(
    model: nn.Module,
    config: RunConfig,
    step: int,
    index_hash: str | None,
    world: World,
    quarantine: Quarantine,
) -> None:
    """Average statistics over training clips of a config's index, as in training at a step.

    Raises SnvideoError if there are no such clips, or the index has not the hash that is known.
    """
    data = config.data
    try:
        index = ClipIndex.load(data.index, data.train_split, data.root)
        if index_hash not in (None, index.hash):
            raise SnvideoError(f"{data.index} is another index than the run was trained on")
        norm = config.model.norm.name
        plan = plan_batch(config.batch, norm, world.size, world.rank, len(index))
    except SnvideoError as error:
        raise SnvideoError(
            f"statistics cannot be averaged: {error}. statistics.batches=0 takes the moving "
            "averages of the checkpoint, statistics.from=index the training split of data.index"
        ) from None
    epoch = config.optim.epoch_under_way(step, plan.steps(len(index)))
    refresh_statistics(model, index, config, plan, epoch, world, quarantine)


def _load_checkpoint(
    config: RunConfig,
    path: Path,
    state: dict[str, Any],
    statistics: StatisticsOrigin,
    classes: Sequence[str],
) -> nn.Module:
    """The network of a checkpoint, with the averages that it holds if they are its statistics."""
    model = build_network(config, len(classes))
    freeze(model, config.optim.freeze)  # whose statistics stay as they were in training
    held = state.get("statistics") if statistics == "weights" else None
    load_weights(model, evaluated_weights({**state, "statistics": held}), path)
    if state["classes"] != list(classes):
        raise SnvideoError(
            f"{path} was trained on other classes than those of {config.data.index}, or "
            "on the same in another order: use the label map that it was trained with"
        )
    tracked = tracking_layers(model, frozen=False)
    if statistics == "moving" and config.statistics.batches and tracked:
        log.warning(
            "%s was not validated and holds moving averages of the statistics, which it is tested "
            "with; statistics.from=index averages over the training split of data.index",
            path,
        )
    return model


def _load_start(
    config: RunConfig, classes: Sequence[str], world: World
) -> tuple[RunConfig, nn.Module, str]:
    """The resolved config, the network with the weights that it names, and their origin."""
    source = open_start(config, world)
    if source is None:
        raise SnvideoError("nothing to test: name weights with model.weights.source")
    untrained = f"{source.origin} cannot be tested without training"
    if not source.exact:
        raise SnvideoError(f"{untrained}: {'; '.join(source.notes)}")
    config = resolve_config(config, source, world)
    if source.metadata is not None and source.metadata.use_batch:
        # Keep SN's batch part: one clip per GPU, for which it is left out, counts in training only.
        clips = max(2, config.batch.clips_per_gpu)
        batch = config.batch.model_copy(update={"clips_per_gpu": clips})
        config = config.model_copy(update={"batch": batch})
    model = build_network(config, len(classes))
    report = start_from(model, source, config, classes, world)
    new = [f"{entry.name} ({entry.why})" for entry in report.entries if entry.status == "reset"]
    if report.new_classes:
        new.append(f"{report.new_classes} classes that it does not know")
    if new:
        raise SnvideoError(f"{untrained}: new would be {new[0]}")
    return config, model, source.origin
