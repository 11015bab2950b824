"""A network, its optimizer and its place in the run: one optimizer step after another."""

from __future__ import annotations

import logging
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from snvideo.data import sampling
from snvideo.data.augment import mix
from snvideo.data.dataset import Batch
from snvideo.data.index import ClipIndex
from snvideo.data.loader import train_batches
from snvideo.data.quarantine import Quarantine
from snvideo.engine.checkpoint import checkpoints, load_checkpoint, load_weights, save_checkpoint
from snvideo.engine.config import RunConfig
from snvideo.engine.evaluate import (
    Evaluation,
    autocast,
    evaluate,
    refresh_statistics,
    train_input,
)
from snvideo.engine.folder import RunFolder
from snvideo.engine.geometry import Geometry, plan
from snvideo.engine.optim import build_optimizer
from snvideo.engine.processes import Processes
from snvideo.errors import SnvideoError
from snvideo.models import build_model
from snvideo.norm import kept_statistics, one_update, tracking_layers

log = logging.getLogger(__name__)

QUARANTINE = "quarantine.csv"
"""In the run's folder."""


@dataclass
class Progress:
    """Where a run stands; with weights and optimizer all that a checkpoint needs."""

    step: int = 0
    train_seconds: float = 0.0
    replaced: int = 0
    """Training clips whose video could not be read and was replaced by another."""


@dataclass
class _Window:
    """Sums since the last log line, kept on the device so that no step waits for them."""

    device: torch.device
    sums: Tensor = field(init=False)
    replaced: int = 0
    since: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        self.sums = torch.zeros(3, dtype=torch.float64, device=self.device)

    def add(self, loss: Tensor, logits: Tensor, batch: Batch, labels: Tensor) -> None:
        clips = len(labels)
        correct = (logits.argmax(1) == labels).sum()
        self.sums += torch.stack(
            [loss.detach().double() * clips, correct, correct.new_tensor(clips)]
        )
        self.replaced += len(batch.unreadable)


