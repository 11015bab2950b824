"""Testing weights again, or those of others: other views, another index, another checkpoint."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from torch import nn

from snvideo.data.index import ClipIndex
from snvideo.engine.checkpoint import checkpoints, load_checkpoint, load_weights
from snvideo.engine.config import RunConfig
from snvideo.engine.distributed import Processes, joined
from snvideo.engine.evaluator import evaluate, refresh_statistics
from snvideo.engine.geometry import plan
from snvideo.engine.performance import algorithms, choose, memory_format
from snvideo.engine.run_dir import RunFolder
from snvideo.engine.setup import open_start, settled, start_from
from snvideo.engine.train import describe, summary
from snvideo.engine.trainer import build, read_quarantine
from snvideo.errors import SnvideoError
from snvideo.models.pretrained import Source

log = logging.getLogger(__name__)


def test_run(folder: Path, config: RunConfig, checkpoint: Path | None = None) -> dict[str, Any]:
    """Test a checkpoint of a run over all views and write `evaluation.json` and `evaluation.npz`.

    Args:
        folder: of the run.
        config: the run's, with whatever is to be different.
        checkpoint: weights; the newest of the run otherwise.

    Returns:
        what `evaluation.json` holds.
    """
    with joined() as processes:
        config = settled(config, None, processes)
        if checkpoint is None:
            found = checkpoints(folder / "checkpoints")
            if not found:
                raise SnvideoError(f"{folder} has no checkpoint: train it first")
            checkpoint = found[-1]
        state = load_checkpoint(checkpoint)
        test_index = _test_index(config)
        classes = list(test_index.labels)
        model = build(config, len(classes))
        load_weights(model, state, checkpoint, averaged=True)
        if state["classes"] != classes:
            raise SnvideoError(
                f"{checkpoint} was trained on other classes than those of {config.data.index}, or "
                "on the same in another order: use the label map that it was trained with"
            )
        _refresh(model, folder, config, processes)
        return _test(model, test_index, folder, config, processes, str(checkpoint))


def test_weights(config: RunConfig) -> dict[str, Any]:
    """Test the weights that a config starts from, untrained, with the statistics they came with.

    Writes `evaluation.json` and `evaluation.npz` to the config's output.

    Returns:
        what `evaluation.json` holds.

    Raises:
        SnvideoError: if the config names no weights, they do not fit, or lack some of the classes.
    """
    with joined() as processes:
        source = open_start(config, processes)
        if source is None:
            raise SnvideoError("nothing to test: name weights with model.weights.source")
        if not source.exact:
            raise SnvideoError(
                f"{source.origin} cannot be tested without training: {'; '.join(source.notes)}"
            )
        if (config.output / "config.yaml").exists():
            raise SnvideoError(f"{config.output} holds a run: choose another output")
        config = _as_trained(settled(config, source, processes), source)
        test_index = _test_index(config)
        model = build(config, len(test_index.labels))
        report = start_from(model, source, config, test_index.labels, processes)
        new = [f"{entry.name} ({entry.why})" for entry in report.entries if entry.fate == "reset"]
        if report.new_classes:
            new.append(f"{report.new_classes} classes that it does not know")
        if new:
            raise SnvideoError(
                f"{source.origin} cannot be tested without training: new would be {new[0]}"
            )
        return _test(model, test_index, config.output, config, processes, source.origin)


def _as_trained(config: RunConfig, source: Source) -> RunConfig:
    """With SN's batch part where the weights have it, whatever the geometry is: it counts for
    training alone."""
    if source.about is None or not source.about.use_batch:
        return config
    batch = config.batch.model_copy(update={"clips_per_gpu": max(2, config.batch.clips_per_gpu)})
    return config.model_copy(update={"batch": batch})


def _test_index(config: RunConfig) -> ClipIndex:
    data = config.data
    return ClipIndex.load(data.index, data.test_split, data.root)


def _refresh(model: nn.Module, folder: Path, config: RunConfig, processes: Processes) -> None:
    """Average the statistics over training clips, as at the end of the run."""
    data, norm = config.data, config.model.norm.name
    index = ClipIndex.load(data.index, data.train_split, data.root)
    geometry = plan(config.batch, norm, processes.count, processes.rank, len(index))
    epoch = config.optim.epochs - 1
    quarantine = read_quarantine(config, folder)
    model.to(processes.device, memory_format=memory_format(config.speed))
    with algorithms(choose(config.speed, processes.device, 1), processes.device):
        refresh_statistics(model, index, config, geometry, epoch, processes, quarantine)


def _test(
    model: nn.Module,
    index: ClipIndex,
    folder: Path,
    config: RunConfig,
    processes: Processes,
    weights: str,
) -> dict[str, Any]:
    """Test a network as it is, and write down what came of it."""
    views = {"clips": config.data.test.clips, "crops": config.data.test.crops}
    quarantine = read_quarantine(config, folder)
    model.to(processes.device, memory_format=memory_format(config.speed))
    with algorithms(choose(config.speed, processes.device, 1), processes.device):
        evaluation = evaluate(model, index, config, processes, **views, quarantine=quarantine)
    results = {
        **describe(config, index),
        **summary(evaluation),
        "views": views,
        "checkpoint": weights,
    }
    if processes.main:
        written = RunFolder(folder)
        with written.written("evaluation.npz") as path:
            evaluation.save_predictions(path, index)
        written.write_results(results, "evaluation")
        log.info(
            "%s: clip top-1 %.1f %% top-5 %.1f %%, video top-1 %.1f %% top-5 %.1f %% over %d "
            "videos (%d unreadable) x %d views",
            weights,
            *(100 * results[f"{unit}_top{k}"] for unit in ("clip", "video") for k in (1, 5)),
            results["videos"],
            results["failed_videos"],
            views["clips"] * views["crops"],
        )
    return results


test_run.__test__ = False  # not test cases, whatever pytest makes of the names
test_weights.__test__ = False
