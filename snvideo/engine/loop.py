"""A whole training run: steps, log lines, validations and checkpoints, from wherever it was left.

Everything that a run writes at a step comes before the checkpoint of that step, and a validation
after it: a run that is stopped at any moment goes on from a checkpoint and writes the same again.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from datetime import timedelta

import numpy as np

from snvideo.engine.checkpoint import DISK_FULL, make_room, save_best, save_checkpoint
from snvideo.engine.distributed import AsyncAny
from snvideo.engine.metrics import MetricSums, TrainMetrics
from snvideo.engine.preemption import Preemption
from snvideo.engine.profiler import StepProfile
from snvideo.engine.run_dir import RunDir
from snvideo.engine.step_timer import Step, shares, slowest, step_watchdog, workers_needed
from snvideo.engine.trainer import QUARANTINE, Trainer
from snvideo.errors import PreemptedError, SnvideoError
from snvideo.norm import importance

log = logging.getLogger(__name__)

PARTS = ("instance", "layer", "batch")
"""Of SN, in the order of its ratios."""


class Run:
    """Takes a trainer to the end of its run.

    Args:
        trainer: new, or with the state of a checkpoint.
        folder: open for writing on the main process.
        preemption: whether the run is asked to stop.
        profile: steps are recorded by it.
    """

    def __init__(
        self,
        trainer: Trainer,
        folder: RunDir,
        preemption: Preemption,
        profile: StepProfile | None = None,
    ) -> None:
        self.trainer, self.folder, self.preemption = trainer, folder, preemption
        self.config, self.world = trainer.config, trainer.world
        self.profile = profile
        self.saved = time.monotonic()
        """When the last checkpoint was written, or the run began."""
        self.since = time.perf_counter()
        """When the steps since the last log line began; pauses are left out."""
        self.saved_step = trainer.progress.step
        """The step that a run goes on from."""
        self.begun, self.first = time.perf_counter(), trainer.progress.step
        self.counted = self.begun
        """Until when training time was counted."""
        self.warned_at = -np.inf
        """The epoch in which the loader was last said to be slow."""

    def go(self) -> None:
        """Train to the end.

        Raises:
            PreemptedError: if the run was asked to stop, with a checkpoint written.
            SnvideoError: if it cannot go on.
        """
        trainer, world = self.trainer, self.world
        progress, batches = trainer.progress, trainer.batches()
        self._restart_clocks()
        with step_watchdog(trainer.clock, world.rank):
            while True:
                if self._validation_due():
                    self._aside(self._validate)
                if progress.step == trainer.total_steps:
                    return
                due = AsyncAny(world, self.preemption.asked, self._minutes_due())
                trainer.step(batches)
                if self.profile is not None:
                    self._aside(self.profile.step)
                stop, minutes = due.wait()
                self._after_step(stop, minutes)
                if stop:
                    raise PreemptedError

    def _after_step(self, stop: bool, minutes: bool) -> None:
        """What is due between two steps; a checkpoint comes last."""
        trainer, log_config = self.trainer, self.config.log
        step = trainer.progress.step
        epoch, into = divmod(step, trainer.steps_per_epoch)
        if into == 0 or step % log_config.every_steps == 0:
            self._log()
        if into == 0:
            self._close_quarantine(epoch)
            self._log_importance(epoch)
        due = _every(log_config.checkpoint_epochs, epoch) if into == 0 else False
        finished = step == trainer.total_steps
        if stop or minutes or due or finished or self._validation_due():
            self._count_time()
            self._aside(lambda: self.save(stop, finished))

    def _aside(self, work: Callable[[], None]) -> None:
        """Do what is not training, and leave its time out of the rate."""
        pause = time.perf_counter()
        work()
        spent = time.perf_counter() - pause
        self.since += spent
        self.begun += spent
        self.counted += spent

    def _restart_clocks(self) -> None:
        self.since = self.begun = self.counted = time.perf_counter()
        self.first = self.trainer.progress.step

    def _count_time(self) -> None:
        """Enter the training time since it was last counted."""
        now = time.perf_counter()
        self.trainer.progress.train_seconds += now - self.counted
        self.counted = now

    # Log lines ------------------------------------------------------------------------------

    def _log(self) -> None:
        trainer, progress = self.trainer, self.trainer.progress
        seconds = time.perf_counter() - self.since
        steps = trainer.clock.take()
        parts = self.world.gather(tuple(trainer.tally.read()))
        counted = MetricSums.total([MetricSums(*part) for part in parts])
        trainer.tally = TrainMetrics(trainer.device)
        self._count_time()
        progress.replaced += counted.replaced
        self.since = time.perf_counter()
        if not self.world.is_main:
            return
        epoch, lr = progress.step / trainer.steps_per_epoch, trainer.optimizer.param_groups[0]["lr"]
        if not counted.clips:
            log.warning("no step since the last log line has changed anything: all were skipped")
            return
        values = {
            "loss": counted.loss / counted.clips,
            "top1": counted.correct / counted.clips,
            "lr": lr,
            "gradient_norm": counted.norm / counted.steps,
        }
        rate = len(steps) * trainer.plan.total_batch / seconds  # of this session alone
        self.folder.log("train", progress.step, epoch=epoch, **values)
        self.folder.log("time", progress.step, clips_per_second=rate, **_mean(steps))
        done = (time.perf_counter() - self.begun) / (progress.step - self.first)
        left = timedelta(seconds=round(done * (trainer.total_steps - progress.step)))
        log.info(
            "step %d/%d  epoch %.2f/%d  loss %.3f  top-1 %.1f %%  lr %.4f  %.1f clips/s  %s left",
            progress.step,
            trainer.total_steps,
            epoch,
            self.config.optim.epochs,
            values["loss"],
            100 * values["top1"],
            lr,
            rate,
            left,
        )
        self._warn_of_time(steps, progress.step - len(steps))

    def _warn_of_time(self, steps: list[Step], first: int) -> None:
        """Of single steps that took far too long, and of a loader that does not keep up."""
        if first == self.first:  # workers start, memory is found, kernels are chosen
            first, steps = first + 1, steps[1:]
        worst, usual = slowest(steps, self.trainer.clock.usual), self.trainer.clock.usual
        if worst is not None:
            log.warning(
                "step %d took %.1f s, a usual one takes %.2f s: %s",
                first + worst + 1,
                sum(steps[worst].values()),
                usual,
                shares(steps[worst]),
            )
        workers = self.config.data.workers
        needed = workers_needed(steps, workers)
        epoch = self.trainer.progress.step / self.trainer.steps_per_epoch
        if needed is not None and epoch >= self.warned_at + 1:
            self.warned_at = epoch
            waiting = sum(step["data"] for step in steps) / sum(sum(s.values()) for s in steps)
            log.warning(
                "steps wait for data %.0f %% of their time with data.workers=%d: about %d would "
                "keep up%s",
                100 * waiting,
                workers,
                needed,
                _if_cores_lack(needed),
            )

    def _log_importance(self, epoch: int) -> None:
        """SN's ratios: their means over the layers as metrics, each layer's in TensorBoard."""
        layers = importance(self.trainer.model) if self.world.is_main else []
        if not layers:
            return
        step, means, each = self.trainer.progress.step, {}, {}
        for kind in ("mean", "variance"):
            for number, part in enumerate(PARTS[: len(layers[0].mean)]):
                ratios = {layer.layer: getattr(layer, kind)[number] for layer in layers}
                means[f"{kind}_{part}"] = float(np.mean(list(ratios.values())))
                each |= {f"importance.{n}/{kind}_{part}": ratio for n, ratio in ratios.items()}
        self.folder.log("importance", step, epoch=float(epoch), **means)
        self.folder.scalars(step, each)

    # Between epochs -------------------------------------------------------------------------

    def _close_quarantine(self, epoch: int) -> None:
        """What any process found unreadable in this epoch, none opens in the next."""
        trainer = self.trainer
        parts = self.world.gather((trainer.quarantine.found, trainer.replaced_in_epoch))
        new = trainer.quarantine.close(found for found, _ in parts)
        replaced, trainer.replaced_in_epoch = sum(number for _, number in parts), 0
        if not self.world.is_main or not (new or replaced):
            return
        closed, path = len(trainer.quarantine.closed), self.folder.path / QUARANTINE
        if new:
            try:
                trainer.quarantine.write(path)
            except OSError as error:
                log.error(
                    "cannot write %s: %s; checkpoints hold it too", path, error.strerror or error
                )
        step = trainer.progress.step
        self.folder.log("unreadable", step, epoch=epoch, replaced=replaced, closed=closed)
        log.warning(
            "epoch %d: %d clips replaced; %d videos in quarantine, %d of them new: see %s",
            epoch,
            replaced,
            closed,
            new,
            path,
        )

    def _validation_due(self) -> bool:
        """Whether this is a step after which to validate, and it has not been done yet."""
        progress = self.trainer.progress
        return progress.validated != progress.step and (self._whole() or self._early())

    def _whole(self) -> bool:
        """Whether the whole test split is to be validated on after this step."""
        epoch, into = divmod(self.trainer.progress.step, self.trainer.steps_per_epoch)
        return into == 0 and _every(self.config.log.validate_epochs, epoch)

    def _early(self) -> bool:
        early = self.config.log.early_validation
        return early is not None and early.step == self.trainer.progress.step

    def _validate(self) -> None:
        trainer, progress, early = self.trainer, self.trainer.progress, not self._whole()
        rows = None
        if early:
            videos = len(trainer.test_index)
            count = min(videos, self.config.log.early_validation.videos)
            rows = np.linspace(0, videos - 1, count).round().astype(int).tolist()
        with self.preemption.breakable():
            found = trainer.validate(rows)
        progress.validated = progress.step
        best = not early and found.clip_top1 > progress.best_top1
        if best:
            progress.best_top1, progress.best_step = found.clip_top1, progress.step
        if not self.world.is_main:
            return
        epoch = progress.step / trainer.steps_per_epoch
        values = {"loss": found.loss, "top1": found.clip_top1, "top5": found.clip_top5}
        kind = "early_validation" if early else "validate"
        self.folder.log(kind, progress.step, epoch=epoch, **values)
        log.info(
            "validation after epoch %.2f%s: loss %.3f  top-1 %.1f %%%s",
            epoch,
            f" on {len(rows)} videos" if early else "",
            found.loss,
            100 * found.clip_top1,
            "  (the best so far)" if best else "",
        )
        if best:
            self._save_best()

    # Checkpoints ----------------------------------------------------------------------------

    def _minutes_due(self) -> bool:
        minutes = self.config.log.checkpoint_minutes
        return (
            self.world.is_main
            and minutes is not None
            and time.monotonic() - self.saved >= 60 * minutes
        )

    def save(self, last_chance: bool = False, needed: bool = False) -> None:
        """Write a checkpoint. A disk that is full ends a run only where it cannot go on without.

        Args:
            last_chance: the run stops now.
            needed: the run is finished with training.

        Raises:
            SnvideoError: if it cannot be written and is needed.
        """
        state = self.trainer.state()
        self.saved = time.monotonic()
        if not self.world.is_main:
            self.saved_step = self.trainer.progress.step  # as far as it can know
        else:
            try:
                state["metrics"] = self._mark()
                keep = self.config.log.keep_checkpoints
                save_checkpoint(self.folder.checkpoints, self.trainer.progress.step, state, keep)
                self.saved_step = self.trainer.progress.step
            except OSError as error:
                what = f"cannot write a checkpoint to {self.folder.checkpoints}: {_why(error)}"
                if needed:
                    raise SnvideoError(
                        f"{what}; free some space and run the same command again: it goes on from "
                        "the last checkpoint"
                    ) from error
                if last_chance:
                    log.error("%s; the run will go on from step %d", what, self.saved_step)
                else:
                    log.error("%s; training goes on, the next checkpoint is tried in time", what)
        self.world.barrier()

    def _mark(self) -> int:
        """How far the metrics go; older checkpoints make room for lines that wait for some."""
        try:
            return self.folder.mark()
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise
            make_room(self.folder.checkpoints)
            return self.folder.mark()

    def _save_best(self) -> None:
        trainer = self.trainer
        state = {
            "model": trainer.evaluated.state_dict(),
            "index_hash": trainer.train_index.hash,
            "classes": list(trainer.train_index.labels),
            "progress": vars(trainer.progress),
            **trainer.about().to_checkpoint(),
        }
        try:
            save_best(self.folder.checkpoints, state)
        except OSError as error:
            log.error(
                "cannot write the best weights: %s; training goes on", error.strerror or error
            )


def _if_cores_lack(needed: int) -> str:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if needed <= (cores or needed):
        return ""
    return f"; this machine has {cores} cores: 'snvideo prepare' makes decoding cheap"


def _why(error: OSError) -> str:
    return error.strerror or str(error)


def _every(number: int, epoch: int) -> bool:
    return bool(number) and epoch > 0 and epoch % number == 0


def _mean(steps: list[Step]) -> dict[str, float]:
    """Mean seconds of each phase."""
    return {phase: float(np.mean([step[phase] for step in steps])) for phase in steps[0]}