class Trainer:
    """Trains one network on one index, a step at a time, from wherever it was left."""

    def __init__(self, config: RunConfig, processes: Processes) -> None:
        self.config, self.processes = config, processes
        self.device = processes.device
        data = config.data
        self.train_index = ClipIndex.load(data.index, data.train_split, data.root)
        self.test_index = ClipIndex.load(data.index, data.test_split, data.root)
        self.geometry = plan(
            config.batch,
            config.model.norm.name,
            processes.count,
            processes.rank,
            len(self.train_index),
        )
        _refuse_lone_mixing(config, self.geometry)
        self.model = build(config, len(self.train_index.labels)).to(self.device)
        self.steps_per_epoch = self.geometry.steps(len(self.train_index))
        self.total_steps = config.optim.epochs * self.steps_per_epoch
        self.optimizer, self.schedule = build_optimizer(
            self.model, config.optim, self.geometry.total_batch, self.steps_per_epoch
        )
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.optim.amp == "fp16")
        self.tracking = tracking_layers(self.model)
        self.progress = Progress()
        self.quarantine = read_quarantine(config)
        self.replaced_in_epoch = 0
        """Of this process's clips."""
        self.replica: nn.Module = self.model
        if processes.count > 1:
            self.replica = DistributedDataParallel(
                self.model,
                device_ids=[self.device.index] if self.device.type == "cuda" else None,
                broadcast_buffers=False,  # statistics are averaged once a step instead
            )

    # One optimizer step ---------------------------------------------------------------------

    def step(self, batches: Any, window: _Window) -> None:
        """Accumulate the gradients of this process's groups and update the weights once."""
        self.model.train()
        groups = self.geometry.groups()
        with self._sound_kernels(), one_update(self.tracking) as collect_statistics:
            for group in groups:
                batch = next(batches)
                self._seed_dropout(group)
                last = group == groups[-1]
                with (
                    nullcontext() if last or self.replica is self.model else self.replica.no_sync()
                ):
                    self._backward(batch, window)
                collect_statistics()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.schedule.step()
        self.progress.step += 1

    def _backward(self, batch: Batch, window: _Window) -> None:
        config, device = self.config, self.device
        labels = batch.labels.to(device, non_blocking=True)
        inputs = train_input(batch, config, device)
        classes, group = len(self.train_index.labels), config.batch.clips_per_gpu
        inputs, targets = mix(inputs, labels, batch.draws, classes, group)
        with autocast(config, device):
            logits = self.replica(inputs)
        loss = nn.functional.cross_entropy(logits.float(), targets)
        self.scaler.scale(loss / self.geometry.passes).backward()
        window.add(loss, logits, batch, labels)
        self.replaced_in_epoch += len(batch.unreadable)

    def _sound_kernels(self) -> AbstractContextManager[None]:
        """Without oneDNN for half precision on a CPU.

        Its bfloat16 weight gradient of 3D convolutions holds NaN now and then on some CPUs (seen
        with torch 2.15 on an AMD EPYC with avx512_bf16: 4 of 30 random stems).
        """
        half_on_cpu = self.config.optim.amp != "none" and self.device.type == "cpu"
        return torch.backends.mkldnn.flags(enabled=False) if half_on_cpu else nullcontext()

    def _seed_dropout(self, group: int) -> None:
        """Masks depend on the step and the group, not on which process or restart draws them."""
        place = (self.progress.step, group)
        rng = sampling.generator(self.config.seed, sampling.DROPOUT, *place)
        torch.manual_seed(int(rng.integers(2**63)))

    # A whole run ----------------------------------------------------------------------------

    def run(self, folder: RunFolder) -> None:
        """Train from the current step to the end, logging, validating and writing checkpoints."""
        config, progress = self.config, self.progress
        passes = self.geometry.run(len(self.train_index), config.optim.epochs, progress.step)
        batches = train_batches(
            self.train_index, config.data, config.seed, passes, quarantine=self.quarantine
        )
        window = _Window(self.device)
        begun, first = time.perf_counter(), progress.step
        aside = 0.0  # seconds of validation and checkpoints, not of training
        while progress.step < self.total_steps:
            self.step(batches, window)
            epoch, into = divmod(progress.step, self.steps_per_epoch)
            validate = into == 0 and self._due(config.log.validate_epochs, epoch)
            finished = progress.step == self.total_steps
            keep = finished or (into == 0 and self._due(config.log.checkpoint_epochs, epoch))
            if progress.step % config.log.every_steps == 0 or validate or keep:
                elapsed = time.perf_counter() - begun - aside
                self._log(folder, window, elapsed / (progress.step - first))
                window = _Window(self.device)
            pause = time.perf_counter()
            if into == 0:
                self._close_quarantine(folder, epoch)
            if validate:
                self._validate(folder, epoch)
            if keep:
                self.save(folder)
            if validate or keep or into == 0:
                window.since = time.perf_counter()
                aside += window.since - pause

    def _due(self, every: int, epoch: int) -> bool:
        return bool(every) and epoch % every == 0

    def _log(self, folder: RunFolder, window: _Window, seconds_per_step: float) -> None:
        seconds = time.perf_counter() - window.since
        parts = self.processes.gather((window.sums.tolist(), window.replaced))
        loss, correct, clips = (sum(part[0][i] for part in parts) for i in range(3))
        progress = self.progress
        progress.train_seconds += seconds
        progress.replaced += sum(part[1] for part in parts)
        if not self.processes.main:
            return
        epoch, lr = progress.step / self.steps_per_epoch, self.optimizer.param_groups[0]["lr"]
        values = {"loss": loss / clips, "top1": correct / clips, "lr": lr}
        folder.log("train", progress.step, epoch=epoch, **values, clips_per_second=clips / seconds)
        left = timedelta(seconds=round(seconds_per_step * (self.total_steps - progress.step)))
        log.info(
            "step %d/%d  epoch %.2f/%d  loss %.3f  top-1 %.1f %%  lr %.4f  %.1f clips/s  %s left",
            progress.step,
            self.total_steps,
            epoch,
            self.config.optim.epochs,
            values["loss"],
            100 * values["top1"],
            lr,
            clips / seconds,
            left,
        )

    def _close_quarantine(self, folder: RunFolder, epoch: int) -> None:
        """What any process found unreadable in this epoch, none opens in the next."""
        parts = self.processes.gather((self.quarantine.found, self.replaced_in_epoch))
        new = self.quarantine.close(found for found, _ in parts)
        replaced, self.replaced_in_epoch = sum(number for _, number in parts), 0
        if not self.processes.main or not (new or replaced):
            return
        closed = len(self.quarantine.closed)
        if new:
            self.quarantine.write(folder.path / QUARANTINE)
        folder.log("unreadable", self.progress.step, epoch=epoch, replaced=replaced, closed=closed)
        log.warning(
            "epoch %d: %d clips replaced; %d videos in quarantine, %d of them new: see %s",
            epoch,
            replaced,
            closed,
            new,
            folder.path / QUARANTINE,
        )

    def _validate(self, folder: RunFolder, epoch: int) -> None:
        """Centre clip, centre crop; the moving averages of training are left as they were."""
        with kept_statistics(self.tracking):
            found = self.test(clips=1, crops=1)
        if self.processes.main:
            values = {"loss": found.loss, "top1": found.clip_top1, "top5": found.clip_top5}
            folder.log("validate", self.progress.step, epoch=float(epoch), **values)
            log.info(
                "validation after epoch %d: loss %.3f  top-1 %.1f %%",
                epoch,
                found.loss,
                100 * found.clip_top1,
            )

    def test(self, clips: int, crops: int) -> Evaluation:
        """Average the statistics, then evaluate over clips x crops views of every test video."""
        # The clips of the epoch under way, or of the last one when the run is done.
        epoch = min(self.progress.step // self.steps_per_epoch, self.config.optim.epochs - 1)
        refresh_statistics(
            self.model,
            self.train_index,
            self.config,
            self.geometry,
            epoch,
            self.processes,
            self.quarantine,
        )
        return evaluate(
            self.model,
            self.test_index,
            self.config,
            self.processes,
            clips,
            crops,
            self.quarantine,
        )

    # Checkpoints ----------------------------------------------------------------------------

    def save(self, folder: RunFolder) -> None:
        """Write a checkpoint from which `restore` goes on exactly."""
        found: dict[str, str] = {}
        for some in reversed(self.processes.gather(self.quarantine.found)):
            found |= some
        if self.processes.main:
            state = {
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "schedule": self.schedule.state_dict(),
                "scaler": self.scaler.state_dict(),
                "progress": vars(self.progress),
                "quarantine": {"closed": self.quarantine.closed, "found": found},
                "index_hash": self.train_index.hash,
                "classes": list(self.train_index.labels),
            }
            step, keep = self.progress.step, self.config.log.keep_checkpoints
            save_checkpoint(folder.checkpoints, step, state, keep)
        self.processes.wait()

    def restore(self, folder: RunFolder) -> None:
        """Go on from the newest checkpoint of a folder, if it has one."""
        found = checkpoints(folder.checkpoints)
        if not found:
            return
        state = load_checkpoint(found[-1])
        load_weights(self.model, state, found[-1])
        if state["index_hash"] != self.train_index.hash:
            raise SnvideoError(
                f"{found[-1]} was trained on another index than {self.config.data.index}: "
                "resume with the same index, or choose another output"
            )
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.scaler.load_state_dict(state["scaler"])
        self.progress = Progress(**state["progress"])
        self.quarantine = Quarantine(state["quarantine"]["closed"])
        self.quarantine.found = state["quarantine"]["found"]
        log.info("resuming %s at step %d", folder.path, self.progress.step)


def build(config: RunConfig, classes: int) -> nn.Module:
    """The network of a config, initialised from its seed alone: the same for every norm."""
    norm, clips = config.model.norm, config.batch.clips_per_gpu
    options: dict[str, Any] = {}
    if norm.name == "sn" and clips == 1:
        log.info("one clip per GPU: SN runs without its batch part, which equals the instance part")
        options["use_batch"] = False
    elif norm.name in ("sn", "syncsn"):
        options["start"] = norm.start
    if norm.name in ("sn", "bn"):
        options["group_size"] = clips
    torch.manual_seed(config.seed)
    return build_model(config.model.name, classes, norm.name, config.model.dropout, **options)


def _refuse_lone_mixing(config: RunConfig, geometry: Geometry) -> None:
    """Clips are mixed within the experiment's groups, whatever plays them."""
    view, group = config.data.train, config.batch.clips_per_gpu
    if not view.mixup and not view.cutmix:
        return
    if group == 1:
        raise SnvideoError(
            "data.train.mixup and cutmix mix clips of one GPU, and batch.clips_per_gpu is 1: "
            "set both to 0, or give each GPU more clips"
        )
    if geometry.clips_per_gpu % group:
        raise SnvideoError(
            f"data.train.mixup and cutmix mix {group} clips (batch.clips_per_gpu), and each of "
            f"{geometry.processes} processes has {geometry.clips_per_gpu}: start fewer processes"
        )


def read_quarantine(config: RunConfig, folder: Path | None = None) -> Quarantine:
    """Videos that a run does not open: those it is given, or those it found itself in `folder`."""
    own = folder and folder / QUARANTINE
    path = own if own and own.exists() else config.data.quarantine
    return Quarantine.read(path) if path else Quarantine()
