"""One run from a config to its results: train, validate, checkpoint, test."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import torch

from snvideo.engine.checkpoint import newest_checkpoint
from snvideo.engine.config import RunConfig
from snvideo.engine.disk_space import check_room
from snvideo.engine.distributed import World, init_world
from snvideo.engine.loop import Run
from snvideo.engine.performance import keep_freed_memory
from snvideo.engine.preemption import Preemption, preemption
from snvideo.engine.profiler import StepProfile
from snvideo.engine.publish import publish
from snvideo.engine.results import Results, read_results
from snvideo.engine.run_dir import RunDir, threads_before
from snvideo.engine.setup import open_start
from snvideo.engine.trainer import Trainer
from snvideo.errors import PreemptedError
from snvideo.models.cost import count_parameters, multiply_adds
from snvideo.norm import importance

log = logging.getLogger(__name__)


def train(config: RunConfig, profile: bool = False) -> Results:
    """Do a whole run, or what is left of it, and return its results.

    A run that was interrupted goes on from its newest checkpoint, and ends as if nothing had
    happened; a finished one is left as it is.

    Args:
        config: everything that decides the result.
        profile: record some steps with torch's profiler, to `profile/` in the run's folder.

    Returns:
        the content of `results.json`.

    Raises:
        SnvideoError: if the config, the index, the hardware or the folder do not fit together.
        PreemptedError: if the run was asked to stop, by SIGTERM or Ctrl-C, and has written a
            checkpoint.
    """
    with init_world() as world, preemption() as asked:
        return _train(config, world, asked, profile)


def _train(config: RunConfig, world: World, asked: Preemption, profile: bool) -> Results:
    folder = RunDir(config.output)
    finished = world.on_main(lambda: _look(folder, config))
    if finished is not None:
        log.info("%s is finished already", config.output)
        return finished
    trainer, mark = _begin(config, world, folder)
    world.on_main(lambda: _open(folder, trainer, mark))
    recorder = StepProfile(folder.path / "profile") if profile and world.is_main else None
    run = Run(trainer, folder, asked, recorder)
    try:
        run.go()
        return _finish(trainer, folder, asked)
    except PreemptedError:
        folder.mark_preempted(run.saved_step)  # by whoever gets to do it
        raise
    finally:
        if recorder is not None:
            recorder.close()
        folder.close()


def _begin(config: RunConfig, world: World, folder: RunDir) -> tuple[Trainer, int]:
    """A trainer where the run stands, and how far the metrics of that moment went.

    What it was read from, a checkpoint or weights of others, is not kept while the run goes on.
    """
    config = world.on_main(lambda: folder.resolve_config(config))
    checkpoint = world.on_main(lambda: newest_checkpoint(folder.checkpoints))
    source = open_start(config, world) if checkpoint is None else None
    trainer = Trainer(config, world, source)
    if trainer.speed.keep_memory:
        keep_freed_memory()
    return trainer, 0 if checkpoint is None else _restore(trainer, folder, checkpoint)


def _look(folder: RunDir, config: RunConfig) -> Results | None:
    """Results, if the folder has them; raises if it holds another run."""
    folder.clear_preempted()
    folder.check(config)
    return read_results(folder.path)


def _open(folder: RunDir, trainer: Trainer, mark: int) -> None:
    """Begin to write, if what is to come has room."""
    config, step = trainer.config, trainer.progress.step
    if step < trainer.total_steps:
        keep = config.log.keep_checkpoints
        check_room(folder.checkpoints, _checkpoint_bytes(trainer), keep)
    folder.open(config, mark, step)
    if trainer.report is not None:
        folder.write_results(trainer.report.to_dict(), "weights")
    _announce(trainer)


def _checkpoint_bytes(trainer: Trainer) -> int:
    """Weights and statistics, a momentum for each weight, and perhaps weights averaged."""
    weights = sum(tensor.nbytes for tensor in trainer.model.state_dict().values())
    momenta = sum(p.nbytes for p in trainer.parameters) if trainer.config.optim.momentum else 0
    return weights * (2 if trainer.config.optim.ema else 1) + momenta


def _restore(trainer: Trainer, folder: RunDir, checkpoint: tuple[Path, dict[str, Any]]) -> int:
    """Go on from a checkpoint.

    Returns:
        how far the metrics of that moment went.
    """
    path, state = checkpoint
    trainer.load_state(state, path)
    log.info("resuming %s at step %d", folder.path, trainer.progress.step)
    before = threads_before(folder.path)
    if trainer.world.is_main and before not in (None, torch.get_num_threads()):
        log.warning(
            "the run had %d threads and goes on with %d: results are the same up to rounding only",
            before,
            torch.get_num_threads(),
        )
    return state["metrics"]


def _announce(trainer: Trainer) -> None:
    config, plan = trainer.config, trainer.plan
    clip, view = config.data.clip, config.data.train
    log.info(
        "%s with %s, %.2f M parameters, %.2f GFLOPs a view; %d gpus x %d clips on %d process%s "
        "(%s), %d pass%s a step; %d training and %d test videos of %d classes; %d steps",
        config.model.name,
        config.model.norm.name,
        count_parameters(trainer.model) / 1e6,
        multiply_adds(trainer.model, clip.frames, view.crop) / 1e9,
        config.batch.gpus,
        config.batch.clips_per_gpu,
        plan.processes,
        "" if plan.processes == 1 else "es",
        trainer.device,
        plan.passes,
        "" if plan.passes == 1 else "es",
        len(trainer.train_index),
        len(trainer.test_index),
        trainer.classes,
        trainer.total_steps,
    )
    log.info("speed: %s; %d threads", trainer.speed, torch.get_num_threads())


def _finish(trainer: Trainer, folder: RunDir, asked: Preemption) -> Results:
    """Test over all views and write results and predictions."""
    config, progress = trainer.config, trainer.progress
    begun = time.perf_counter()
    with asked.breakable():
        found = trainer.test(config.data.test.clips, config.data.test.crops)
    results = Results.of(
        config,
        trainer.test_index,
        found,
        steps=progress.step,
        skipped_steps=progress.skipped,
        best_validation={"step": progress.best_step, "top1": progress.best_top1}
        if progress.best_step
        else None,
        amp=trainer.speed.amp,
        replaced_samples=progress.replaced,
        quarantined_videos=len(trainer.quarantine.closed),
        train_seconds=round(progress.train_seconds, 2),
        test_seconds=round(time.perf_counter() - begun, 2),
        parameters=count_parameters(trainer.model),
        importance=[layer._asdict() for layer in importance(trainer.model)] or None,
        started_from=trainer.started_from,
    )
    if trainer.world.is_main:
        publish(folder, trainer.evaluated, trainer.about(results.published()), config)
        with folder.written("predictions.npz") as path:
            found.save_predictions(path, trainer.test_index)
        folder.write_results(results.stored())
        log.info(
            "finished %s: clip top-1 %.1f %%, video top-1 %.1f %% over %d videos (%d unreadable), "
            "%d training clips replaced, %.0f s of training",
            config.output,
            100 * found.clip_top1,
            100 * found.video_top1,
            results.videos,
            results.failed_videos,
            progress.replaced,
            progress.train_seconds,
        )
    return results
