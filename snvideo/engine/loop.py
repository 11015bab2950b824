"""The training loop: steps, log lines, validations and checkpoints.

Log lines of a step are written before its checkpoint, and its validation after it, which then adds
the statistics that it was done with: wherever a run is stopped, it goes on from a checkpoint and
writes the same again.
"""

import logging
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import numpy as np
from torch.profiler import profile

from snvideo.engine.checkpointer import Checkpointer
from snvideo.engine.evaluate import Evaluation, NotFiniteError
from snvideo.engine.optim import learning_rate, lr_factor
from snvideo.engine.preemption import Preemption
from snvideo.engine.run_dir import RunDir
from snvideo.engine.setup import QUARANTINE
from snvideo.engine.step_timer import PHASES, Step, waiting_share, workers_needed
from snvideo.engine.trainer import Trainer
from snvideo.errors import PreemptedError
from snvideo.norm import importance

log = logging.getLogger(__name__)


class _Clock:
    """Wall-clock time of training, without pauses."""

    paused = 0.0

    def now(self) -> float:
        return time.perf_counter() - self.paused

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Leave out the time of the block."""
        begun = time.perf_counter()
        yield
        self.paused += time.perf_counter() - begun


class TrainingLoop:
    """Takes a trainer, new or with the state of a checkpoint, to the end of its run.

    The main process has opened the run directory for writing.
    """

    def __init__(
        self,
        trainer: Trainer,
        run_dir: RunDir,
        preemption: Preemption,
        profiler: profile | None = None,
    ) -> None:
        self.trainer, self.run_dir, self.preemption = trainer, run_dir, preemption
        self.config, self.world = trainer.config, trainer.world
        self.profiler = profiler
        self.first = trainer.progress.step  # the step at which the session began
        self.checkpointer = Checkpointer(run_dir, trainer.config.log, trainer.world, self.first)
        self._clock = _Clock()
        self._begun = self._logged = self._counted = self._clock.now()
        """Times of the begin, of the last log line, and up to which seconds are in `progress`."""
        self._warned_epoch = -np.inf  # of the last warning of a slow loader

    def run(self) -> None:
        """Train to the end; raises PreemptedError after a checkpoint if it was asked to stop."""
        trainer, progress = self.trainer, self.trainer.progress
        batches = trainer.batches()
        while True:
            if self._validation_due():
                with self._clock.pause():
                    self._validate()
            if progress.step == trainer.total_steps:
                return
            trainer.step(batches)
            if self.profiler is not None:
                with self._clock.pause():
                    self.profiler.step()
            due = self.preemption.requested, self.checkpointer.due_by_time()
            stop, minutes = map(any, zip(*self.world.gather(due), strict=True))
            self._after_step(stop, minutes)
            if stop:
                raise PreemptedError

    def _after_step(self, stop: bool, minutes: bool) -> None:
        """Log, and save a checkpoint last, where they are due after a step."""
        trainer, config, step = self.trainer, self.config.log, self.trainer.progress.step
        epoch = self._finished_epoch()
        if epoch or step % config.every_steps == 0:
            self._log()
        if epoch:
            self._close_quarantine(epoch)
            self._log_importance(step / trainer.steps_per_epoch)
        due = _every(config.checkpoint_epochs, epoch)
        finished = step == trainer.total_steps
        if stop or minutes or due or finished or self._validation_due():
            self._count_seconds()
            with self._clock.pause():
                self.save()

    def _finished_epoch(self) -> int:
        """Number of the epoch, from 1, that the last step has finished; else 0.

        A run of steps that ends inside an epoch finishes it there.
        """
        step, steps_per_epoch = self.trainer.progress.step, self.trainer.steps_per_epoch
        finished = step % steps_per_epoch == 0 or step == self.trainer.total_steps
        return math.ceil(step / steps_per_epoch) if finished else 0

    def save(self) -> None:
        """Write a checkpoint; all processes call."""
        trainer, step = self.trainer, self.trainer.progress.step
        self.checkpointer.save(step, trainer.state(), needed=step == trainer.total_steps)

    def _log(self) -> None:
        trainer, progress = self.trainer, self.trainer.progress
        steps = trainer.timer.take()
        sums = trainer.take_metrics()
        self._count_seconds()
        seconds, self._logged = self._counted - self._logged, self._counted
        if not self.world.is_main:
            return
        if not sums.clips:
            log.warning("no step since the last log line has changed anything: all were skipped")
            return
        epoch, optim = progress.step / trainer.steps_per_epoch, trainer.config.optim
        # Of the step that comes next, without factors of single parts of the network.
        factor = lr_factor(optim, trainer.steps_per_epoch, progress.step)
        lr = learning_rate(optim, trainer.plan.total_batch) * factor
        values = {
            "loss": sums.loss / sums.clips,
            "top1": sums.correct / sums.clips,
            "lr": lr,
            "gradient_norm": sums.norm / sums.steps,
        }
        rate = len(steps) * trainer.plan.total_batch / seconds  # of this session alone
        means = {phase: float(np.mean([step[phase] for step in steps])) for phase in PHASES}
        self.run_dir.log("train", progress.step, epoch=epoch, **values)
        self.run_dir.log("time", progress.step, clips_per_second=rate, **means)
        per_step = (self._counted - self._begun) / (progress.step - self.first)
        epochs = trainer.total_steps / trainer.steps_per_epoch
        left = timedelta(seconds=round(per_step * (trainer.total_steps - progress.step)))
        log.info(
            f"step {progress.step}/{trainer.total_steps}  "
            f"epoch {epoch:.2f}/{epochs:.5g}  loss {values['loss']:.3f}  "
            f"top-1 {100 * values['top1']:.1f} %  lr {lr:.4f}  {rate:.1f} clips/s  {left} left"
        )
        if progress.step - len(steps) == self.first:  # its first step waits for workers to start
            steps = steps[1:]
        self._warn_of_loader(steps, epoch)

    def _count_seconds(self) -> None:
        now = self._clock.now()
        self.trainer.progress.train_seconds += now - self._counted
        self._counted = now

    def _warn_of_loader(self, steps: list[Step], epoch: float) -> None:
        """Warn, once an epoch, of a loader that does not keep up."""
        workers = self.config.data.workers
        needed = workers_needed(steps, workers)
        if needed is None or epoch < self._warned_epoch + 1:
            return
        self._warned_epoch = epoch
        cores = os.cpu_count() or needed
        advice = f"; this machine has {cores} cores: 'snvideo prepare' makes decoding cheap"
        log.warning(
            f"steps wait for data {100 * waiting_share(steps):.0f} % of their time with "
            f"data.workers={workers}: about {needed} would keep up"
            f"{advice if needed > cores else ''}"
        )

    def _log_importance(self, epoch: float) -> None:
        """Log means of SN's ratios over the layers, and each layer's in TensorBoard."""
        layers = importance(self.trainer.model) if self.world.is_main else []
        if not layers:
            return
        step = self.trainer.progress.step
        means: dict[str, float] = {}
        each: dict[str, float] = {}
        for kind in ("mean", "variance"):
            for number, part in enumerate(layers[0].parts):
                ratios = {layer.layer: getattr(layer, kind)[number] for layer in layers}
                means[f"{kind}_{part}"] = float(np.mean(list(ratios.values())))
                each |= {f"importance.{n}/{kind}_{part}": ratio for n, ratio in ratios.items()}
        self.run_dir.log("importance", step, epoch=epoch, **means)
        self.run_dir.scalars(step, each)

    def _close_quarantine(self, epoch: int) -> None:
        """Quarantine the videos that processes could not read in an epoch."""
        new, replaced = self.trainer.close_quarantine()
        if not self.world.is_main or not (new or replaced):
            return
        quarantine, path = self.trainer.quarantine, self.run_dir.path / QUARANTINE
        if new:
            try:
                quarantine.write(path)
            except OSError as error:  # checkpoints hold it, too
                log.error("cannot write %s: %s", path, error.strerror or error)
        closed, step = len(quarantine.closed), self.trainer.progress.step
        self.run_dir.log("unreadable", step, epoch=epoch, replaced=replaced, closed=closed)
        log.warning(
            f"epoch {epoch}: {replaced} clips replaced; {closed} videos in quarantine, {new} of "
            f"them new: see {path}"
        )

    def _validation_due(self) -> bool:
        """True after a step at which to validate, until it is done."""
        progress, early = self.trainer.progress, self.config.log.early_validation
        first_look = early is not None and early.step == progress.step
        return progress.validated != progress.step and (self._at_whole_split() or first_look)

    def _at_whole_split(self) -> bool:
        """True after a step at which to validate on the whole validation split."""
        return _every(self.config.log.validate_epochs, self._finished_epoch())

    def _validate(self) -> None:
        trainer, progress = self.trainer, self.trainer.progress
        early = None if self._at_whole_split() else self.config.log.early_validation
        rows = trainer.val_index.labelled
        if early is not None:
            rows = rows[_spread(len(rows), early.videos)]
        found = None
        try:
            with self.preemption.interruptible():
                found = trainer.validate(rows.tolist())
        except NotFiniteError as error:
            if self.world.is_main:
                log.warning("validation at step %d: %s; training goes on", progress.step, error)
        progress.validated = progress.step
        if found is None:
            return
        assert found.score is not None, "of videos with a label"
        best = early is None and found.score > progress.best_top1
        if best:
            progress.best_top1, progress.best_step = found.score, progress.step
        if self.world.is_main:
            self._log_validation(found, None if early is None else len(rows), best)
        if trainer.averages is not None:
            self.save()

    def _log_validation(self, found: Evaluation, part: int | None, best: bool) -> None:
        trainer, progress = self.trainer, self.trainer.progress
        epoch = progress.step / trainer.steps_per_epoch
        values = {"loss": found.loss, "top1": found.clip_top1, "top5": found.clip_top5}
        values["map"] = found.mean_average_precision
        measured = {name: value for name, value in values.items() if value is not None}
        name = "map" if "map" in measured else "top1"
        shown = f"{ {'map': 'mAP', 'top1': 'top-1'}[name] } {100 * measured[name]:.1f} %"
        kind = "validate" if part is None else "early_validation"
        self.run_dir.log(kind, progress.step, epoch=epoch, **measured)
        split = self.config.data.val_split
        on = [] if part is None else [f"{part} videos"]
        on += [] if split is None else [f"split {split!r}"]
        where = f" on {' of '.join(on)}" if on else ""
        log.info(
            f"validation after epoch {epoch:.2f}{where}: loss {found.loss:.3f}  "
            f"{shown}{'  (the best so far)' if best else ''}"
        )
        if best:
            self.checkpointer.save_best(trainer.best_state())


def _spread(count: int, wanted: int) -> np.ndarray:
    """Some of so many places, or all, evenly."""
    return np.linspace(0, count - 1, min(count, wanted)).round().astype(int)


def _every(number: int, epoch: int) -> bool:
    return bool(number) and epoch > 0 and epoch % number == 0
