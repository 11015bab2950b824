"""Evaluation of a run's weights, or of published ones, apart from training."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from snvideo.data.index import ClipIndex
from snvideo.engine.batch_plan import plan_batch
from snvideo.engine.checkpoint import checkpoints, load_checkpoint, load_weights
from snvideo.engine.config import RunConfig
from snvideo.engine.distributed import World, init_world
from snvideo.engine.evaluator import evaluate_views, refresh_statistics
from snvideo.engine.performance import algorithms, choose, memory_format
from snvideo.engine.results import Results
from snvideo.engine.run_dir import RunDir
from snvideo.engine.setup import (
    build_network,
    open_start,
    read_quarantine,
    resolve_config,
    start_from,
)
from snvideo.errors import SnvideoError

log = logging.getLogger(__name__)


def evaluate(
    config: RunConfig, run: Path | str | None = None, checkpoint: Path | str | None = None
) -> Results:
    """Evaluate a checkpoint of a run, or the weights that a config starts from, untrained.

    Writes `evaluation.json` and `evaluation.npz` to the run, or to the config's output.

    Args:
        config: the run's, with other views, another index or whatever is to be different.
        run: directory of the run; None: `model.weights` are evaluated, with their own statistics.
        checkpoint: weights of the run; None: the newest.

    Raises:
        SnvideoError: if there are no weights, they do not fit, or lack some of the classes.
    """
    data = config.data
    run, checkpoint = run and Path(run), checkpoint and Path(checkpoint)
    with init_world() as world:
        index = ClipIndex.load(data.index, data.test_split, data.root)
        if run is None:
            config, model, origin = _load_start(config, index.labels, world)
        else:
            config, model, origin = _load_run(config, run, checkpoint, index.labels, world)
        folder, device = RunDir(run or config.output), world.device
        quarantine = read_quarantine(config, folder.path)
        model.to(device).to(memory_format=memory_format(config.speed))
        with algorithms(choose(config.speed, device, 1), device):
            if run is not None:  # as at the end of the run
                train_index = ClipIndex.load(data.index, data.train_split, data.root)
                norm = config.model.norm.name
                plan = plan_batch(config.batch, norm, world.size, world.rank, len(train_index))
                epoch = config.optim.epochs - 1
                refresh_statistics(model, train_index, config, plan, epoch, world, quarantine)
            clips, crops = data.test.clips, data.test.crops
            found = evaluate_views(model, index, config, world, clips, crops, quarantine)
        results = Results.of(config, index, found, checkpoint=origin)
        if world.is_main:
            with folder.written("evaluation.npz") as path:
                found.save_predictions(path, index)
            folder.write_results(results.stored(), "evaluation")
            log.info(
                "%s: clip top-1 %.1f %% top-5 %.1f %%, video top-1 %.1f %% top-5 %.1f %% over %d "
                "videos (%d unreadable) x %d views",
                origin,
                100 * results.clip_top1,
                100 * results.clip_top5,
                100 * results.video_top1,
                100 * results.video_top5,
                results.videos,
                results.failed_videos,
                clips * crops,
            )
    return results


def _load_run(
    config: RunConfig,
    run: Path,
    checkpoint: Path | None,
    classes: Sequence[str],
    world: World,
) -> tuple[RunConfig, nn.Module, str]:
    """The resolved config, the network of a checkpoint, and the checkpoint's name."""
    config = resolve_config(config, None, world)
    if checkpoint is None:
        found = checkpoints(run / "checkpoints")
        if not found:
            raise SnvideoError(f"{run} has no checkpoint: train it first")
        checkpoint = found[-1]
    state = load_checkpoint(checkpoint)
    model = build_network(config, len(classes))
    load_weights(model, state, checkpoint, averaged=True)
    if state["classes"] != list(classes):
        raise SnvideoError(
            f"{checkpoint} was trained on other classes than those of {config.data.index}, or "
            "on the same in another order: use the label map that it was trained with"
        )
    return config, model, str(checkpoint)


def _load_start(
    config: RunConfig, classes: Sequence[str], world: World
) -> tuple[RunConfig, nn.Module, str]:
    """The resolved config, the network with the weights that it names, and their origin."""
    source = open_start(config, world)
    if source is None:
        raise SnvideoError("nothing to test: name weights with model.weights.source")
    if not source.exact:
        raise SnvideoError(
            f"{source.origin} cannot be tested without training: {'; '.join(source.notes)}"
        )
    if (config.output / "config.yaml").exists():
        raise SnvideoError(f"{config.output} holds a run: choose another output")
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
        raise SnvideoError(
            f"{source.origin} cannot be tested without training: new would be {new[0]}"
        )
    return config, model, source.origin
