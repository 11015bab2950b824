"""One run from a config to its results: train, validate, checkpoint, test."""

from __future__ import annotations

import logging
import time
from typing import Any

from snvideo.data.index import ClipIndex
from snvideo.engine.config import RunConfig
from snvideo.engine.evaluate import Evaluation
from snvideo.engine.folder import RunFolder
from snvideo.engine.processes import joined
from snvideo.engine.trainer import Trainer
from snvideo.norm import importance

log = logging.getLogger(__name__)


def train(config: RunConfig, resume: bool = False) -> dict[str, Any]:
    """Do a whole run, or what is left of it, and return its results.

    Args:
        config: everything that decides the result.
        resume: go on from the newest checkpoint in `config.output`, if there is one.

    Returns:
        what `results.json` holds.

    Raises:
        SnvideoError: if the config, the index, the hardware or the folder do not fit together.
    """
    with joined() as processes:
        folder = RunFolder(config.output)
        folder.check(config, resume)
        finished = folder.results()
        if finished is not None:
            log.info("%s is finished already", config.output)
            return finished
        processes.wait()  # nobody writes before everybody has looked
        trainer = Trainer(config, processes)
        trainer.restore(folder)
        if processes.main:
            folder.open(config, trainer.progress.step)
            _announce(trainer)
        try:
            trainer.run(folder)
            return _finish(trainer, folder)
        finally:
            folder.close()


def _announce(trainer: Trainer) -> None:
    config, geometry = trainer.config, trainer.geometry
    log.info(
        "%s with %s, %.2f M parameters; %d gpus x %d clips on %d process%s (%s); %d training "
        "and %d test videos of %d classes; %d steps",
        config.model.name,
        config.model.norm.name,
        sum(parameter.numel() for parameter in trainer.model.parameters()) / 1e6,
        config.batch.gpus,
        config.batch.clips_per_gpu,
        geometry.processes,
        "" if geometry.processes == 1 else "es",
        trainer.device,
        len(trainer.train_index),
        len(trainer.test_index),
        len(trainer.train_index.labels),
        trainer.total_steps,
    )


def _finish(trainer: Trainer, folder: RunFolder) -> dict[str, Any]:
    """Test over all views and write results and predictions."""
    config, progress = trainer.config, trainer.progress
    views = {"clips": config.data.test.clips, "crops": config.data.test.crops}
    begun = time.perf_counter()
    found = trainer.test(**views)
    results = {
        **describe(config, trainer.test_index),
        **summary(found),
        "views": views,
        "steps": progress.step,
        "replaced_samples": progress.replaced,
        "quarantined_videos": len(trainer.quarantine.closed),
        "train_seconds": round(progress.train_seconds, 2),
        "test_seconds": round(time.perf_counter() - begun, 2),
        "parameters": sum(parameter.numel() for parameter in trainer.model.parameters()),
        "importance": [layer._asdict() for layer in importance(trainer.model)] or None,
    }
    if trainer.processes.main:
        found.save_predictions(folder.path / "predictions.npz", trainer.test_index)
        folder.write_results(results)
        log.info(
            "finished %s: clip top-1 %.1f %%, video top-1 %.1f %% over %d videos (%d unreadable), "
            "%d training clips replaced, %.0f s of training",
            config.output,
            100 * found.clip_top1,
            100 * found.video_top1,
            results["videos"],
            results["failed_videos"],
            progress.replaced,
            progress.train_seconds,
        )
    return results


def describe(config: RunConfig, index: ClipIndex) -> dict[str, Any]:
    """What a result is the result of."""
    return {
        "norm": config.model.norm.name,
        "model": config.model.name,
        "gpus": config.batch.gpus,
        "clips_per_gpu": config.batch.clips_per_gpu,
        "seed": config.seed,
        "epochs": config.optim.epochs,
        "statistics": config.statistics.model_dump(),
        "index_hash": index.hash,
        "classes": list(index.labels),
    }


def summary(found: Evaluation) -> dict[str, Any]:
    """The figures of an evaluation as plain values."""
    return {
        "clip_top1": found.clip_top1,
        "clip_top5": found.clip_top5,
        "video_top1": found.video_top1,
        "video_top5": found.video_top5,
        "per_class_accuracy": found.per_class_accuracy,
        "confusion": found.confusion,
        "videos": len(found.rows),
        "failed_videos": len(found.failed),
        "failed": [list(video) for video in found.failed],
    }
