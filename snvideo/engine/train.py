"""Training: a run from its config to its results."""

import logging
import time
from contextlib import ExitStack, nullcontext

import torch
import yaml

from snvideo.engine.checkpoint import newest_checkpoint
from snvideo.engine.checkpointer import check_disk_space
from snvideo.engine.config import RunConfig
from snvideo.engine.conv3d import conv3d_warning
from snvideo.engine.distributed import World, init_world
from snvideo.engine.loop import TrainingLoop
from snvideo.engine.performance import DTYPES, precision
from snvideo.engine.precheck import SplitSummary, check_index, view_cost
from snvideo.engine.preemption import Preemption, preemption
from snvideo.engine.profiler import step_profiler
from snvideo.engine.results import Results, read_results
from snvideo.engine.run_dir import RunDir, sessions
from snvideo.engine.settings import settings_without_effect
from snvideo.engine.setup import open_start
from snvideo.engine.trackers import check_trackers
from snvideo.engine.trainer import Trainer
from snvideo.errors import PreemptedError
from snvideo.models.cost import count_parameters
from snvideo.models.pretrained import WEIGHTS_FILE, write_weights
from snvideo.models.pretrained.model_card import model_card
from snvideo.norm import importance
from snvideo.norm.kernels import describe_kernels

log = logging.getLogger(__name__)


def train(config: RunConfig, profile: bool = False) -> Results:
    """Train a network and test it, or resume a run that was interrupted.

    A run is resumed from its newest checkpoint, and ends as if nothing had happened; a finished one
    is left as it is.

    Args:
        config: everything that decides the result.
        profile: record some steps with torch's profiler, to `profile/` in the run's folder.

    Returns:
        the content of `results.json`.

    Raises:
        SnvideoError: if the config, the index, the hardware or the folder do not fit together.
        PreemptedError: if the run was asked to stop, by SIGTERM or Ctrl-C.
    """
    with ExitStack() as held, init_world() as world, preemption() as stop:
        run_dir = RunDir(config.output)
        with stop.interruptible():  # for the lock may be waited for
            finished = world.on_main(lambda: _finished(run_dir, config, held))
        if finished is not None:
            log.info("%s is finished already", config.output)
            return finished
        trainer, metrics_size = _trainer(config, world, run_dir)
        world.on_main(lambda: _open(run_dir, trainer, metrics_size))
        profiled = profile and world.is_main
        with step_profiler(run_dir.path / "profile") if profiled else nullcontext() as profiler:
            loop = TrainingLoop(trainer, run_dir, stop, profiler)
            try:
                loop.run()
                return _test(loop, run_dir, stop)
            except PreemptedError:
                run_dir.mark_preempted(loop.checkpointer.saved_step)
                raise
            finally:
                run_dir.close()


def _finished(run_dir: RunDir, config: RunConfig, held: ExitStack) -> Results | None:
    """Results of a run that is finished; else the run directory is locked, until `held` is closed.

    Raises SnvideoError if the directory holds another run, or another process writes to it.
    """
    run_dir.check(config)
    results = read_results(run_dir.path)
    if results is None:
        check_trackers(config.log.trackers)
        held.enter_context(run_dir.locked())
        results = read_results(run_dir.path)  # of a process that has just given it back
    if results is None:
        run_dir.clear_preempted()
        if changed := run_dir.check(config):
            log.info("goes on with other settings, which decide no result: %s", ", ".join(changed))
    return results


def _trainer(config: RunConfig, world: World, run_dir: RunDir) -> tuple[Trainer, int]:
    """Build a trainer from the newest checkpoint or else at step 0, and the size of its metrics."""
    stored = world.on_main(run_dir.stored_config)
    checkpoint = world.on_main(lambda: newest_checkpoint(run_dir.checkpoints))
    source = open_start(config, world) if checkpoint is None else None
    trainer = Trainer(config, world, source, stored)
    if checkpoint is None:
        return trainer, 0
    path, state = checkpoint
    trainer.load_state(state, path)
    log.info("resuming %s at step %d", run_dir.path, trainer.progress.step)
    before, now = sessions(run_dir.path), torch.get_num_threads()
    if world.is_main and before and before[-1]["threads"] != now:
        # Sums are then taken in another order.
        log.warning(
            f"the run had {before[-1]['threads']} threads and goes on with {now}: results are the "
            "same up to rounding only"
        )
    return trainer, state["metrics"]


