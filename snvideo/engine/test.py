"""Testing the weights of a run again: other views, another index, another checkpoint."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from snvideo.data.index import ClipIndex
from snvideo.engine.config import RunConfig
from snvideo.engine.evaluate import evaluate, refresh_statistics
from snvideo.engine.geometry import plan
from snvideo.engine.processes import joined
from snvideo.engine.speed import algorithms, choose, memory_format
from snvideo.engine.storage.checkpoint import checkpoints, load_checkpoint, load_weights
from snvideo.engine.storage.folder import RunFolder
from snvideo.engine.train import describe, summary
from snvideo.engine.trainer import build, read_quarantine
from snvideo.errors import SnvideoError

log = logging.getLogger(__name__)


def test_run(folder: Path, config: RunConfig, checkpoint: Path | None = None) -> dict[str, Any]:
    """Test a checkpoint over all views and write `evaluation.json` and `evaluation.npz`.

    Args:
        folder: of the run.
        config: the run's, with whatever is to be different.
        checkpoint: weights; the newest of the run otherwise.

    Returns:
        what `evaluation.json` holds.
    """
    with joined() as processes:
        if checkpoint is None:
            found = checkpoints(folder / "checkpoints")
            if not found:
                raise SnvideoError(f"{folder} has no checkpoint: train it first")
            checkpoint = found[-1]
        state = load_checkpoint(checkpoint)
        data = config.data
        test_index = ClipIndex.load(data.index, data.test_split, data.root)
        classes = list(test_index.labels)
        model = build(config, len(classes)).to(
            processes.device, memory_format=memory_format(config.speed)
        )
        load_weights(model, state, checkpoint, averaged=True)
        if state["classes"] != classes:
            raise SnvideoError(
                f"{checkpoint} was trained on other classes than those of {data.index}, or on the "
                "same in another order: use the label map that it was trained with"
            )
        train_index = ClipIndex.load(data.index, data.train_split, data.root)
        norm, count, rank = config.model.norm.name, processes.count, processes.rank
        geometry = plan(config.batch, norm, count, rank, len(train_index))
        epoch = config.optim.epochs - 1
        quarantine = read_quarantine(config, folder)
        views = {"clips": data.test.clips, "crops": data.test.crops}
        with algorithms(choose(config.speed, processes.device, 1), processes.device):
            refresh_statistics(model, train_index, config, geometry, epoch, processes, quarantine)
            evaluation = evaluate(
                model, test_index, config, processes, **views, quarantine=quarantine
            )
        results = {
            **describe(config, test_index),
            **summary(evaluation),
            "views": views,
            "checkpoint": str(checkpoint),
        }
        if processes.main:
            written = RunFolder(folder)
            with written.written("evaluation.npz") as path:
                evaluation.save_predictions(path, test_index)
            written.write_results(results, "evaluation")
            log.info(
                "%s: clip top-1 %.1f %% top-5 %.1f %%, video top-1 %.1f %% top-5 %.1f %% over %d "
                "videos (%d unreadable) x %d views",
                checkpoint,
                *(100 * results[f"{unit}_top{k}"] for unit in ("clip", "video") for k in (1, 5)),
                results["videos"],
                results["failed_videos"],
                views["clips"] * views["crops"],
            )
        return results


test_run.__test__ = False  # not a test case, whatever pytest makes of the name
