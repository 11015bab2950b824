"""Trainer: a network, its optimizer and schedule, one optimizer step, and its state."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from snvideo.data.augmentation import mix, train_input
from snvideo.data.config import MEAN, STD
from snvideo.data.dataset import Batch
from snvideo.data.index import ClipIndex
from snvideo.data.loader import CudaPrefetcher, train_loader
from snvideo.data.quarantine import Quarantine
from snvideo.engine.batch_plan import check_mixing, check_repeats, plan_batch
from snvideo.engine.checkpoint import load_weights
from snvideo.engine.config import RunConfig, rename_keys
from snvideo.engine.distributed import World, parallelize
from snvideo.engine.dropout_masks import DropoutMasks
from snvideo.engine.evaluate import Evaluation, evaluate_views, refresh_statistics
from snvideo.engine.finite_check import FiniteCheck
from snvideo.engine.losses import activation_of, clip_losses, hits
from snvideo.engine.metrics import NOTHING, MetricSums, Progress, TrainMetrics
from snvideo.engine.optim import EMA, build_optimizer, class_weights, freeze, optimizer_tensors
from snvideo.engine.performance import (
    algorithms,
    autocast,
    choose,
    keep_freed_memory,
    memory_format,
)
from snvideo.engine.precheck import load_splits
from snvideo.engine.setup import build_network, read_quarantine, resolve_config, start_from
from snvideo.engine.step_timer import StepTimer
from snvideo.errors import SnvideoError
from snvideo.models.activation_checkpointing import enable_activation_checkpointing
from snvideo.models.pretrained import (
    Preprocessing,
    WeightsMetadata,
    WeightsSource,
    has_batch_part,
    layer_strides,
)
from snvideo.norm import kept_statistics, one_update, tracking_layers

log = logging.getLogger(__name__)


class Trainer:
    """One network on one index, trained a step at a time."""

    def __init__(
        self,
        config: RunConfig,
        world: World,
        source: WeightsSource | None = None,
        stored: RunConfig | None = None,
    ) -> None:
        """Build network, optimizer and all else at step 0; the config is resolved with those of the
        weights to start from, or of the run that is resumed."""
        config = resolve_config(config, source, world, stored)
        self.config, self.world = config, world
        self.device = world.device
        optim = config.optim
        self.splits = load_splits(config)
        self.train_index, self.val_index, self.test_index = self.splits
        self.classes = len(self.train_index.labels)
        norm, videos = config.model.norm.name, len(self.train_index)
        self.plan = plan_batch(config.batch, norm, world.size, world.rank, videos)
        check_mixing(config, self.plan)
        check_repeats(config, self.plan)
        self.steps_per_epoch = self.plan.steps(videos)
        self.total_steps = optim.total_steps(self.steps_per_epoch)
        self.speed = choose(config.speed, self.device, self.total_steps)
        if self.speed.keep_memory:
            keep_freed_memory()
        self.timer = StepTimer(self.device)
        self.model = build_network(config, self.classes)
        labels = self.train_index.labels
        self.report = source and start_from(self.model, source, config, labels, world)
        """Report on the weights that this session has started from."""
        self.started_from = self.report and self.report.summary()
        """Summary of those that the run has started from."""
        self.model.to(self.device).to(memory_format=memory_format(config.speed))
        self.frozen = freeze(self.model, optim.freeze)
        self.ema = EMA(self.model, optim.ema) if optim.ema else None
        if self.speed.activation_checkpointing:
            enable_activation_checkpointing(self.model)
        self.optimizer, self.schedule = build_optimizer(
            self.model, optim, self.plan.total_batch, self.steps_per_epoch, self.speed.optimizer
        )
        weights = class_weights(optim.class_weights, self.train_index)
        self.class_weights = weights if weights is None else weights.to(self.device)
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.speed.amp == "fp16")
        self.finite_check = FiniteCheck(
            optim.non_finite, self.device, self.train_index, scaled=self.scaler.is_enabled()
        )
        self.tracking = tracking_layers(self.model, frozen=False)
        self.masks = DropoutMasks(self.model, config.seed, self.plan.total_batch, self.device)
        self._train_mode()
        self.progress = Progress()
        self.quarantine = read_quarantine(config)
        self.metrics = TrainMetrics(self.device)
        self.replaced_in_epoch = 0  # of this process's clips
        self.averages: dict[str, Tensor] | None = None
        """Batch averages that the network as it stands is tested with, by name in its state; None
        before they are needed, and for one without statistics."""
        on_bucket = partial(self.timer.lap, "backward")
        self.network = parallelize(self.model, world, bool(self.speed.compile), on_bucket)

    @property
    def evaluated(self) -> nn.Module:
        """The network that is validated and tested."""
        return self.model if self.ema is None else self.ema.module

    def batches(self) -> Iterator[Batch]:
        """This process's batches from here to the end of the run, one a pass."""
        config, done = self.config, self.progress.step
        passes = self.plan.run(len(self.train_index), self.total_steps, done)
        batches = train_loader(
            *(self.train_index, config.data, config.seed, passes),
            quarantine=self.quarantine,
            repeated_in=self.plan.total_batch,
        )
        return CudaPrefetcher(batches, self.device) if self.speed.prefetch else batches

    def step(self, batches: Iterator[Batch]) -> None:
        """Accumulate the gradients of this process's groups and update the weights once.

        Raises SnvideoError if loss or gradient is not finite and the run is to stop.
        """
        if not self.model.training:  # since an evaluation
            self._train_mode()
        self.averages = None
        self.timer.begin()
        self.masks.draw(self.progress.step)
        passes = []
        with algorithms(self.speed, self.device), one_update(self.tracking) as statistics:
            for group in self.plan.groups():
                passes.append(self._pass(batches, group))
                statistics.collect()
            all_losses, all_correct, done = zip(*passes, strict=True)
            losses, correct = torch.cat(all_losses), torch.cat(all_correct)
            # Norm of the whole gradient before clipping, the same on all processes.
            self.scaler.unscale_(self.optimizer)
            norm = get_total_norm([p.grad for p in self.parameters if p.grad is not None])
            rows = [row for batch in done for row in batch.rows]
            accepted = self.finite_check.accepts(self.progress.step, losses, rows, norm)
            if accepted:
                replaced = sum(batch.replaced for batch in done)
                self.metrics.add(losses, correct, norm, replaced)
                self.replaced_in_epoch += replaced
                if (limit := self.config.optim.clip_norm) is not None:
                    clip_grads_with_norm_(self.parameters, limit, norm)
                self.scaler.step(self.optimizer)
            else:
                statistics.cancel()
                self.progress.skipped += 1
            self.scaler.update()
            self.optimizer.zero_grad(set_to_none=True)
        if accepted and self.ema is not None:  # with the statistics of the whole step
            self.ema.update()
        self.schedule.step()
        self.progress.step += 1
        self.timer.lap("update")

    def _pass(self, batches: Iterator[Batch], group: int) -> tuple[Tensor, Tensor, Batch]:
        """Forward and backward of the pass that begins with a group.

        Returns losses (N,), bool (N,) of correct clips, and the batch.
        """
        last = group == self.plan.groups()[-1]
        batch = next(batches)
        self.timer.lap("data")
        self.masks.give(self.plan.positions(0, group))
        parallel = self.network if isinstance(self.network, DistributedDataParallel) else None
        with nullcontext() if parallel is None or last else parallel.no_sync():
            labels = batch.labels.to(self.device, non_blocking=True)
            layout = memory_format(self.config.speed)
            inputs = train_input(batch, self.config.data, self.device, layout)
            group_size = self.config.batch.clips_per_gpu
            inputs, targets = mix(inputs, labels, batch.augmentation, self.classes, group_size)
            with autocast(self.config.speed, self.device):
                logits = self.network(inputs)
            optim = self.config.optim
            losses = clip_losses(
                *(logits.float(), targets, optim.loss),
                *(self.class_weights, optim.label_smoothing),
            )
            self.timer.lap("forward")
            self.scaler.scale(losses.mean() / self.plan.passes).backward()
        self.timer.lap("backward" if parallel is None or not last else "communication")
        epoch_ends = (self.progress.step + 1) % self.steps_per_epoch == 0
        # The next epoch's batches may be others when videos go into quarantine.
        if isinstance(batches, CudaPrefetcher) and not (last and epoch_ends):
            batches.look_ahead()
        self.timer.lap("data")
        return losses.detach(), hits(logits.detach(), labels), batch

    def _train_mode(self) -> None:
        self.model.train()
        for module in self.frozen:
            module.eval()

    @contextmanager
    def tested_network(self) -> Iterator[nn.Module]:
        """The network that is validated and tested, with batch averages for its statistics; at the
        end training's moving averages are back."""
        model, config = self.evaluated, self.config
        epoch = config.optim.epoch_under_way(self.progress.step, self.steps_per_epoch)
        with kept_statistics(tracking_layers(model)):
            if self.averages is not None:
                model.load_state_dict(self.averages, strict=False)
            else:
                with algorithms(self.speed, self.device):
                    self.averages = refresh_statistics(
                        *(model, self.train_index, config, self.plan, epoch, self.world),
                        self.quarantine,
                    )
            yield model

    def validate(self, rows: list[int]) -> Evaluation:
        """Evaluate the centre clip and crop of rows of the validation split."""
        return self._evaluate(self.val_index, 1, 1, rows)

    def test(self, clips: int, crops: int) -> Evaluation:
        """Evaluate over clips x crops views of the test split."""
        return self._evaluate(self.test_index, clips, crops)

    def _evaluate(
        self, index: ClipIndex, clips: int, crops: int, rows: list[int] | None = None
    ) -> Evaluation:
        with self.tested_network() as model, algorithms(self.speed, self.device):
            return evaluate_views(
                *(model, index, self.config, self.world, clips, crops), *(self.quarantine, rows)
            )

    def state(self) -> dict[str, Any]:
        """State of a checkpoint, the same on all processes; all call, after finite steps alone."""
        self.finite_check.wait()
        own = {
            "found": self.quarantine.found,
            "tally": tuple(self.metrics.read()),
            "replaced_in_epoch": self.replaced_in_epoch,
        }
        return {
            **self._identity(),
            "model": self.model.state_dict(),
            "ema": self.ema and self.ema.module.state_dict(),
            "averaged": self.ema and self.ema.updates,
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "quarantine": self.quarantine.closed,
            "processes": self.world.gather(own),
            "speed": self.speed.model_dump(),
            "started_from": self.started_from,
        }

    def best_state(self) -> dict[str, Any]:
        """Content of `best.pt`: the weights that are tested."""
        return {**self._identity(), "model": self.evaluated.state_dict()}

    def _identity(self) -> dict[str, Any]:
        """The part of a checkpoint that says what it is, and how it is tested."""
        averages = self.averages
        settings = self.config.statistics.model_dump(include={"kind", "batches"})
        return {
            "statistics": averages and {**settings, "tensors": averages},
            "index_hash": self.train_index.hash,
            "classes": list(self.train_index.labels),
            "progress": vars(self.progress),
            **self.metadata().to_checkpoint(),
        }

    @property
    def checkpoint_bytes(self) -> int:
        """Size of a checkpoint: weights and statistics, momenta and EMA."""
        weights = sum(tensor.nbytes for tensor in self.model.state_dict().values())
        momenta = sum(p.nbytes for p in self.parameters) * optimizer_tensors(self.config.optim)
        return weights * (2 if self.ema else 1) + momenta

    def metadata(self, results: dict[str, Any] | None = None) -> WeightsMetadata:
        """Metadata of the weights; after a test, with its results."""
        model, config, data = self.evaluated, self.config, self.config.data
        kind = "moving" if self.averages is None else config.statistics.kind
        seen = data.clip.model_dump() | data.test.model_dump(include={"short_side", "crop"})
        return WeightsMetadata(
            architecture=config.model.name,
            strides=layer_strides(model),
            norm=config.model.norm.name,
            use_batch=has_batch_part(model),
            norm_options=config.model.norm.options(config.batch.clips_per_gpu),
            activation=activation_of(config.optim),
            dropout=config.model.dropout,
            drop_path=config.model.drop_path,
            amp=config.speed.amp,
            statistics=kind if tracking_layers(model, frozen=False) else None,
            classes=tuple(self.train_index.labels),
            preprocessing=Preprocessing(mean=data.mean or MEAN, std=data.std or STD, **seen),
            started_from=self.started_from,
            results=results,
        )

    def take_metrics(self) -> MetricSums:
        """Metrics of the steps since the last call, over all processes; waits for the device."""
        sums = MetricSums.total(self.world.gather(self.metrics.read()))
        self.metrics = TrainMetrics(self.device)
        self.progress.replaced += sums.replaced
        return sums

    def close_quarantine(self) -> tuple[int, int]:
        """Quarantine from the next epoch on what any process could not read in this one.

        Returns the number of such videos, and of clips that were replaced in this epoch.
        """
        parts = self.world.gather((self.quarantine.found, self.replaced_in_epoch))
        self.replaced_in_epoch = 0
        new = self.quarantine.close(found for found, _ in parts)
        return new, sum(number for _, number in parts)

    def load_state(self, state: dict[str, Any], path: Path) -> None:
        """Go on from a checkpoint, perhaps of another number of processes.

        Raises SnvideoError if it is of another network, or was trained on another index.
        """
        if state["index_hash"] != self.train_index.hash:
            raise SnvideoError(
                f"{path} was trained on another index than {self.config.data.index}: "
                "go on with the same index, or choose another output"
            )
        load_weights(self.model, state["model"], path)
        if self.ema is not None:
            load_weights(self.ema.module, state["ema"], path)
            self.ema.updates = state["averaged"]
        if (averages := state.get("statistics")) is not None:
            self.averages = averages["tensors"]
        self._load_optimizer(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.scaler.load_state_dict(state["scaler"])
        self.progress = Progress(**state["progress"])
        self.started_from = state.get("started_from")
        self.quarantine = Quarantine(state["quarantine"])
        self._load_own(state["processes"])
        before = rename_keys({"speed": state["speed"]})["speed"]
        now = self.speed.model_dump()
        changed = [f"{k}: {before.get(k)} -> {now[k]}" for k in now if before.get(k) != now[k]]
        if changed and self.world.is_main:
            log.warning(
                f"goes on with other speed settings ({', '.join(changed)}): results are the same "
                "up to rounding only"
            )

    def _load_optimizer(self, state: dict[str, Any]) -> None:
        """Load momenta, in the memory format of their weights, which kernels rely on; the kind of
        optimizer stays that of this session."""
        kinds = [(group["fused"], group["foreach"]) for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(state)
        for group, (fused, foreach) in zip(self.optimizer.param_groups, kinds, strict=True):
            group["fused"], group["foreach"] = fused, foreach
        for parameter, kept in self.optimizer.state.items():
            for name in ("momentum_buffer", "exp_avg", "exp_avg_sq"):
                if kept.get(name) is not None:
                    formatted = torch.empty_like(parameter, requires_grad=False)
                    kept[name] = formatted.copy_(kept[name])

    def _load_own(self, parts: list[dict[str, Any]]) -> None:
        """Load each process's counts; the main one takes all if their number has changed."""
        rank, same = self.world.rank, len(parts) == self.world.size
        mine = [parts[rank]] if same else parts if rank == 0 else []
        for part in reversed(mine):
            self.quarantine.found |= part["found"]
        counted = [MetricSums(*part["tally"]) for part in mine]
        self.metrics = TrainMetrics(self.device, MetricSums.total(counted) if counted else NOTHING)
        self.replaced_in_epoch = sum(part["replaced_in_epoch"] for part in mine)