def _open(run_dir: RunDir, trainer: Trainer, metrics_size: int) -> None:
    """Begin to write, if there is room for the checkpoints."""
    config, step = trainer.config, trainer.progress.step
    splits = check_index(trainer.splits, config.data.clip)
    flops, _ = view_cost(trainer.model, config)
    if step < trainer.total_steps:
        keep = config.log.keep_checkpoints
        check_disk_space(run_dir.checkpoints, trainer.checkpoint_bytes, keep)
    run_dir.open(config, metrics_size, step)
    if trainer.report is not None:
        run_dir.write_results(trainer.report.to_dict(), "weights")
    plan = trainer.plan
    log.info(
        f"{config.model.name} with {config.model.norm.name}, "
        f"{count_parameters(trainer.model) / 1e6:.2f} M parameters, {flops / 1e9:.2f} GFLOPs a "
        f"view; {config.batch.gpus} gpus x {config.batch.clips_per_gpu} clips, processes: "
        f"{plan.processes} ({trainer.device}), passes a step: {plan.passes}; "
        f"{_counted(splits)} videos of "
        f"{trainer.classes} classes; {trainer.total_steps} steps"
    )
    steps, device = trainer.total_steps, trainer.device
    for line in (line for split in splits for line in split.warnings() + split.empty_classes()):
        log.warning("%s", line)
    for line in settings_without_effect(config, plan, trainer.train_index, steps, device):
        log.warning("without effect: %s", line)
    kernels, threads = describe_kernels(trainer.device), torch.get_num_threads()
    log.info("speed: %s; %d threads; norm kernels: %s", trainer.speed, threads, kernels)
    if fault := conv3d_warning(DTYPES[precision(trainer.speed, device)], device):
        log.warning("%s", fault)


def _counted(splits: list[SplitSummary]) -> str:
    """Numbers of videos by their use, as in `48 training and 16 test`."""
    *first, last = (f"{split.videos} {split.use}" for split in splits)
    return f"{', '.join(first)} and {last}"


def _test(loop: TrainingLoop, run_dir: RunDir, stop: Preemption) -> Results:
    """Test over all views and write results and predictions."""
    trainer = loop.trainer
    config, progress = trainer.config, trainer.progress
    begun = time.perf_counter()
    with stop.interruptible():
        found = trainer.test(config.data.test.clips, config.data.test.crops)
    if trainer.averages is not None and progress.validated != progress.step:
        loop.save()  # with these statistics, as after a validation
    score = "top1" if found.mean_average_precision is None else "map"
    best = {"step": progress.best_step, score: progress.best_top1}
    results = Results.of(
        config,
        trainer.test_index,
        found,
        steps=progress.step,
        skipped_steps=progress.skipped,
        best_validation=best if progress.best_step else None,
        **({} if (split := config.data.val_split) is None else {"validation_split": split}),
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
        metadata = trainer.metadata(results.published())
        with run_dir.written(WEIGHTS_FILE) as path, trainer.tested_network() as model:
            write_weights(path, model, metadata)
        text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
        run_dir.write("model_card.md", model_card(metadata, WEIGHTS_FILE, text))
        with run_dir.written("predictions.npz") as path:
            found.save_predictions(path, trainer.test_index)
        run_dir.write_results(results.stored())
        log.info(
            f"finished {config.output}: {results}, {progress.replaced} training clips replaced, "
            f"{progress.train_seconds:.0f} s of training"
        )
    return results
